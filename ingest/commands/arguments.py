"""Argument types that several verbs share, and the function that adds a verb."""

import argparse
import sys
from collections.abc import Callable
from typing import Final

from rich.console import Console

from db import times
from db.runtime import embedded_lookup
from ingest.settings import Settings, parse_index_name

PIPE_WIDTH: Final = 1_000
"""Characters per line for a pipe or a file."""

Verbs = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it


def add_verb(
    verbs: "Verbs[argparse.ArgumentParser]", name: str, run: Callable[[argparse.Namespace], int], help_text: str, example: str
) -> argparse.ArgumentParser:
    """Adds a verb. `run` returns the exit status; `example` is the text after `python -m ingest`."""
    parser = verbs.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=f"example:\n  python -m ingest {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def console() -> Console:
    """Returns the console. Lines for a pipe or a file are not truncated."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def use_demo_exchange(settings: Settings) -> Settings:
    """Returns the settings, with the demo's simulated exchange if the verb also uses the database of a running demo."""
    exchange = embedded_lookup.demo_exchange_url(settings)
    return settings if exchange is None else settings.model_copy(update={"deribit_rpc_url": exchange})


def ticker(text: str) -> str:
    """Parses an index name."""
    try:
        return parse_index_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_instant(text: str) -> int:
    """Parses UNIX seconds or ISO 8601."""
    try:
        return times.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def minute(text: str) -> int:
    """Parses an instant and returns its minute."""
    return times.minute_of(parse_instant(text))
