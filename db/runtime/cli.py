"""Command lines. The code of a verb is imported only when the verb runs, so `--help` is fast and needs no installed package."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from db.connection_url import mask_password
from db.errors import CommandLineError, DatabaseError, DatabaseUnavailableError, UsageError

INTERRUPTED: Final = 130


class CommandLine:
    """The verbs of `python -m PACKAGE`."""

    def __init__(self, package: str, description: str | None, examples: str) -> None:
        self._package = package
        self._parser = argparse.ArgumentParser(
            prog=f"python -m {package}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._verbs = self._parser.add_subparsers(dest="verb", required=True)

    def add(self, name: str, function: str, help_text: str, example: str) -> argparse.ArgumentParser:
        """Adds a verb and returns its parser. `example` is the text after `python -m PACKAGE`.

        `function` is written as `module:name`. It receives the options and returns the exit status.
        """
        parser: argparse.ArgumentParser = self._verbs.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"example:\n  python -m {self._package} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(function=function)
        return parser

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs one verb and returns its exit status. An error is written to standard error as one line."""
        options = self._parser.parse_args(arguments)
        try:
            status: int = _resolve(options.function)(options)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # the reader closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except ModuleNotFoundError as error:
            sys.stderr.write(
                f"{error.name} is not installed. Run `make up` once, and `. .venv/bin/activate` in this terminal\n"
            )
            return 1
        except Exception as error:
            if logging.getLogger().isEnabledFor(logging.DEBUG):
                raise
            is_expected = isinstance(error, DatabaseError | CommandLineError)
            message = " ".join(mask_password(str(error)).split()) or type(error).__name__
            if isinstance(error, DatabaseUnavailableError):
                message = f"The database is unavailable: {message}"
            hint = "" if is_expected else f" ({type(error).__name__}; set LOG_LEVEL=DEBUG for a traceback)"
            sys.stderr.write(f"{message}{hint}\n")
            return 2 if isinstance(error, UsageError) else 1
        return status


def argument(function: str) -> Callable[[str], Any]:
    """Returns an argument type that calls `module:name`. Its ValueError is the message for an invalid argument."""

    def parse(text: str) -> Any:
        try:
            return _resolve(function)(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _resolve(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
