"""What a resolver has at hand."""

import time
from dataclasses import dataclass

import strawberry

from db.pool import Database


@dataclass(frozen=True)
class Context:
    """The resources of the API, the same for every request."""

    db: Database
    stale_after_s: int

    def now(self) -> float:
        """UNIX seconds by the local clock; decides ages and what an open end of a window means, nothing that is stored."""
        return time.time()


Info = strawberry.Info[Context, None]
