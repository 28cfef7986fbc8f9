"""Parses and validates GraphQL documents, caches valid ones, and selects the operation to execute."""

import sys
from collections.abc import Callable, Sequence
from typing import Final

from cachetools import LRUCache
from graphql import DocumentNode, GraphQLError, OperationDefinitionNode, parse

from graph.engine.field_rules import SchemaRules
from graph.engine.limits import check_document_size
from graph.engine.selection import Selections
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
BYTES_PER_TOKEN: Final = 550
"""Measured memory per token, including its share of the AST nodes."""

Validate = Callable[[DocumentNode], Sequence[GraphQLError]]


class InvalidDocumentError(Exception):
    """Raised when a document does not match the schema. Holds all validation errors."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class DocumentCache:
    """Cache of valid documents. Most clients send the same few documents."""

    def __init__(self, validate: Validate) -> None:
        self._validate = validate
        self._cache: LRUCache[str, Document] = LRUCache(MAX_CACHE_BYTES, getsizeof=_memory_bytes)

    def get(self, text: str) -> "Document | None":
        """Returns the cached document, which is valid, or None."""
        return self._cache.get(text)

    def validate_and_cache(self, document: "Document") -> None:
        """Validates the document and caches it. Raises InvalidDocumentError if it does not match the schema."""
        errors = self._validate(document.node)
        if errors:
            raise InvalidDocumentError(errors)
        self._cache[document.text] = document


def _memory_bytes(document: "Document") -> int:
    return sys.getsizeof(document.text) + BYTES_PER_TOKEN * (document.node.token_count or 0)


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
            pairs = check_document_size(self.node, self.selections)
        except RecursionError:
            raise TooComplexError("The document is nested too deeply. Split it into several requests.") from None
        self.cost = (self.node.token_count or 0) // TOKENS_PER_COST + pairs // PAIRS_PER_COST
        """The cost of validation. The cost of parsing (`parse_cost`) is not included."""

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
