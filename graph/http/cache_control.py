"""HTTP caching headers of query responses: Cache-Control and ETag (RFC 9110, RFC 9111)."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from db.queries import version
from graph.engine import cacheability
from graph.schema.context import Context
from graph.schema.executable import PreparedOperation

COMPLETE_MAX_AGE_S: Final = 86_400
"""Maximum age of responses over past windows without missing minutes, which never change."""
DEFAULT_MAX_AGE_S: Final = 5
IMMUTABLE: Final = "max-age=31536000, immutable"
"""For responses as of a data version, which never change (RFC 8246)."""


@dataclass(frozen=True)
class CachePolicy:
    """The caching headers of a response, or of the 304 response that replaces it."""

    headers: Mapping[str, str]

    def is_not_modified(self, if_none_match: str) -> bool:
        """Whether an If-None-Match header contains the current ETag."""
        tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
        tag = self.headers.get("ETag")
        return tag is not None and tag.removeprefix("W/") in tags


async def cache_policy(
    context: Context, prepared: PreparedOperation, *extra_parts: Any, private: bool, is_cacheable: bool
) -> CachePolicy:
    """Returns the cache policy of a query's response. Raises DatabaseError.

    `extra_parts` are further values that the response text depends on. The response `is_cacheable` if only a commit can
    change it.
    """
    visibility = "private" if private else "public"
    headers = {"Cache-Control": f"{visibility}, max-age={DEFAULT_MAX_AGE_S}"}
    if cacheability.is_secret(prepared.document.selections, prepared.operation):
        return CachePolicy({"Cache-Control": "no-store"})
    if not is_cacheable:
        return CachePolicy(headers)
    query = prepared.document.selections, prepared.operation, prepared.variables
    windows = [] if context.version is not None else cacheability.past_windows(*query, context.now())
    data_version: int | str
    if cacheability.is_repeatable(*query) and context.version is None:
        headers["Cache-Control"] = f"{visibility}, {IMMUTABLE}"
        data_version = "repeatable"
    elif windows and await cacheability.are_fully_stored(context.db, windows):
        headers["Cache-Control"] = f"{visibility}, max-age={COMPLETE_MAX_AGE_S}"
        data_version = f"complete in epoch {context.resources.history.epoch}"
    else:
        # Read before the query runs: after a commit in between, the client only repeats the request.
        data_version = await version.current(context.db)
    parts = [data_version, prepared.text, prepared.operation_name, *extra_parts]
    digest = sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return CachePolicy(headers | {"ETag": f'W/"{digest[:32]}"'})  # weak: compression changes the bytes
