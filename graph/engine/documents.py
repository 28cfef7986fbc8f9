"""Parses and validates GraphQL documents, caches valid ones, and selects the operation to execute."""

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Final, NamedTuple

from cachetools import LRUCache
from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    OperationDefinitionNode,
    Undefined,
    coerce_input_value,
    parse,
)

from graph.engine import literals
from graph.engine.field_rules import SchemaRules
from graph.engine.limits import check_document_size
from graph.engine.selection import Selections, directive_variables
from graph.errors import TooComplexError

MAX_CHARACTERS: Final = 16_384
"""Maximum length of a document. Real documents, including introspection, have at most a few thousand characters."""
MAX_TOKENS: Final = 2_000
CHARACTERS_PER_COST: Final = 4_000
TOKENS_PER_COST: Final = 25
PAIRS_PER_COST: Final = 1_500
"""Each of these three amounts costs 1: about half a millisecond of parsing and validation, the time of a small query."""
MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
"""Size of the document cache. The least recently used documents are evicted."""
BYTES_PER_TOKEN: Final = 800
"""Approximate memory per token, with its share of the AST nodes and of the plans; measured: 420 to 940."""

Validate = Callable[[DocumentNode], Sequence[GraphQLError]]


class InvalidDocumentError(Exception):
    """Raised when a document does not match the schema. Holds all validation errors."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class Literals(NamedTuple):
    """The literals of a text as variables of its document, by name."""

    raw: Mapping[str, Any]
    coerced: Mapping[str, Any]
    """As resolvers receive them."""


NO_LITERALS: Final = Literals({}, {})


class DocumentCache:
    """Cache of valid documents. Most clients send the same few documents, often with other literals."""

    def __init__(self, schema: GraphQLSchema, validate: Validate) -> None:
        self._schema = schema
        self._validate = validate
        # Texts, and templates in a tuple, because a text may look like a template.
        self._cache: LRUCache[str | tuple[str], Document] = LRUCache(MAX_CACHE_BYTES, getsizeof=_memory_bytes)

    def get(self, text: str) -> "tuple[Document, Literals] | None":
        """Returns the cached document of a text, and the literals that replace its variables; None if it is not cached."""
        document = self._cache.get(text)
        if document is not None:
            return document, NO_LITERALS
        found = literals.split(text)
        if found is None:
            return None
        template, values = found
        document = self._cache.get((template,))
        coerced = None if document is None else document.coerce(values)
        if document is None or coerced is None:
            return None
        names = document.literal_names
        return document, Literals(dict(zip(names, values, strict=True)), dict(zip(names, coerced, strict=True)))

    def validate_and_cache(self, document: "Document") -> None:
        """Validates the document and caches it. Raises InvalidDocumentError if it does not match the schema."""
        errors = self._validate(document.node)
        if errors:
            raise InvalidDocumentError(errors)
        found = literals.split(document.text)
        if found is not None and found[1] and not document.pairs:
            parametrized = document.parametrize(self._schema)
            if parametrized is not None:
                self._cache[(found[0],)] = parametrized
                return
        self._cache[document.text] = document


def _memory_bytes(document: "Document") -> int:
    return sys.getsizeof(document.text) + BYTES_PER_TOKEN * document.token_count


def check_length(text: str) -> None:
    """Raises TooComplexError if the text has more than MAX_CHARACTERS characters."""
    if len(text) > MAX_CHARACTERS:
        raise TooComplexError(
            f"The document has {len(text)} characters; the maximum is {MAX_CHARACTERS}. Send values as variables, or split the "
            "document into several requests."
        )


def parse_cost(text: str) -> int:
    """Returns the cost of parsing a document."""
    return len(text) // CHARACTERS_PER_COST


class Document:
    """A parsed document within the size limits."""

    def __init__(self, text: str, rules: SchemaRules) -> None:
        """Raises GraphQLError if the text is not a document, TooComplexError if it exceeds a size limit."""
        self.text = text
        check_length(text)
        try:
            self.node: DocumentNode = parse(text, max_tokens=MAX_TOKENS)
            self.selections = Selections(self.node, rules)
            self.pairs = check_document_size(self.node, self.selections)
            """Pairs of fields with the same response key."""
        except RecursionError:
            raise TooComplexError("The document is nested too deeply. Split it into several requests.") from None
        self.token_count = self.node.token_count or 0
        self.cost = self.token_count // TOKENS_PER_COST + self.pairs // PAIRS_PER_COST
        """The cost of validation. The cost of parsing (`parse_cost`) is not included."""
        self.literal_types: Sequence[GraphQLInputType] = ()
        """The types of the variables that replace the literals."""
        self.literal_names: Sequence[str] = ()
        """Their names."""
        self.plans: dict[tuple[Any, ...], Any] = {}
        """The plans of its operations. See `graph.engine.plans`."""

    @cached_property
    def condition_names(self) -> tuple[str, ...]:
        """The names of the variables of @skip and @include."""
        return directive_variables(self.node)

    def parametrize(self, schema: GraphQLSchema) -> "Document | None":
        """Returns this valid document with variables instead of literals. None if a literal is no argument of a field."""
        found = literals.parametrize(self.text, self.node, schema)
        if found is None:
            return None
        document = copy(self)
        document.node, document.literal_types = found
        document.literal_names = [str(number) for number in range(len(document.literal_types))]
        document.selections = Selections(document.node, self.selections.rules)
        document.plans = {}
        return document

    def coerce(self, values: Sequence[Any]) -> list[Any] | None:
        """Returns the values as the resolvers receive them; None if one is invalid for the argument that it belongs to."""
        coerced = [coerce_input_value(value, type_) for value, type_ in zip(values, self.literal_types, strict=True)]
        return None if Undefined in coerced else coerced

    def relocate(self, errors: Sequence[GraphQLError], text: str) -> list[GraphQLError]:
        """Returns errors of an execution with their positions in the executed text, which may differ from `self.text`."""
        return literals.relocate(errors, self.text, text) if self.literal_types else list(errors)

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """Returns the operation with this name, or the only operation. Raises GraphQLError if there is no such operation."""
        operations = [node for node in self.node.definitions if isinstance(node, OperationDefinitionNode)]
        if not operations:
            raise GraphQLError("The document has no operation. Send a query, a mutation or a subscription.")
        if name is None:
            if len(operations) > 1:
                named = ", ".join(node.name.value for node in operations if node.name)
                raise GraphQLError(f"The document has {len(operations)} operations. Choose one in operationName: {named[:100]}")
            return operations[0]
        for node in operations:
            if node.name is not None and node.name.value == name:
                return node
        raise GraphQLError(f"The document has no operation named {name[:60]!r}")
