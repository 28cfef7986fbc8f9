"""Inserts JSON from PostgreSQL unchanged into a response, if only plain columns of the rows are selected."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import orjson
from graphql import (
    BooleanValueNode,
    DirectiveNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLOutputType,
    SelectionNode,
    VariableNode,
    get_named_type,
)
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from db.queries.shapes import Column, ConstantMember, NestedRow, Shape
from graph.errors import BadInputError


@dataclass(frozen=True)
class JsonFragment:
    """A resolver's result that is already JSON."""

    text: str | bytes


def json_fragment(text: str | bytes) -> Any:
    """Returns the JSON as a result that a resolver of any type may return."""
    return JsonFragment(text)


class JsonFragmentExecutionContext(StrawberryGraphQLCoreExecutionContext):
    """Executes an operation, but passes JSON fragments on: they already contain exactly the selected fields."""

    def complete_value(self, return_type: Any, details: Any, info: Any, path: Any, result: Any, context: Any) -> Any:
        """Completes a field's value."""
        if isinstance(result, JsonFragment):
            return orjson.Fragment(result.text)
        return super().complete_value(return_type, details, info, path, result, context)


class FieldInfo(Protocol):
    """What a field's selection depends on: a part of graphql-core's GraphQLResolveInfo."""

    @property
    def field_nodes(self) -> list[FieldNode]: ...
    @property
    def return_type(self) -> GraphQLOutputType: ...
    @property
    def fragments(self) -> dict[str, Any]: ...
    @property
    def variable_values(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class NestedRows:
    """A field whose value is a row of another table, or null."""

    rows: "Rows"
    source: str
    """See `NestedRow`."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a type whose fields PostgreSQL can write as JSON."""

    typename: str
    columns: Mapping[str, Column]
    """The fields that have a column, by name."""
    nested: Mapping[str, NestedRows] = field(default_factory=dict)
    """The fields that are a row of another table, by name."""
    child_field: str = ""
    """The child field that holds the rows; empty if the field itself is a row or a list of rows."""


@dataclass(frozen=True)
class FieldSelection:
    """The selection of a planned field. It is the same in each request, so its shapes are computed once."""

    field_nodes: list[FieldNode]
    return_type: GraphQLOutputType
    fragments: dict[str, Any]
    variable_values: Mapping[str, Any]
    """The variables of @skip and @include."""
    shapes: dict[Rows, Shape | None] = field(default_factory=dict)


def row_selection(info: FieldInfo, rows: Rows) -> Shape | None:
    """Returns the selected columns of each row of a field; None if other fields are selected, so that rows must become objects.

    With a child field, returns None also if `edges` reads the rows, or if the child field is selected under no or several
    response keys. The document must be valid. Of a union, only the selections on the type of the rows count.
    """
    if not isinstance(info, FieldSelection):
        return _select_rows(info, rows)
    if rows not in info.shapes:
        info.shapes[rows] = _select_rows(info, rows)
    return info.shapes[rows]


def _select_rows(info: FieldInfo, rows: Rows) -> Shape | None:
    nodes, types = list(info.field_nodes), {rows.typename, get_named_type(info.return_type).name}
    if rows.child_field:
        selected = selected_fields(nodes, info, types)
        if "edges" in {node.name.value for node in selected}:
            return None
        nodes = [node for node in selected if node.name.value == rows.child_field]
        if len({response_key(node) for node in nodes}) != 1:
            return None
        types = {rows.typename}
    return _build_shape(selected_fields(nodes, info, types), info, rows)


def _build_shape(nodes: Sequence[FieldNode], info: FieldInfo, rows: Rows) -> Shape | None:
    members: dict[str, Column | ConstantMember | NestedRow | None] = {}
    nested_nodes: dict[str, list[FieldNode]] = {}
    for node in nodes:
        key, name = response_key(node), node.name.value
        if name == "__typename":
            members[key] = ConstantMember(rows.typename)
        elif name in rows.columns:
            members[key] = rows.columns[name]
        elif name in rows.nested:
            members.setdefault(key)  # in the order of the first selection; all selections are merged
            nested_nodes.setdefault(key, []).append(node)
        else:
            return None
    for key, merged_nodes in nested_nodes.items():
        nested = rows.nested[merged_nodes[0].name.value]
        found = selected_fields(merged_nodes, info, {nested.rows.typename})
        shape = _build_shape(found, info, nested.rows)
        if shape is None:
            return None
        members[key] = NestedRow(shape, nested.source)
    return Shape(tuple((key, value) for key, value in members.items() if value is not None))


def require_row_selection(info: FieldInfo, rows: Rows) -> Shape:
    """Returns the selected columns of a type whose fields are all columns. Raises TypeError for any other field."""
    shape = row_selection(info, rows)
    if shape is None:
        raise TypeError(f"{rows.typename}: a selected field has no column")
    return shape


def response_key(node: FieldNode) -> str:
    """Returns the name of a field in the response."""
    return node.alias.value if node.alias else node.name.value


def selected_fields(nodes: Sequence[Any], info: FieldInfo, types: Container[str]) -> list[FieldNode]:
    """Returns the fields selected below the nodes on these types, in order, without those that @skip or @include exclude."""
    found: list[FieldNode] = []
    waiting: list[SelectionNode] = [one for node in nodes if node.selection_set for one in node.selection_set.selections][::-1]
    spread: set[str] = set()
    while waiting:
        node = waiting.pop()
        if not _is_included(node.directives or (), cast(Mapping[str, Any], info.variable_values)):
            continue
        if isinstance(node, FieldNode):
            found.append(node)
        elif isinstance(node, FragmentSpreadNode):
            if node.name.value not in spread:
                spread.add(node.name.value)
                waiting += _applicable_selections(info.fragments[node.name.value], types)
        else:
            waiting += _applicable_selections(node, types)  # an inline fragment
    return found


def _applicable_selections(fragment: Any, types: Container[str]) -> Sequence[SelectionNode]:
    """Returns the selections of a fragment in reverse order; none if the fragment does not apply to the types."""
    condition = fragment.type_condition
    return fragment.selection_set.selections[::-1] if condition is None or condition.name.value in types else ()


def _is_included(directives: tuple[DirectiveNode, ...], variables: Mapping[str, Any]) -> bool:
    for directive in directives:
        condition = directive.arguments[0].value if directive.arguments else None
        if isinstance(condition, VariableNode):
            condition_value = variables.get(condition.name.value)
            if condition_value is None:
                raise BadInputError(f"${condition.name.value}: @{directive.name.value} needs true or false, not null")
        else:
            condition_value = isinstance(condition, BooleanValueNode) and condition.value
        if condition_value == (directive.name.value == "skip"):
            return False
    return True
