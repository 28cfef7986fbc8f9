"""Trusted documents: with TRUSTED_DOCUMENTS, the API executes only the documents of a manifest."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import orjson
from cachetools import LRUCache
from graphql import GraphQLError, parse
from graphql.utilities import strip_ignored_characters

from graph.errors import ForbiddenError, PersistedQueryNotFoundError


class TrustedDocuments:
    """The documents that may be executed, by their ids."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        """Raises GraphQLError if a text is not GraphQL."""
        for text in documents.values():
            parse(text)
        self._by_id = {_normalize_id(name): text for name, text in documents.items()}
        self._by_id |= {sha256(text.encode()).hexdigest(): text for text in documents.values()}
        self._texts = frozenset(documents.values())
        # Clients may send the text with other white space.
        self._stripped = {strip_ignored_characters(text) for text in documents.values()}
        self._max_length = max(map(len, self._texts), default=0) * 2
        self._known: LRUCache[str, bool] = LRUCache(1_000)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Reads a manifest of graphql-codegen (an object of texts by their hashes) or of Apollo.

        Raises ValueError and OSError.
        """
        manifest = orjson.loads(file.read_bytes())
        try:
            return cls(_documents_of(manifest))
        except (GraphQLError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{error or type(error).__name__}") from error

    def get(self, document_id: str) -> str:
        """Returns the text of a document. Raises PersistedQueryNotFoundError for an unknown id."""
        text = self._by_id.get(_normalize_id(document_id))
        if text is None:
            raise PersistedQueryNotFoundError
        return text

    def require(self, text: str) -> None:
        """Raises ForbiddenError if the text is not one of the documents."""
        if text not in self._texts and not self._is_trusted(text):
            raise ForbiddenError("Only the documents of TRUSTED_DOCUMENTS are executed. Add this one to the manifest")

    def _is_trusted(self, text: str) -> bool:
        if len(text) > self._max_length:
            return False
        if text not in self._known:
            try:
                self._known[text] = strip_ignored_characters(text) in self._stripped
            except GraphQLError:
                self._known[text] = False
        return self._known[text]


def _documents_of(manifest: Any) -> dict[str, str]:
    if isinstance(manifest, dict) and manifest.get("format") == "apollo-persisted-query-manifest":
        return {operation["id"]: operation["body"] for operation in manifest["operations"]}
    if not isinstance(manifest, dict) or not manifest:
        raise TypeError("should be a JSON object of documents by their hashes")
    return manifest


def _normalize_id(document_id: str) -> str:
    return document_id.lower().removeprefix("sha256:")
