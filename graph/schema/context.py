"""What a resolver has at hand."""

import time
from dataclasses import dataclass
from functools import cached_property

import strawberry
from strawberry.dataloader import DataLoader

from db.pool import Database, Record
from db.queries import gaps
from graph.engine.allowance import Allowance
from graph.engine.collecting import Collecting
from graph.engine.live import Live
from graph.engine.live_candles import LiveCandles
from graph.errors import ForbiddenError


@dataclass(frozen=True)
class Context:
    """The resources of the API, and what this request's sender may do."""

    db: Database
    collecting: Collecting
    stale_after_s: int
    live: Live
    live_candles: LiveCandles
    allowance: Allowance | None = None
    """Of all callers; None where each may ask as much as it likes."""
    caller: str = ""
    may_read: bool = True
    may_fetch: bool = True
    last_event_id: str | None = None
    """Of a client that comes back to a stream of events."""

    def of(self, caller: str, *, may_read: bool, may_fetch: bool, last_event_id: str | None = None) -> "Context":
        """The same resources for one request."""
        resources = self.db, self.collecting, self.stale_after_s, self.live, self.live_candles, self.allowance
        return Context(*resources, caller, may_read, may_fetch, last_event_id)

    @cached_property
    def last_gaps(self) -> DataLoader[str, Record | None]:
        """The newest gap of a ticker, read in one statement for all that are asked about at the same time."""

        async def load(tickers: list[str]) -> list[Record | None]:
            found = await gaps.last_period_of_each(self.db, tickers)
            return [found.get(ticker) for ticker in tickers]

        return DataLoader(load_fn=load, cache=False)

    def now(self) -> float:
        """UNIX seconds by the local clock: decides ages, and what an open end of a window means; nothing that is stored."""
        return time.time()

    def spend(self, cost: int, paid: int = 1) -> None:
        """Takes what a request costs out of its sender's share; one of it was `paid` before, for asking at all.

        Raises RateLimitedError where the sender has not so much left, TooComplexError where it never has.
        """
        if self.allowance is not None:
            self.allowance.spend(self.caller, cost, paid)

    def require_fetching(self) -> None:
        """Raises ForbiddenError where the request does not bring the ADMIN_TOKEN that is set."""
        if not self.may_fetch:
            raise ForbiddenError("Asking for prices needs the admin token: send `Authorization: Bearer …` with ADMIN_TOKEN")


Info = strawberry.Info[Context, None]
