"""Documents: parsed once, and the operation that is meant."""

from functools import lru_cache

from graphql import DocumentNode, GraphQLError, OperationDefinitionNode, parse

from graph.engine.limits import require_small
from graph.errors import TooComplexError

KEPT = 512
"""Documents remembered, the latest used."""
TOKENS_MOST = 2_000


@lru_cache(KEPT)
def parsed(text: str) -> DocumentNode:
    """The document. Raises GraphQLError where the text is none, TooComplexError where it is bigger than one may be."""
    try:
        document = parse(text, max_tokens=TOKENS_MOST)
        require_small(document)
    except RecursionError:
        raise TooComplexError("The document is nested too deeply: ask for less at once") from None
    return document


def operation_of(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """The operation of that name, or the only one there is. Raises GraphQLError where it cannot be told which."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
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
