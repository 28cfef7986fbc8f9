"""Limits on the size and the cost of a document, checked before validation and execution."""

import time
from collections.abc import Mapping
from typing import Any, Final

from graphql import DocumentNode, ExecutableDefinitionNode, OperationDefinitionNode, SelectionSetNode

from db import times
from db.queries.candles import Interval
from graph.engine.field_rules import Arguments, Cost
from graph.engine.selection import Selections, arguments_of, count_directives, variables_of
from graph.errors import TooComplexError

MAX_DEFINITIONS: Final = 50
MAX_VARIABLES: Final = 50
MAX_DIRECTIVES: Final = 50
MAX_DEPTH: Final = 10
MAX_FIELDS: Final = 500
MAX_ALIASES: Final = 50
MAX_ALIAS_LENGTH: Final = 100
"""Characters. Each row of the response repeats its aliases."""
MAX_ROOT_FIELDS: Final = 20
MAX_FIELD_PAIRS: Final = 10_000
"""Pairs of fields with the same response key in a selection. Validation compares each pair."""
MAX_INTROSPECTION_DEPTH: Final = 20
MAX_INTROSPECTION_FIELDS: Final = 1_000
MAX_COST: Final = 500_000

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1_000
MAX_RANGE_MINUTES: Final = 50_000
MAX_CANDLES: Final = 10_000
MIN_POINTS: Final = 4
MAX_POINTS: Final = 10_000
"""Prices to which a series may be thinned."""
MAX_INSTANTS: Final = 10_000
"""Instants in one argument."""
MAX_TICKERS: Final = 1_000
"""Ticker names in one argument."""
ASSUMED_TICKER_COUNT: Final = 200
"""Assumed number of tickers in a query for all tickers. The exchange has about as many."""
ASSUMED_DAY_COUNT: Final = 1_000
"""Assumed number of days of a window."""
ASSUMED_ALERT_COUNT: Final = 100
SUMMARY_COST: Final = 10_000
"""Rows assumed for the aggregates of a window, which are computed from its hourly candles."""
MAX_TOUCH_MINUTES: Final = 366 * 1_440
MINUTES_PER_SCAN_COST: Final = 20
"""Minutes that are scanned for a cost of one row."""
SPLIT_MINUTES_PER_COST: Final = 5
"""Minutes of single hours that are read for a cost of one row."""
COVERAGE_COST: Final = 25_000
"""Rows assumed for the coverage of a window. Its minutes are counted, whatever is selected."""


def check_document_size(document: DocumentNode, selections: Selections) -> int:
    """Raises TooComplexError if the document exceeds a size limit.

    Returns the number of field pairs with the same response key, which validation compares.
    """
    _check_limit("definitions", len(document.definitions), MAX_DEFINITIONS)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    _check_limit("variables", sum(len(operation.variable_definitions or ()) for operation in operations), MAX_VARIABLES)
    _check_limit("directives", sum(count_directives(node) for node in document.definitions), MAX_DIRECTIVES)
    for definition in document.definitions:
        # Includes fragments that no operation spreads, because validation visits all of them.
        if isinstance(definition, ExecutableDefinitionNode):
            _check_selection_size(
                definition.selection_set, selections, is_operation=isinstance(definition, OperationDefinitionNode)
            )
    # Counted after the checks above, which bound the number of fields to compare.
    pairs = sum(
        selections.count_pairs([definition.selection_set])
        for definition in document.definitions
        if isinstance(definition, ExecutableDefinitionNode)
    )
    _check_limit("pairs of fields with the same response key", pairs, MAX_FIELD_PAIRS)
    return pairs


def _check_selection_size(selection: SelectionSetNode, selections: Selections, *, is_operation: bool) -> None:
    roots = selections.fields(selection)
    size = selections.size(selection)
    # A fragment gets the larger limits, because introspection uses fragments. Its fields also count in its operation.
    may_be_introspection = not is_operation or all(field.name.value.startswith("__") for field in roots)
    if is_operation:
        _check_limit("root fields", len(roots), MAX_ROOT_FIELDS)
    _check_limit("levels of fields", size.depth, MAX_INTROSPECTION_DEPTH if may_be_introspection else MAX_DEPTH)
    _check_limit("fields", size.fields, MAX_INTROSPECTION_FIELDS if may_be_introspection else MAX_FIELDS)
    _check_limit("aliases", size.aliases, MAX_ALIASES)
    _check_limit("characters in an alias", size.longest_alias, MAX_ALIAS_LENGTH)


def estimate_cost(
    selections: Selections,
    operation: OperationDefinitionNode,
    raw_variables: Mapping[str, Any],
    *,
    reads_snapshot: bool = False,
) -> int:
    """Estimates the cost of an operation: requested rows times selected fields. Invalid arguments cost little.

    `reads_snapshot`: the operation is read as of a data version, as if all its fields had `asOf`.
    """
    root = selections.rules.root_type(operation.operation)
    variables = variables_of(operation, raw_variables)
    defaults = {"asOf": ""} if reads_snapshot else {}
    return _estimate_selection_cost(selections, operation.selection_set, root, variables, 1, defaults)


def _estimate_selection_cost(
    selections: Selections,
    selection_set: SelectionSetNode,
    type_name: str,
    variables: Mapping[str, Any],
    page_size: int,
    defaults: Arguments,
) -> int:
    cost = 0
    for field in selections.fields(selection_set):
        rules, child_type = selections.rules.find(type_name, field.name.value)
        arguments = {**defaults, **arguments_of(field, variables)}
        size = _first_integer(arguments.get("first"), arguments.get("last"))
        row_cost = (
            _estimate_selection_cost(selections, field.selection_set, child_type, variables, size, {})
            if field.selection_set
            else 1
        )
        cost += rules.cost(arguments, row_cost, page_size)
    return cost


def cost_of_minutes(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of a list of the minutes from `from` to `to`."""
    return _count_minutes(arguments) * row_cost


def cost_of_series(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of the minutes from `from` to `to`, or of at most `maxPoints` of them and the hours that are read."""
    points = arguments.get("maxPoints")
    if not isinstance(points, int | float):
        return _count_minutes(arguments) * row_cost
    minutes, most = _count_minutes(arguments, times.END // times.MINUTE), min(MAX_POINTS, max(1, int(points)))
    return min(minutes, most) * row_cost + max(cost_of_calendar(most, minutes), _snapshot_cost(arguments))


def cost_of_candles(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of the candles of an `interval` from `from` to `to`, and of the minutes that are read for them."""
    count, minutes = _count_candles(arguments)
    in_calendar = any(arguments.get(name) is not None for name in ("timeZone", "weekStart", "dayStart"))
    calendar_cost = cost_of_calendar(count, _count_minutes(arguments, times.END // times.MINUTE)) if in_calendar else 0
    return count * row_cost + max(minutes, calendar_cost, _snapshot_cost(arguments))


def cost_of_calendar(candle_count: int, minutes: int) -> int:
    """Returns the cost of the hours of a window of `minutes`, and of the minutes of each hour in which a candle starts."""
    hour_minutes = times.HOUR // times.MINUTE
    return minutes // hour_minutes // MINUTES_PER_SCAN_COST + candle_count * hour_minutes // SPLIT_MINUTES_PER_COST


def cost_of_days(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of a row for each day from `from` to `to`."""
    minutes = _count_minutes(arguments, MAX_CANDLES * times.DAY // times.MINUTE)
    return max(1, minutes * times.MINUTE // times.DAY) * row_cost


def cost_of_alerts(_arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of the list of all alerts."""
    return ASSUMED_ALERT_COUNT * row_cost


def cost_of_first(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of the `first` rows of a list."""
    return _first_integer(arguments.get("first")) * row_cost


def cost_of_list(argument: str, otherwise: int = 1) -> Cost:
    """Returns the cost of a row for each element of a list argument. `otherwise` rows are assumed if it is not a list."""

    def cost(arguments: Arguments, row_cost: int, _page_size: int) -> int:
        found = arguments.get(argument)
        return (len(found) if isinstance(found, list) else otherwise) * row_cost

    return cost


cost_of_tickers: Final = cost_of_list("tickers", ASSUMED_TICKER_COUNT)
"""Returns the cost of a list of the `tickers`, or of all tickers."""


def cost_of_touch(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of scanning the minutes from `from` to `to` by index. A minute is much cheaper than a row of a list."""
    return row_cost + _count_minutes(arguments, MAX_TOUCH_MINUTES) // MINUTES_PER_SCAN_COST


def cost_of_page(_arguments: Arguments, row_cost: int, page_size: int) -> int:
    """Returns the cost of the list of a connection. The arguments `first` and `last` belong to the enclosing field."""
    return page_size * row_cost


def cost_of_summary(arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of aggregates of a window."""
    return SUMMARY_COST + row_cost + _snapshot_cost(arguments)


def cost_of_coverage(_arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of the coverage of a window."""
    return COVERAGE_COST + row_cost


def cost_of_coverage_days(_arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of the days of a window: its minutes are counted once more, and several years of days are returned."""
    return COVERAGE_COST + ASSUMED_DAY_COUNT * row_cost


def check_cost(cost: int) -> None:
    """Raises TooComplexError if the cost exceeds MAX_COST."""
    if cost > MAX_COST:
        raise TooComplexError(
            f"The query costs {cost} (rows times fields); the maximum is {MAX_COST}. Request a shorter window, fewer fields "
            "or a smaller page, or send several requests.",
            cost=cost,
            most=MAX_COST,
        )


def _check_limit(subject: str, count: int, maximum: int) -> None:
    if count > maximum:
        raise TooComplexError(f"The document has {count} {subject}; the maximum is {maximum}. Split it into several requests.")


def _count_candles(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the number of candles, and the number of minutes to read for them.

    Candles of one hour or longer are precomputed, so no minutes are read for them.
    """
    interval = Interval.__members__.get(str(arguments.get("interval")))
    if interval is None:
        return 1, 0
    span = interval.value
    minutes = _count_minutes(arguments, MAX_CANDLES * span.seconds // times.MINUTE)
    return max(1, minutes * times.MINUTE // span.seconds), minutes if span.base == times.MINUTE else 0


def _snapshot_cost(arguments: Arguments) -> int:
    """Returns the cost of computing candles `asOf` an earlier data version from all minutes of the window."""
    if arguments.get("asOf") is None:
        return 0
    return _count_minutes(arguments, times.END // times.MINUTE) // MINUTES_PER_SCAN_COST


def _count_minutes(arguments: Mapping[str, Any], maximum: int = MAX_RANGE_MINUTES) -> int:
    try:
        low = times.parse(arguments.get("from"))
        high = times.parse(arguments["to"]) if arguments.get("to") is not None else int(time.time())
    except ValueError:
        return 1
    return min(maximum, max(1, (high - low) // times.MINUTE))


def _first_integer(*numbers: Any) -> int:
    """Returns the first integer, raised to at least 1, or else the default page size. As in GraphQL, `10.0` is an integer."""
    return next((max(1, int(one)) for one in numbers if isinstance(one, int | float) and one == one // 1), DEFAULT_PAGE_SIZE)
