"""How big a document may be and how much it may ask for, told before anything of it is validated or run.

What it is made of is counted with its fragments spread out, so that a small text cannot hide a big question.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    ValueNode,
    VariableNode,
)

from db import times
from graph.errors import TooComplexError

DEFINITIONS_MOST: Final = 50
VARIABLES_MOST: Final = 50
DIRECTIVES_MOST: Final = 50
DEPTH_MOST: Final = 10
FIELDS_MOST: Final = 500
ALIASES_MOST: Final = 50
ROOT_FIELDS_MOST: Final = 20
INTROSPECTION_DEPTH_MOST: Final = 20
INTROSPECTION_FIELDS_MOST: Final = 1_000
COST_MOST: Final = 500_000

PAGE_DEFAULT: Final = 100
PAGE_MOST: Final = 1_000
RANGE_MOST: Final = 50_000
"""Minutes."""
TICKERS_MOST: Final = 1_000
"""Names in an argument."""
TICKERS: Final = 200
"""Tickers counted where all are asked for: the exchange has about so many."""


@dataclass(frozen=True)
class Size:
    """What a selection is made of, its fragments spread out."""

    fields: int = 0
    aliases: int = 0
    depth: int = 0


def require_small(document: DocumentNode) -> None:
    """Raises TooComplexError where the document has more of something than one may."""
    _bound("definitions", len(document.definitions), DEFINITIONS_MOST)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    _bound("variables", sum(len(operation.variable_definitions or ()) for operation in operations), VARIABLES_MOST)
    _bound("directives", sum(_directives(node) for node in document.definitions), DIRECTIVES_MOST)
    spread = _Spread(document)
    for operation in operations:
        roots = spread.fields(operation.selection_set)
        size = spread.size(operation.selection_set)
        introspects = all(field.name.value.startswith("__") for field in roots)
        _bound("fields at its root", len(roots), ROOT_FIELDS_MOST)
        _bound("levels of fields", size.depth, INTROSPECTION_DEPTH_MOST if introspects else DEPTH_MOST)
        _bound("fields", size.fields, INTROSPECTION_FIELDS_MOST if introspects else FIELDS_MOST)
        _bound("aliases", size.aliases, ALIASES_MOST)


def cost_of(document: DocumentNode, operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> int:
    """Rows asked for, times the fields asked of each, over all fields at the root."""
    return _Cost(_Spread(document), operation, variables).of(operation.selection_set)


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


class _Spread:
    """A document's selections with fragments in their places; one that leads back to itself counts once."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        self._sizes: dict[str, Size] = {}

    def size(self, selections: SelectionSetNode | None) -> Size:
        """What the selection is made of."""
        fields = aliases = depth = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                below = self.size(node.selection_set)
                below = Size(below.fields + 1, below.aliases + (node.alias is not None), below.depth + 1)
            elif isinstance(node, InlineFragmentNode):
                below = self.size(node.selection_set)
            else:
                below = self._of_fragment(node)
            fields, aliases, depth = fields + below.fields, aliases + below.aliases, max(depth, below.depth)
        return Size(fields, aliases, depth)

    def fields(self, selections: SelectionSetNode | None, seen: frozenset[str] = frozenset()) -> list[FieldNode]:
        """The fields of the selection itself."""
        found: list[FieldNode] = []
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                found.append(node)
            elif isinstance(node, InlineFragmentNode):
                found += self.fields(node.selection_set, seen)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in seen:
                fragment = self._fragments.get(node.name.value)
                found += self.fields(fragment.selection_set if fragment else None, seen | {node.name.value})
            _bound("fields side by side", len(found), INTROSPECTION_FIELDS_MOST)
        return found

    def _of_fragment(self, node: Node) -> Size:
        name = node.name.value if isinstance(node, FragmentSpreadNode) else ""
        if name not in self._sizes:
            self._sizes[name] = Size()  # while it is being counted
            fragment = self._fragments.get(name)
            self._sizes[name] = self.size(fragment.selection_set if fragment else None)
        return self._sizes[name]


class _Cost:
    """Counts an operation's cost. Nothing is known to be valid yet, so what makes no sense costs as little as it can."""

    def __init__(self, spread: _Spread, operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> None:
        self._spread = spread
        self._variables = {
            definition.variable.name.value: _plain(definition.default_value, {})
            for definition in operation.variable_definitions or ()
            if definition.default_value is not None
        } | dict(variables)

    def of(self, selections: SelectionSetNode | None) -> int:
        """The cost of the fields at the root."""
        return sum(self._field(field) for field in self._spread.fields(selections))

    def _field(self, field: FieldNode) -> int:
        arguments = {argument.name.value: _plain(argument.value, self._variables) for argument in field.arguments or ()}
        below = max(1, self._spread.size(field.selection_set).fields)
        match field.name.value:
            case "range":
                return _minutes(arguments) * below
            case "prices":
                return _whole(arguments.get("first"), arguments.get("last")) * below
            case "tickers":
                return TICKERS * below
            case "latestPrices":
                asked = arguments.get("tickers")
                return (len(asked) if isinstance(asked, list) else TICKERS) * below
            case "coverage":
                return PAGE_DEFAULT * below
            case _:
                return below


def _minutes(arguments: Mapping[str, Any]) -> int:
    try:
        low = times.parse(arguments.get("from"))
        high = times.parse(arguments["to"]) if arguments.get("to") is not None else int(time.time())
    except ValueError:
        return 1
    return min(RANGE_MOST, max(1, (high - low) // times.MINUTE))


def _whole(*numbers: Any) -> int:
    return next((max(1, number) for number in numbers if type(number) is int), PAGE_DEFAULT)


def _plain(value: ValueNode, variables: Mapping[str, Any]) -> Any:
    match value:
        case VariableNode():
            return variables.get(value.name.value)
        case IntValueNode():
            return int(value.value) if len(value.value) < 20 else None  # noqa: PLR2004  digits of what could be meant
        case StringValueNode():
            return value.value
        case ListValueNode():
            return [None for _ in value.values]
        case _:
            return None


def _directives(node: Node) -> int:
    """Those of the node and of all below it."""
    waiting, found = [node], 0
    while waiting:
        one = waiting.pop()
        found += len(getattr(one, "directives", None) or ())
        selections = getattr(one, "selection_set", None)
        waiting += selections.selections if selections else ()
    return found
