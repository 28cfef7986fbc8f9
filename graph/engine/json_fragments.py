"""Inserts JSON from PostgreSQL unchanged into a response, if only plain columns of the rows are selected."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from graphql import (
    BooleanValueNode,
    DirectiveNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLResolveInfo,
    SelectionNode,
    VariableNode,
    get_named_type,
)
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from db.queries.shapes import Column, Constant, Shape
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


def row_selection(
    info: GraphQLResolveInfo[Any], typename: str, columns: Mapping[str, Column], *, child_field: str = ""
) -> Shape | None:
    """Returns the selected columns of each row of a field; None if other fields are selected, so that rows must become objects.

    With `child_field`, the rows are those of that child field. Then returns None also if `edges` reads the rows, or if the
    child field is selected under no or several response keys. The document must be valid. Of a union, only the selections
    on `typename` count.
    """
    nodes, types = list(info.field_nodes), {typename, get_named_type(info.return_type).name}
    if child_field:
        selected = _selected_fields(nodes, info, types)
        if "edges" in {node.name.value for node in selected}:
            return None
        nodes = [node for node in selected if node.name.value == child_field]
        if len({_response_key(node) for node in nodes}) != 1:
            return None
        types = {typename}
    members: dict[str, Column | Constant] = {}
    for node in _selected_fields(nodes, info, types):
        name = node.name.value
        if name == "__typename":
            members[_response_key(node)] = Constant(typename)
        elif name in columns:
            members[_response_key(node)] = columns[name]
        else:
            return None
    return Shape(tuple(members.items()))


def require_row_selection(info: GraphQLResolveInfo[Any], typename: str, columns: Mapping[str, Column]) -> Shape:
    """Returns the selected columns of a type whose fields are all columns. Raises TypeError for any other field."""
    shape = row_selection(info, typename, columns)
    if shape is None:
        raise TypeError(f"{typename}: a selected field has no column")
    return shape


def _response_key(node: FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


def _selected_fields(nodes: list[FieldNode], info: GraphQLResolveInfo[Any], types: Container[str]) -> list[FieldNode]:
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
