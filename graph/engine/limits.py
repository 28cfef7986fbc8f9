"""How big a document may be and how much it may ask for, told before anything of it is validated or run."""

import time
from collections.abc import Mapping
from typing import Any, Final

from graphql import DocumentNode, FieldNode, OperationDefinitionNode

from db import times
from graph.engine.selection import SIDE_BY_SIDE_MOST, Selections, arguments_of, directives_below, variables_of
from graph.errors import TooComplexError

DEFINITIONS_MOST: Final = 50
VARIABLES_MOST: Final = 50
DIRECTIVES_MOST: Final = 50
DEPTH_MOST: Final = 10
FIELDS_MOST: Final = 500
ALIASES_MOST: Final = 50
ROOT_FIELDS_MOST: Final = 20
INTROSPECTION_DEPTH_MOST: Final = 20
INTROSPECTION_FIELDS_MOST: Final = SIDE_BY_SIDE_MOST
COST_MOST: Final = 500_000

PAGE_DEFAULT: Final = 100
PAGE_MOST: Final = 1_000
RANGE_MOST: Final = 50_000
"""Minutes."""
TICKERS_MOST: Final = 1_000
"""Names in an argument."""
TICKERS: Final = 200
"""Tickers counted where all are asked for: the exchange has about so many."""


def require_small(document: DocumentNode, selections: Selections) -> None:
    """Raises TooComplexError where the document has more of something than one may."""
    _bound("definitions", len(document.definitions), DEFINITIONS_MOST)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    _bound("variables", sum(len(operation.variable_definitions or ()) for operation in operations), VARIABLES_MOST)
    _bound("directives", sum(directives_below(node) for node in document.definitions), DIRECTIVES_MOST)
    for operation in operations:
        roots = selections.fields(operation.selection_set)
        size = selections.size(operation.selection_set)
        introspects = all(field.name.value.startswith("__") for field in roots)
        _bound("fields at its root", len(roots), ROOT_FIELDS_MOST)
        _bound("levels of fields", size.depth, INTROSPECTION_DEPTH_MOST if introspects else DEPTH_MOST)
        _bound("fields", size.fields, INTROSPECTION_FIELDS_MOST if introspects else FIELDS_MOST)
        _bound("aliases", size.aliases, ALIASES_MOST)


def cost_of(selections: Selections, operation: OperationDefinitionNode, sent: Mapping[str, Any]) -> int:
    """Rows asked for, times the fields asked of each, over all fields at the root. What makes no sense costs little."""
    variables = variables_of(operation, sent)
    return sum(
        _rows(field, arguments_of(field, variables)) * max(1, selections.size(field.selection_set).fields)
        for field in selections.fields(operation.selection_set)
    )


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


def _rows(field: FieldNode, arguments: Mapping[str, Any]) -> int:
    match field.name.value:
        case "range":
            return _minutes(arguments)
        case "prices":
            return _whole(arguments.get("first"), arguments.get("last"))
        case "tickers":
            return TICKERS
        case "latestPrices":
            asked = arguments.get("tickers")
            return len(asked) if isinstance(asked, list) else TICKERS
        case "coverage":
            return PAGE_DEFAULT
        case _:
            return 1


def _minutes(arguments: Mapping[str, Any]) -> int:
    try:
        low = times.parse(arguments.get("from"))
        high = times.parse(arguments["to"]) if arguments.get("to") is not None else int(time.time())
    except ValueError:
        return 1
    return min(RANGE_MOST, max(1, (high - low) // times.MINUTE))


def _whole(*numbers: Any) -> int:
    return next((max(1, number) for number in numbers if type(number) is int), PAGE_DEFAULT)
