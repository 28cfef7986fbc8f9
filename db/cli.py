"""What all verbs have in common: how one ends, and what `check` says."""

import logging
import os
import sys
from collections.abc import Callable

from db.errors import DatabaseError, ServerError
from db.settings import Settings, without_password

INTERRUPTED = 130


def run(main: Callable[[], int]) -> int:
    """Runs a verb and returns its exit status. What nobody thought of is one line on standard error, not a traceback."""
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        known = isinstance(error, DatabaseError | ServerError)
        said = " ".join(without_password(str(error)).split()) or type(error).__name__
        where = "" if known else f" ({type(error).__name__}; LOG_LEVEL=DEBUG shows where)"
        sys.stderr.write(f"{said}{where}\n")
        return 1


def tell(settings: Settings) -> int:
    """For `check`: says what is set and does nothing, and what cannot work; 1 where something cannot."""
    problems = settings.problems()
    for line in settings.notes() + problems:
        sys.stderr.write(f"{line}\n")
    return 1 if problems else 0
