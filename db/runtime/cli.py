"""Exit handling and the settings report that all command-line verbs share."""

import logging
import os
import sys
from collections.abc import Callable

from db.errors import CommandLineError, DatabaseError
from db.settings import Settings, mask_password

INTERRUPTED = 130


def run(main: Callable[[], int]) -> int:
    """Runs a verb and returns its exit status. Writes an error to standard error as one line; raises it at LOG_LEVEL=DEBUG."""
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        is_expected = isinstance(error, DatabaseError | CommandLineError)
        message = " ".join(mask_password(str(error)).split()) or type(error).__name__
        hint = "" if is_expected else f" ({type(error).__name__}; set LOG_LEVEL=DEBUG for a traceback)"
        sys.stderr.write(f"{message}{hint}\n")
        return 1


def report_settings(settings: Settings) -> int:
    """Writes the notes and problems of the settings to standard error. Returns 1 if there is a problem, otherwise 0."""
    problems = settings.problems()
    for line in settings.notes() + problems:
        sys.stderr.write(f"{line}\n")
    return 1 if problems else 0
