"""How long an answer stays true: for ever, until the next commit, or as long as the clock stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import FieldNode, OperationDefinitionNode, OperationType

from db import times
from db.pool import Executor
from db.queries import prices
from db.queries.candles import Interval
from graph.engine.limits import RANGE_MOST
from graph.engine.selection import Selections, arguments_of, variables_of

CLOCK: Final = frozenset({"ageS", "stale", "coverage"})
"""Fields that say something else a moment later although nothing was stored."""


@dataclass(frozen=True)
class Window:
    """The minutes of a ticker that begin in [low, high), UNIX seconds."""

    ticker: str
    low: int
    high: int


def is_only_of_what_is_stored(
    selections: Selections, operation: OperationDefinitionNode, sent: Mapping[str, Any], now: float
) -> bool:
    """Whether the operation is a query whose answer cannot change without a commit.

    An open end of a window needs no clock, for nothing is stored of minutes that have not begun; but a candle closes with it.
    """
    if operation.operation is not OperationType.QUERY or CLOCK & selections.size(operation.selection_set).names:
        return False
    variables = variables_of(operation, sent)
    asked = [field for field in selections.fields(operation.selection_set) if field.name.value == "candles"]
    return all(_are_closed(arguments_of(field, variables), now) for field in asked)


def _are_closed(arguments: Mapping[str, Any], now: float) -> bool:
    interval = Interval.__members__.get(str(arguments.get("interval")))
    try:
        return interval is not None and times.parse(arguments.get("to")) + interval.value.seconds <= times.minute_of(now)
    except ValueError:
        return False


def past_windows(
    selections: Selections, operation: OperationDefinitionNode, sent: Mapping[str, Any], now: float
) -> list[Window]:
    """The windows that the answer holds prices of, where it holds nothing else and all of them are over; else none."""
    variables = variables_of(operation, sent)
    found = [_window(field, arguments_of(field, variables)) for field in selections.fields(operation.selection_set)]
    windows = [window for window in found if window is not None and window.high <= times.minute_of(now)]
    return windows if len(windows) == len(found) else []


async def all_stored(db: Executor, windows: list[Window]) -> bool:
    """Whether every minute of the windows is stored: such an answer never changes, for what is stored stays as it came.

    Windows too long to count for that are taken for incomplete.
    """
    if sum(window.high - window.low for window in windows) > RANGE_MOST * times.MINUTE:
        return False
    for window in windows:
        if await prices.count_in(db, window.ticker, window.low, window.high) < (window.high - window.low) // times.MINUTE:
            return False
    return True


def _window(field: FieldNode, arguments: Mapping[str, Any]) -> Window | None:
    if field.name.value not in ("range", "prices") or not isinstance(arguments.get("ticker"), str):
        return None
    try:
        low, high = (-(-times.parse(arguments.get(end)) // times.MINUTE) * times.MINUTE for end in ("from", "to"))
    except ValueError:
        return None
    return Window(arguments["ticker"], low, high) if low < high else None
