"""Arguments that several verbs take, checked; and what a verb is."""

import argparse
import sys
from collections.abc import Callable
from typing import Final

from rich.console import Console

from db import running, times
from ingest.settings import Settings, index_name

UNCUT: Final = 1_000
"""Characters."""

Verbs = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it


def verb(
    verbs: "Verbs[argparse.ArgumentParser]", name: str, run: Callable[[argparse.Namespace], int], what: str, example: str
) -> argparse.ArgumentParser:
    """A verb that `run` runs, giving the exit status; `example` is what stands after `python -m ingest`."""
    parser = verbs.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  python -m ingest {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def console() -> Console:
    """The terminal; for a pipe or a file nothing is cut."""
    return Console(width=None if sys.stdout.isatty() else UNCUT)


def beside_what_runs(settings: Settings) -> Settings:
    """The settings of a verb beside a demo: simulated prices come from the demo's exchange, for its database is used, too."""
    exchange = running.demo_exchange(settings)
    return settings if exchange is None else settings.model_copy(update={"deribit_rpc_url": exchange})


def ticker(text: str) -> str:
    """An index name."""
    try:
        return index_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def instant(text: str) -> int:
    """UNIX seconds or ISO 8601."""
    try:
        return times.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def minute(text: str) -> int:
    """The minute that an instant lies in."""
    return times.minute_of(instant(text))
