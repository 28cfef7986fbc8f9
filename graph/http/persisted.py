"""Automatic persisted queries: after the first time a client sends only a document's digest, short enough for a URL.

https://www.apollographql.com/docs/apollo-server/performance/apq
"""

import sys
from hashlib import sha256
from typing import Final

from cachetools import LRUCache

from graph.errors import BadRequestError, PersistedQueryNotFoundError
from graph.http.asked import Asked

BYTES_MOST: Final = 4 * 1024 * 1024
"""Of all documents remembered, those asked for last. A client whose document was forgotten sends it again."""


class PersistedQueries:
    """Documents by their digests."""

    def __init__(self) -> None:
        self._texts: LRUCache[str, str] = LRUCache(BYTES_MOST, getsizeof=sys.getsizeof)

    def text_of(self, asked: Asked) -> str:
        """The document that is asked for. Raises PersistedQueryNotFoundError, or BadRequestError where there is none."""
        digest = _digest_of(asked)
        if asked.query:
            if digest is not None and sha256(asked.query.encode()).hexdigest() != digest:
                raise BadRequestError("extensions.persistedQuery: sha256Hash is not the SHA-256 of query")
            return asked.query
        if digest is None:
            raise BadRequestError("query is missing: send the GraphQL document in it")
        if digest not in self._texts:
            raise PersistedQueryNotFoundError
        return self._texts[digest]

    def remember(self, asked: Asked) -> None:
        """Keeps a document that came with its digest, and proved to be one."""
        digest = _digest_of(asked)
        if digest is not None and asked.query:
            self._texts[digest] = asked.query


def _digest_of(asked: Asked) -> str | None:
    persisted = asked.extensions.get("persistedQuery")
    if persisted is None:
        return None
    if isinstance(persisted, dict) and persisted.get("version") == 1 and isinstance(persisted.get("sha256Hash"), str):
        return str(persisted["sha256Hash"]).lower()
    raise BadRequestError("extensions.persistedQuery: should be version 1 with a sha256Hash")
