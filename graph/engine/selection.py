"""The selections of a document with expanded fragments, so that a short document cannot hide a large query."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import (
    DirectiveNode,
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
    Visitor,
    visit,
)

from graph.engine.field_rules import FieldRules, SchemaRules


@dataclass(frozen=True)
class Size:
    """The size of a selection with everything below it."""

    fields: int = 0
    aliases: int = 0
    depth: int = 0
    longest_alias: int = 0
    """Characters of the longest alias."""


class Selections:
    """The selections of a document, which need not be valid. A fragment that spreads itself counts once."""

    def __init__(self, document: DocumentNode, rules: SchemaRules) -> None:
        self.rules = rules
        self._fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        self._fragment_sizes: dict[str, Size] = {}
        # Cached by the id() of AST nodes, which live as long as this object, because every request of the document needs them.
        self._size_of: dict[int, Size] = {}
        self._fields_of: dict[int, tuple[FieldNode, ...]] = {}
        self._clock_fields_of: dict[int, tuple[tuple[FieldNode, FieldRules], ...]] = {}
        self._has_replaceable_fields: dict[int, bool] = {}

    def size(self, selection_set: SelectionSetNode | None) -> Size:
        """Returns the size of the selection."""
        cached = self._size_of.get(id(selection_set))
        if cached is None:
            cached = self._size_of[id(selection_set)] = self._size(selection_set)
        return cached

    def fields(self, selection_set: SelectionSetNode | None) -> tuple[FieldNode, ...]:
        """Returns the direct fields of the selection. As in execution, a fragment counts once, however often it is spread."""
        cached = self._fields_of.get(id(selection_set))
        if cached is None:
            cached = self._fields_of[id(selection_set)] = tuple(self._fields(selection_set))
        return cached

    def clock_fields(self, operation: OperationDefinitionNode) -> tuple[tuple[FieldNode, FieldRules], ...]:
        """Returns the fields of an operation, at all levels, whose values may change with the clock."""
        key = id(operation)
        if key not in self._clock_fields_of:
            found = self._find_all(operation.selection_set, self.rules.root_type(operation.operation))
            self._clock_fields_of[key] = tuple((node, rules) for node, rules in found if rules.changes_with_clock is not None)
        return self._clock_fields_of[key]

    def has_replaceable_fields(self, operation: OperationDefinitionNode) -> bool:
        """Returns whether the operation selects, at any level, a value that a later commit can replace."""
        key = id(operation)
        if key not in self._has_replaceable_fields:
            found = self._find_all(operation.selection_set, self.rules.root_type(operation.operation))
            self._has_replaceable_fields[key] = any(rules.is_replaceable for _, rules in found)
        return self._has_replaceable_fields[key]

    def _find_all(self, selections: SelectionSetNode, type_name: str) -> Iterator[tuple[FieldNode, FieldRules]]:
        for node in self.fields(selections):
            rules, child_type = self.rules.find(type_name, node.name.value)
            yield node, rules
            if node.selection_set is not None:
                yield from self._find_all(node.selection_set, child_type)

    def count_pairs(self, selection_sets: Sequence[SelectionSetNode]) -> int:
        """Counts the pairs of fields with the same response key, in the selections and below such fields.

        The selections are merged into one, as in validation.
        """
        by_key: dict[str, list[FieldNode]] = {}
        for selection_set in selection_sets:
            for node in self.fields(selection_set):
                by_key.setdefault((node.alias or node.name).value, []).append(node)
        found = 0
        for merged_fields in by_key.values():
            found += len(merged_fields) * (len(merged_fields) - 1) // 2
            child_sets = [node.selection_set for node in merged_fields if node.selection_set is not None]
            found += self.count_pairs(child_sets) if child_sets else 0
        return found

    def _size(self, selection_set: SelectionSetNode | None) -> Size:
        fields = aliases = depth = longest_alias = 0
        for node in selection_set.selections if selection_set else ():
            if isinstance(node, FieldNode):
                child_size = self.size(node.selection_set)
                fields, depth = fields + 1, max(depth, child_size.depth + 1)
                if node.alias is not None:
                    aliases, longest_alias = aliases + 1, max(longest_alias, len(node.alias.value))
            else:
                child_size = (
                    self.size(node.selection_set) if isinstance(node, InlineFragmentNode) else self._fragment_size(node)
                )
                depth = max(depth, child_size.depth)
            fields, aliases, longest_alias = (
                fields + child_size.fields,
                aliases + child_size.aliases,
                max(longest_alias, child_size.longest_alias),
            )
        return Size(fields, aliases, depth, longest_alias)

    def _fields(self, selection_set: SelectionSetNode | None) -> list[FieldNode]:
        found: list[FieldNode] = []
        waiting = [*selection_set.selections][::-1] if selection_set else []
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

    def _fragment_size(self, node: Node) -> Size:
        name = node.name.value if isinstance(node, FragmentSpreadNode) else ""
        if name not in self._fragment_sizes:
            self._fragment_sizes[name] = Size()  # stops the recursion if the fragment spreads itself
            fragment = self._fragments.get(name)
            self._fragment_sizes[name] = self.size(fragment.selection_set if fragment else None)
        return self._fragment_sizes[name]


def variables_of(operation: OperationDefinitionNode, raw_variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of the request, with the operation's defaults for missing ones."""
    defaults = {
        definition.variable.name.value: _plain_value(definition.default_value, {})
        for definition in operation.variable_definitions or ()
        if definition.default_value is not None
    }
    return defaults | dict(raw_variables)


def arguments_of(node: FieldNode, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a field's arguments as Python values.

    A literal list becomes a list of None with the same length. Values that no limit or cost depends on become None.
    """
    return {argument.name.value: _plain_value(argument.value, variables) for argument in node.arguments or ()}


def count_directives(node: Node) -> int:
    """Counts the directives of a definition, its variables and its selections, without those of the fragments it spreads."""
    waiting, found = [node, *(getattr(node, "variable_definitions", None) or ())], 0
    while waiting:
        current = waiting.pop()
        found += len(getattr(current, "directives", None) or ())
        selection_set = getattr(current, "selection_set", None)
        waiting += selection_set.selections if selection_set else ()
    return found


def find_variables(node: Node) -> set[str]:
    """Returns the names of all variables in a node and below it."""
    found: set[str] = set()

    class Collector(Visitor):
        def enter_variable(self, variable: VariableNode, *_: Any) -> None:
            found.add(variable.name.value)

    visit(node, Collector())
    return found


def directive_variables(document: DocumentNode) -> tuple[str, ...]:
    """Returns the names of the variables in directives, sorted."""
    found: set[str] = set()

    class Collector(Visitor):
        def enter_directive(self, directive: DirectiveNode, *_: Any) -> None:
            found.update(find_variables(directive))

    visit(document, Collector())
    return tuple(sorted(found))


def _plain_value(value: ValueNode, variables: Mapping[str, Any]) -> Any:
    match value:
        case VariableNode():
            return variables.get(value.name.value)
        case IntValueNode():
            return int(value.value) if len(value.value) < 20 else None  # noqa: PLR2004  no valid value has more digits
        case FloatValueNode():
            return float(value.value)
        case StringValueNode() | EnumValueNode():
            return value.value
        case ListValueNode():
            return [None for _ in value.values]
        case _:
            return None
