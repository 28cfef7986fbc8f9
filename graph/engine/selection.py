"""What a document selects, with its fragments in their places, so that a small text cannot hide a big question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    EnumValueNode,
    FieldNode,
    FloatValueNode,
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


@dataclass(frozen=True)
class Size:
    """What a selection is made of."""

    fields: int = 0
    aliases: int = 0
    depth: int = 0
    longest: int = 0
    """Characters of the longest alias."""
    names: frozenset[str] = field(default_factory=frozenset)
    """Of all its fields, at whatever level."""


class Selections:
    """A document's selections; a fragment that leads back to itself counts once. Nothing is known to be valid yet."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        self._sizes: dict[str, Size] = {}
        # By the identity of the document's nodes, which live as long as this. A document is asked about by each request.
        self._size_of: dict[int, Size] = {}
        self._fields_of: dict[int, tuple[FieldNode, ...]] = {}

    def size(self, selections: SelectionSetNode | None) -> Size:
        """What the selection is made of."""
        known = self._size_of.get(id(selections))
        if known is None:
            known = self._size_of[id(selections)] = self._size(selections)
        return known

    def fields(self, selections: SelectionSetNode | None) -> tuple[FieldNode, ...]:
        """The fields of the selection itself; each fragment's once, however often it is spread, as they are executed."""
        known = self._fields_of.get(id(selections))
        if known is None:
            known = self._fields_of[id(selections)] = tuple(self._fields(selections))
        return known

    def pairs(self, together: Sequence[SelectionSetNode]) -> int:
        """How many pairs of fields have one response key, in the selections and in what is selected below such fields.

        These selections are merged into one, as validation sees them.
        """
        by_key: dict[str, list[FieldNode]] = {}
        for selections in together:
            for one in self.fields(selections):
                by_key.setdefault((one.alias or one.name).value, []).append(one)
        found = 0
        for same in by_key.values():
            found += len(same) * (len(same) - 1) // 2
            below = [one.selection_set for one in same if one.selection_set is not None]
            found += self.pairs(below) if below else 0
        return found

    def _size(self, selections: SelectionSetNode | None) -> Size:
        fields = aliases = depth = longest = 0
        names: set[str] = set()
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                below = self.size(node.selection_set)
                fields, depth = fields + 1, max(depth, below.depth + 1)
                if node.alias is not None:
                    aliases, longest = aliases + 1, max(longest, len(node.alias.value))
                names.add(node.name.value)
            else:
                below = self.size(node.selection_set) if isinstance(node, InlineFragmentNode) else self._of_fragment(node)
                depth = max(depth, below.depth)
            fields, aliases, longest = fields + below.fields, aliases + below.aliases, max(longest, below.longest)
            names |= below.names
        return Size(fields, aliases, depth, longest, frozenset(names))

    def _fields(self, selections: SelectionSetNode | None) -> list[FieldNode]:
        found: list[FieldNode] = []
        waiting = [*selections.selections][::-1] if selections else []
        spread: set[str] = set()
        while waiting:
            node = waiting.pop()
            if isinstance(node, FieldNode):
                found.append(node)
            elif isinstance(node, InlineFragmentNode):
                waiting += node.selection_set.selections[::-1]
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in spread:
                spread.add(node.name.value)
                fragment = self._fragments.get(node.name.value)
                waiting += fragment.selection_set.selections[::-1] if fragment else ()
        return found

    def _of_fragment(self, node: Node) -> Size:
        name = node.name.value if isinstance(node, FragmentSpreadNode) else ""
        if name not in self._sizes:
            self._sizes[name] = Size()  # while it is being counted
            fragment = self._fragments.get(name)
            self._sizes[name] = self.size(fragment.selection_set if fragment else None)
        return self._sizes[name]


def variables_of(operation: OperationDefinitionNode, sent: Mapping[str, Any]) -> dict[str, Any]:
    """The variables as sent, with the operation's defaults for the others."""
    defaults = {
        definition.variable.name.value: _plain(definition.default_value, {})
        for definition in operation.variable_definitions or ()
        if definition.default_value is not None
    }
    return defaults | dict(sent)


def arguments_of(one: FieldNode, variables: Mapping[str, Any]) -> dict[str, Any]:
    """A field's arguments as plain values; of lists only the length is kept, and what could be no number here is None."""
    return {argument.name.value: _plain(argument.value, variables) for argument in one.arguments or ()}


def directives_below(node: Node) -> int:
    """The directives of a definition, of its variables and of all below it, without those of the fragments that it spreads."""
    waiting, found = [node, *(getattr(node, "variable_definitions", None) or ())], 0
    while waiting:
        one = waiting.pop()
        found += len(getattr(one, "directives", None) or ())
        selections = getattr(one, "selection_set", None)
        waiting += selections.selections if selections else ()
    return found


def _plain(value: ValueNode, variables: Mapping[str, Any]) -> Any:
    match value:
        case VariableNode():
            return variables.get(value.name.value)
        case IntValueNode():
            return int(value.value) if len(value.value) < 20 else None  # noqa: PLR2004  digits of what could be meant
        case FloatValueNode():
            return float(value.value)
        case StringValueNode() | EnumValueNode():
            return value.value
        case ListValueNode():
            return [None for _ in value.values]
        case _:
            return None
