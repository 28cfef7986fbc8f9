"""What several verbs share."""

import sys
from typing import Final

from rich.console import Console

from db import times
from db.runtime import embedded_lookup
from ingest.settings import Settings

PIPE_WIDTH: Final = 1_000
"""Characters per line for a pipe or a file."""


def console() -> Console:
    """Returns the console. Lines for a pipe or a file are not truncated."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def use_demo_exchange(settings: Settings) -> Settings:
    """Returns the settings, with the demo's simulated exchange if the verb also uses the database of a running demo."""
    exchange = embedded_lookup.demo_exchange_url(settings)
    return settings if exchange is None else settings.model_copy(update={"deribit_rpc_url": exchange})


def parse_minute(text: str) -> int:
    """Parses UNIX seconds or ISO 8601 and returns the minute. Raises ValueError."""
    return times.minute_of(times.parse(text))
