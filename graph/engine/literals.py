"""Replaces the literal arguments of a document by variables, so that documents that differ only in values share one entry.

Clients often write values into the text: `range(ticker: "btc_usd", from: 1735689600)`. The text without its literals, the
template, is the key of the document cache. So each further text costs one pass of a regular expression instead of parsing
and validation.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from graphql import (
    SKIP,
    DocumentNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    IntValueNode,
    NameNode,
    Node,
    OperationDefinitionNode,
    Source,
    StringValueNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    parse_type,
    visit,
)
from graphql.language import VisitorAction

_LITERAL: Final = re.compile(r'("[^"\n\r]*"|(?<![\w.-])-?(?:0|[1-9][0-9]{0,17})(?![\w.]))', re.ASCII)
"""A string or an integer. In a text without escapes, block strings and comments, quotes only begin and end strings."""
_UNSUPPORTED: Final = ("\\", '"""', "#", "\0")
"""Texts that contain one of these are not split. The last one separates the parts of a template."""


def split(text: str) -> tuple[str, list[Any]] | None:
    """Returns the template of a text and the values of its literals, in order; None if the text cannot be split.

    Texts with the same template have the same tokens, except for the values of strings and integers.
    """
    if any(mark in text for mark in _UNSUPPORTED):
        return None
    parts = _LITERAL.split(text)
    values: list[Any] = [literal[1:-1] if literal[0] == '"' else int(literal) for literal in parts[1::2]]
    kinds = "".join((literal[0] == '"' and "s") or "i" for literal in parts[1::2])
    return "\0".join([*parts[::2], kinds]), values


def spans(text: str) -> list[tuple[int, int]]:
    """Returns the positions of the literals that `split` finds."""
    return [found.span() for found in _LITERAL.finditer(text)]


def parametrize(text: str, document: DocumentNode, schema: GraphQLSchema) -> tuple[DocumentNode, list[GraphQLInputType]] | None:
    """Returns a valid document with variables `0`, `1`, … instead of the literals that `split` finds, and their types.

    Returns None if a literal is outside the arguments of fields, or if the document has several operations. The caller ensures
    that no two fields have the same response key: validation compares the literals of such fields.
    """
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    if len(operations) != 1:
        return None
    type_info = TypeInfo(schema)
    visitor = _Parametrizer(type_info)
    found: DocumentNode = visit(document, TypeInfoVisitor(type_info, visitor))
    if visitor.spans != spans(text):
        return None
    (operation,) = [node for node in found.definitions if isinstance(node, OperationDefinitionNode)]
    definitions = [
        VariableDefinitionNode(variable=_variable(number), type=parse_type(str(type_), no_location=True), directives=())
        for number, type_ in enumerate(visitor.types)
    ]
    parametrized = replace(operation, variable_definitions=(*(operation.variable_definitions or ()), *definitions))
    others = tuple(parametrized if node is operation else node for node in found.definitions)
    return replace(found, definitions=others), visitor.types


class _Parametrizer(Visitor):
    """Replaces the literals in arguments of fields, outside of directives and default values."""

    def __init__(self, type_info: TypeInfo) -> None:
        super().__init__()
        self.types: list[GraphQLInputType] = []
        self.spans: list[tuple[int, int]] = []
        self._type_info = type_info

    def enter_directive(self, *_: Any) -> VisitorAction:
        return SKIP

    def enter_variable_definition(self, *_: Any) -> VisitorAction:
        return SKIP

    def enter_int_value(self, node: IntValueNode, *_: Any) -> VariableNode:
        return self._replace(node)

    def enter_string_value(self, node: StringValueNode, *_: Any) -> VariableNode:
        return self._replace(node)

    def _replace(self, node: Node) -> VariableNode:
        type_ = self._type_info.get_input_type()
        assert type_ is not None  # noqa: S101  the document is valid
        assert node.loc is not None  # noqa: S101  it was parsed with positions
        self.types.append(type_)
        self.spans.append((node.loc.start, node.loc.end))
        return _variable(len(self.types) - 1, node)


def _variable(number: int, node: Node | None = None) -> VariableNode:
    return VariableNode(name=NameNode(value=str(number)), loc=node.loc if node else None)


def relocate(errors: Sequence[GraphQLError], text: str, executed_text: str) -> list[GraphQLError]:
    """Returns errors in a document of `text` with their positions in another text with the same template."""
    source = Source(executed_text)
    shifts = [
        (end, executed_end - executed_start - (end - start))
        for (start, end), (executed_start, executed_end) in zip(spans(text), spans(executed_text), strict=True)
    ]

    def move(error: GraphQLError) -> GraphQLError:
        positions = [position + sum(shift for end, shift in shifts if end <= position) for position in error.positions or ()]
        return GraphQLError(
            error.message,
            source=source if positions else None,
            positions=positions or None,
            path=error.path,
            original_error=error.original_error,
            extensions=error.extensions,
        )

    return [move(error) for error in errors]
