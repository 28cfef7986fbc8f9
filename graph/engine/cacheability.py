"""Decides how long a response stays valid: permanently, until the next commit, or only for the moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import OperationDefinitionNode, OperationType

from db import times
from db.pool import Executor
from db.queries import prices
from db.queries.candles import Interval
from graph.engine.limits import MAX_RANGE_MINUTES
from graph.engine.selection import Selections, arguments_of, variables_of


@dataclass(frozen=True)
class TickerWindow:
    """The minutes of a ticker that begin in [low, high), UNIX seconds."""

    ticker: str
    low: int
    high: int


def depends_only_on_stored_data(
    selections: Selections, operation: OperationDefinitionNode, raw_variables: Mapping[str, Any], now: float
) -> bool:
    """Returns whether the operation is a query whose response cannot change without a commit.

    A window without an end qualifies, because no future minute is stored. A candle qualifies only once it is closed.
    """
    if operation.operation is not OperationType.QUERY:
        return False
    if is_repeatable(selections, operation, raw_variables):
        return True
    variables = variables_of(operation, raw_variables)
    return not any(
        rules.changes_with_clock is not None and rules.changes_with_clock(arguments_of(field, variables), now)
        for field, rules in selections.clock_fields(operation)
    )


def is_repeatable(selections: Selections, operation: OperationDefinitionNode, raw_variables: Mapping[str, Any]) -> bool:
    """Returns whether the response to a query never changes, because each of its root fields is read `asOf` a data version."""
    variables = variables_of(operation, raw_variables)
    fields = [field for field in selections.fields(operation.selection_set) if field.name.value != "__typename"]
    return bool(fields) and all(arguments_of(field, variables).get("asOf") is not None for field in fields)


def is_secret(selections: Selections, operation: OperationDefinitionNode) -> bool:
    """Returns whether a root field of the operation is only for those who send the admin token."""
    root = selections.rules.root_type(operation.operation)
    fields = selections.fields(operation.selection_set)
    return any(selections.rules.find(root, field.name.value)[0].is_secret for field in fields)


def has_open_candles(arguments: Mapping[str, Any], now: float) -> bool:
    """Returns whether a candle from `from` to `to` may be open (estimated). True also for missing or invalid arguments."""
    interval = Interval.__members__.get(str(arguments.get("interval")))
    try:
        # Where clocks change, a candle may be longer.
        return interval is None or times.parse(arguments.get("to")) + interval.value.seconds + times.DAY > times.minute_of(now)
    except ValueError:
        return True


def past_windows(
    selections: Selections, operation: OperationDefinitionNode, raw_variables: Mapping[str, Any], now: float
) -> list[TickerWindow]:
    """Returns the windows of the operation if it selects only prices, which never change, and all windows are over.

    Otherwise returns an empty list.
    """
    if selections.has_replaceable_fields(operation):
        return []
    variables = variables_of(operation, raw_variables)
    root = selections.rules.root_type(operation.operation)
    found = [
        _parse_window(arguments_of(field, variables)) if selections.rules.find(root, field.name.value)[0].reads_window else None
        for field in selections.fields(operation.selection_set)
    ]
    windows = [window for window in found if window is not None and window.high <= times.minute_of(now)]
    return windows if len(windows) == len(found) else []


async def are_fully_stored(db: Executor, windows: list[TickerWindow]) -> bool:
    """Returns whether every minute of the windows is stored. Their response then never changes, because prices are immutable.

    Windows with more than MAX_RANGE_MINUTES minutes in total are not counted and are treated as incomplete.
    """
    if sum(window.high - window.low for window in windows) > MAX_RANGE_MINUTES * times.MINUTE:
        return False
    for window in windows:
        if await prices.count_in(db, window.ticker, window.low, window.high) < (window.high - window.low) // times.MINUTE:
            return False
    return True


def _parse_window(arguments: Mapping[str, Any]) -> TickerWindow | None:
    if not isinstance(arguments.get("ticker"), str):
        return None
    try:
        low, high = (-(-times.parse(arguments.get(end)) // times.MINUTE) * times.MINUTE for end in ("from", "to"))
    except ValueError:
        return None
    return TickerWindow(arguments["ticker"], low, high) if low < high else None
