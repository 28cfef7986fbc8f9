"""Automatic persisted queries: after the first request, a client sends only the document's digest, which fits in a URL.

https://www.apollographql.com/docs/apollo-server/performance/apq
"""

import sys
from hashlib import sha256
from typing import Final

from cachetools import LRUCache

from graph.engine.trusted_documents import TrustedDocuments
from graph.errors import BadRequestError, PersistedQueryNotFoundError
from graph.http.request import GraphQLRequest

MAX_PERSISTED_BYTES: Final = 4 * 1024 * 1024
"""Size of the cache, least recently used first out. A client sends an evicted document again."""


class PersistedQueries:
    """Cache of documents by their SHA-256 digests."""

    def __init__(self, trusted: TrustedDocuments | None = None) -> None:
        """With `trusted`, ids are those of its documents, and none is stored."""
        self._trusted = trusted
        self._documents: LRUCache[str, str] = LRUCache(MAX_PERSISTED_BYTES, getsizeof=sys.getsizeof)

    def get_document(self, request: GraphQLRequest) -> str:
        """Returns the document of a request.

        Raises PersistedQueryNotFoundError for an unknown digest, BadRequestError if both are missing or the digest is invalid.
        """
        digest = _get_digest(request)
        document_id = digest or request.document_id
        if self._trusted is not None and document_id is not None and not request.query:
            return self._trusted.get(document_id)
        if request.query:
            if digest is not None and sha256(request.query.encode()).hexdigest() != digest:
                raise BadRequestError("extensions.persistedQuery: sha256Hash is not the SHA-256 digest of query")
            return request.query
        if digest is None:
            raise BadRequestError("query is missing. Send the GraphQL document.")
        if digest not in self._documents:
            raise PersistedQueryNotFoundError
        return self._documents[digest]

    def store(self, request: GraphQLRequest) -> None:
        """Stores the document of a request with a digest. Call it only after validation."""
        digest = _get_digest(request)
        if digest is not None and request.query and self._trusted is None:
            self._documents[digest] = request.query


def _get_digest(request: GraphQLRequest) -> str | None:
    persisted = request.extensions.get("persistedQuery")
    if persisted is None:
        return None
    if isinstance(persisted, dict) and persisted.get("version") == 1 and isinstance(persisted.get("sha256Hash"), str):
        return str(persisted["sha256Hash"]).lower()
    raise BadRequestError("extensions.persistedQuery must have version 1 and a sha256Hash")
