"""Documents: parsed and validated once, and the operation that is meant."""

import sys
from collections.abc import Callable, Sequence
from typing import Final

from cachetools import LRUCache
from graphql import DocumentNode, GraphQLError, OperationDefinitionNode, parse

from graph.engine.limits import require_small
from graph.engine.selection import Selections
from graph.errors import TooComplexError

MAX_CHARACTERS: Final = 16_384
"""Of a document: the longest honest ones, introspection among them, have a few thousand."""
TOKENS_MOST: Final = 2_000
CHARACTERS_PER_COST: Final = 4_000
TOKENS_PER_COST: Final = 25
PAIRS_PER_COST: Final = 1_500
"""What takes about half a millisecond to read and to validate: as long as a small query takes as a whole."""
BYTES_MOST: Final = 16 * 1024 * 1024
"""Of all documents remembered, those used last."""
BYTES_OF_A_TOKEN: Final = 550
"""With its share of the nodes that were made of it, as measured."""

Validate = Callable[[DocumentNode], Sequence[GraphQLError]]


class InvalidError(Exception):
    """Raised when a document does not fit the schema, with all that is wrong with it."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class Documents:
    """Those that fit the schema are remembered: most clients send the same few."""

    def __init__(self, validate: Validate) -> None:
        self._validate = validate
        self._kept: LRUCache[str, Document] = LRUCache(BYTES_MOST, getsizeof=_bytes)

    def get(self, text: str) -> "Document | None":
        """The document, where it is remembered: it is valid."""
        return self._kept.get(text)

    def require_valid(self, document: "Document") -> None:
        """Raises InvalidError where the document does not fit the schema, else remembers it."""
        errors = self._validate(document.node)
        if errors:
            raise InvalidError(errors)
        self._kept[document.text] = document


def _bytes(document: "Document") -> int:
    return sys.getsizeof(document.text) + BYTES_OF_A_TOKEN * (document.node.token_count or 0)


def require_short(text: str) -> None:
    """Raises TooComplexError where the text is longer than a document may be."""
    if len(text) > MAX_CHARACTERS:
        raise TooComplexError(
            f"The document has {len(text)} characters, and one may have {MAX_CHARACTERS}: send values as variables, or several "
            "requests"
        )


def cost_of_reading(text: str) -> int:
    """What it costs to find out what the text of a document says."""
    return len(text) // CHARACTERS_PER_COST


class Document:
    """A document that is no bigger than one may be."""

    def __init__(self, text: str) -> None:
        """Raises GraphQLError where the text is none, TooComplexError where it is too big."""
        self.text = text
        require_short(text)
        try:
            self.node: DocumentNode = parse(text, max_tokens=TOKENS_MOST)
            self.selections = Selections(self.node)
            pairs = require_small(self.node, self.selections)
        except RecursionError:
            raise TooComplexError("The document is nested too deeply: ask for less at once") from None
        self.cost = (self.node.token_count or 0) // TOKENS_PER_COST + pairs // PAIRS_PER_COST
        """What validating it costs; `cost_of_reading` comes to it."""

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """The operation of that name, or the only one there is. Raises GraphQLError where it cannot be told which."""
        operations = [node for node in self.node.definitions if isinstance(node, OperationDefinitionNode)]
        if not operations:
            raise GraphQLError("The document has no operation: send a query or a mutation")
        if name is None:
            if len(operations) > 1:
                named = ", ".join(node.name.value for node in operations if node.name)
                raise GraphQLError(f"The document has {len(operations)} operations: name one in operationName ({named[:100]})")
            return operations[0]
        for node in operations:
            if node.name is not None and node.name.value == name:
                return node
        raise GraphQLError(f"The document has no operation named {name[:60]!r}")
