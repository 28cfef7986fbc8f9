"""What browsers and caches on the way may keep of an answer, and how they learn that it is still right (RFC 9110, RFC 9111)."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from db.queries import version
from graph.engine import freshness
from graph.schema.context import Context
from graph.schema.executable import Prepared

LONG_S: Final = 86_400
"""For windows in the past whose every minute is stored: these never change."""
SHORT_S: Final = 5


@dataclass(frozen=True)
class Keeping:
    """The headers that go with an answer, and with the 304 in its place."""

    headers: Mapping[str, str]

    def is_known(self, if_none_match: str) -> bool:
        """Whether a client that sends this header has the answer already."""
        tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
        tag = self.headers.get("ETag")
        return tag is not None and tag.removeprefix("W/") in tags


async def keeping(context: Context, asked: Prepared, *more: Any, private: bool, stays: bool) -> Keeping:
    """How long a query's answer may be kept; `more` is what else its text depends on. Raises DatabaseError.

    It `stays` where nothing but a commit can change it.
    """
    whose = "private" if private else "public"
    headers = {"Cache-Control": f"{whose}, max-age={SHORT_S}"}
    if not stays:
        return Keeping(headers)
    windows = freshness.past_windows(asked.document.selections, asked.operation, asked.variables, context.now())
    if windows and await freshness.all_stored(context.db, windows):
        headers["Cache-Control"] = f"{whose}, max-age={LONG_S}"
        data: int | str = f"complete in epoch {context.resources.history.epoch}"
    else:
        # Read before the query runs: an answer that a commit slipped into is only asked for once more.
        data = await version.current(context.db)
    parts = [data, asked.document.text, asked.operation_name, asked.variables, *more]
    digest = sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Keeping(headers | {"ETag": f'W/"{digest[:32]}"'})  # weak: compressed or not, it is the same answer
