"""Answers that PostgreSQL wrote, put into the rest as they are: for rows of which only plain fields were selected."""

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
class Spliced:
    """A resolver's value that is JSON already."""

    text: str | bytes


def spliced(text: str | bytes) -> Any:
    """The JSON in the place of what a resolver would give."""
    return Spliced(text)


class Executor(StrawberryGraphQLCoreExecutionContext):
    """Executes as ever, but leaves JSON alone: what is selected below it was read when it was made."""

    def complete_value(self, return_type: Any, details: Any, info: Any, path: Any, result: Any, context: Any) -> Any:
        """Completes a field's value."""
        if isinstance(result, Spliced):
            return orjson.Fragment(result.text)
        return super().complete_value(return_type, details, info, path, result, context)


def shape_of(info: GraphQLResolveInfo[Any], typename: str, columns: Mapping[str, Column], *, below: str = "") -> Shape | None:
    """What is selected of each row of a field, where it is columns alone; None where the rows have to become objects.

    With `below` the rows are those of that one field below it; None too where anything else there reads rows (`edges`).
    The document is valid. Of a union's rows, what is selected of those of this type.
    """
    nodes, types = list(info.field_nodes), {typename, get_named_type(info.return_type).name}
    if below:
        selected = _selected(nodes, info, types)
        if "edges" in {node.name.value for node in selected}:
            return None
        nodes = [node for node in selected if node.name.value == below]
        if len({_key(node) for node in nodes}) != 1:
            return None
        types = {typename}
    members: dict[str, Column | Constant] = {}
    for node in _selected(nodes, info, types):
        name = node.name.value
        if name == "__typename":
            members[_key(node)] = Constant(typename)
        elif name in columns:
            members[_key(node)] = columns[name]
        else:
            return None
    return Shape(tuple(members.items()))


def whole_shape_of(info: GraphQLResolveInfo[Any], typename: str, columns: Mapping[str, Column]) -> Shape:
    """The same of a type all of whose fields are columns."""
    shape = shape_of(info, typename, columns)
    if shape is None:
        raise TypeError(f"{typename} has a field that its columns have not")
    return shape


def _key(node: FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


def _selected(nodes: list[FieldNode], info: GraphQLResolveInfo[Any], types: Container[str]) -> list[FieldNode]:
    """The fields selected below the nodes of one of the types, in their order, without those that a directive leaves out."""
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
                waiting += _of_types(info.fragments[node.name.value], types)
        else:
            waiting += _of_types(node, types)  # an inline fragment
    return found


def _of_types(fragment: Any, types: Container[str]) -> Sequence[SelectionNode]:
    """What a fragment selects, last first, where it applies."""
    condition = fragment.type_condition
    return fragment.selection_set.selections[::-1] if condition is None or condition.name.value in types else ()


def _is_included(directives: tuple[DirectiveNode, ...], variables: Mapping[str, Any]) -> bool:
    for directive in directives:
        condition = directive.arguments[0].value if directive.arguments else None
        if isinstance(condition, VariableNode):
            met = variables.get(condition.name.value)
            if met is None:
                raise BadInputError(f"${condition.name.value}: @{directive.name.value} needs true or false, not null")
        else:
            met = isinstance(condition, BooleanValueNode) and condition.value
        if met == (directive.name.value == "skip"):
            return False
    return True
