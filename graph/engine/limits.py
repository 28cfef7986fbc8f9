"""How big a document may be and how much it may ask for, told before anything of it is validated or run."""

import time
from collections.abc import Mapping
from typing import Any, Final

from graphql import DocumentNode, ExecutableDefinitionNode, OperationDefinitionNode, SelectionSetNode

from db import times
from db.queries.candles import Interval
from graph.engine.selection import Selections, arguments_of, directives_below, variables_of
from graph.errors import TooComplexError

DEFINITIONS_MOST: Final = 50
VARIABLES_MOST: Final = 50
DIRECTIVES_MOST: Final = 50
DEPTH_MOST: Final = 10
FIELDS_MOST: Final = 500
ALIASES_MOST: Final = 50
ALIAS_LENGTH_MOST: Final = 100
"""Characters: an alias stands in each row of its answer."""
ROOT_FIELDS_MOST: Final = 20
PAIRS_MOST: Final = 10_000
"""Pairs of fields with one response key in a selection: validation compares each with each."""
INTROSPECTION_DEPTH_MOST: Final = 20
INTROSPECTION_FIELDS_MOST: Final = 1_000
COST_MOST: Final = 500_000

PAGE_DEFAULT: Final = 100
PAGE_MOST: Final = 1_000
RANGE_MOST: Final = 50_000
"""Minutes."""
CANDLES_MOST: Final = 10_000
TICKERS_MOST: Final = 1_000
"""Names in an argument."""
TICKERS: Final = 200
"""Tickers counted where all are asked for: the exchange has about so many."""
SUMMARY: Final = 10_000
"""Rows counted for what a window comes to, which is made of its hours."""
COVERAGE: Final = 25_000
"""Rows counted for telling how complete a window is: its minutes are counted, whatever is selected."""


def require_small(document: DocumentNode, selections: Selections) -> int:
    """Raises TooComplexError where the document has more of something than one may.

    Returns how many pairs of fields validation has to compare, for they stand under one response key.
    """
    _bound("definitions", len(document.definitions), DEFINITIONS_MOST)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    _bound("variables", sum(len(operation.variable_definitions or ()) for operation in operations), VARIABLES_MOST)
    _bound("directives", sum(directives_below(node) for node in document.definitions), DIRECTIVES_MOST)
    for definition in document.definitions:
        # Fragments too, whether an operation spreads them or not: validation looks at them all.
        if isinstance(definition, ExecutableDefinitionNode):
            _require_small(definition.selection_set, selections, is_operation=isinstance(definition, OperationDefinitionNode))
    # Only now, for what is counted here is as long as the fields counted above.
    pairs = sum(
        selections.pairs([definition.selection_set])
        for definition in document.definitions
        if isinstance(definition, ExecutableDefinitionNode)
    )
    _bound("pairs of fields under the same name", pairs, PAIRS_MOST)
    return pairs


def _require_small(selection: SelectionSetNode, selections: Selections, *, is_operation: bool) -> None:
    roots = selections.fields(selection)
    size = selections.size(selection)
    introspects = not is_operation or all(field.name.value.startswith("__") for field in roots)
    if is_operation:
        _bound("fields at its root", len(roots), ROOT_FIELDS_MOST)
    _bound("levels of fields", size.depth, INTROSPECTION_DEPTH_MOST if introspects else DEPTH_MOST)
    _bound("fields", size.fields, INTROSPECTION_FIELDS_MOST if introspects else FIELDS_MOST)
    _bound("aliases", size.aliases, ALIASES_MOST)
    _bound("characters in an alias", size.longest, ALIAS_LENGTH_MOST)


def cost_of(selections: Selections, operation: OperationDefinitionNode, sent: Mapping[str, Any]) -> int:
    """Rows asked for, times the fields asked of each, over everything selected. What makes no sense costs little."""
    return _cost_below(selections, operation.selection_set, variables_of(operation, sent), 1)


def _cost_below(selections: Selections, below: SelectionSetNode | None, variables: Mapping[str, Any], page: int) -> int:
    """`page` is how many rows the list holds whose parts these are."""
    cost = 0
    for field in selections.fields(below):
        arguments = arguments_of(field, variables)
        size = _whole(arguments.get("first"), arguments.get("last"))
        each = _cost_below(selections, field.selection_set, variables, size) if field.selection_set else 1
        match field.name.value:
            case "range" | "series":
                cost += _minutes(arguments) * each
            case "candles":
                count, minutes = _candles(arguments)
                cost += count * each + minutes
            case "summary":
                cost += SUMMARY + each
            case "tickers":
                cost += TICKERS * each
            case "latestPrices":
                asked = arguments.get("tickers")
                cost += (len(asked) if isinstance(asked, list) else TICKERS) * each
            case "nodes" | "edges":
                cost += page * each
            case "coverage":
                cost += COVERAGE + each
            case _:
                cost += each
    return cost


def require_cheap(cost: int) -> None:
    """Raises TooComplexError where it costs more than a request may."""
    if cost > COST_MOST:
        raise TooComplexError(
            f"This costs {cost}, rows times fields, and a request may cost {COST_MOST}: ask for a shorter window, fewer fields "
            "or a smaller page, or send several requests",
            cost=cost,
            most=COST_MOST,
        )


def _bound(what: str, found: int, most: int) -> None:
    if found > most:
        raise TooComplexError(f"The document has {found} {what}, and one may have {most}: ask for less at once")


def _candles(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """How many they are, and how many minutes have to be read for them: those of an hour and more are kept ready."""
    interval = Interval.__members__.get(str(arguments.get("interval")))
    if interval is None:
        return 1, 0
    span = interval.value
    minutes = _minutes(arguments, CANDLES_MOST * span.seconds // times.MINUTE)
    return max(1, minutes * times.MINUTE // span.seconds), minutes if span.base == times.MINUTE else 0


def _minutes(arguments: Mapping[str, Any], most: int = RANGE_MOST) -> int:
    try:
        low = times.parse(arguments.get("from"))
        high = times.parse(arguments["to"]) if arguments.get("to") is not None else int(time.time())
    except ValueError:
        return 1
    return min(most, max(1, (high - low) // times.MINUTE))


def _whole(*numbers: Any) -> int:
    """The first that is a whole number, as GraphQL's Int has it: `10.0` is one."""
    return next((max(1, int(one)) for one in numbers if isinstance(one, int | float) and one == one // 1), PAGE_DEFAULT)
