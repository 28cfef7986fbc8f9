"""What a resolver has at hand."""

import time
from dataclasses import dataclass
from functools import cached_property

import strawberry
from strawberry.dataloader import DataLoader

from db.pool import Database, Executor, Record
from db.queries import gaps
from graph.engine.allowance import Allowance, CallerBudget
from graph.engine.collecting import Collecting
from graph.engine.history import HistoryWatch
from graph.engine.live import Live
from graph.engine.live_candles import LiveCandles
from graph.engine.replica import Replica
from graph.errors import ForbiddenError


@dataclass(frozen=True)
class Resources:
    """What the API answers with."""

    primary: Database
    replica: Replica | None
    collecting: Collecting
    stale_after_s: int
    live: Live
    live_candles: LiveCandles
    allowance: Allowance | None
    """Of all callers; None where each may ask as much as it likes."""
    history: HistoryWatch


class Context:
    """The resources of the API for one answer, and what may do who asks for it."""

    def __init__(
        self,
        resources: Resources,
        caller: str,
        *,
        may_read: bool,
        may_fetch: bool,
        needs_token_to_fetch: bool = False,
        last_event_id: str | None = None,
    ) -> None:
        """`last_event_id`: of a client that comes back to a stream of events."""
        self.resources = resources
        self.caller = caller
        self.may_read = may_read
        self.may_fetch = may_fetch
        self.needs_token_to_fetch = needs_token_to_fetch
        self.last_event_id = last_event_id

    @property
    def db(self) -> Executor:
        """To read from."""
        return self._reader[0]

    @property
    def is_current(self) -> bool:
        """Whether what is read holds every commit that was heard of; else it may lack those of the last seconds."""
        return self._reader[1]

    @cached_property
    def _reader(self) -> tuple[Executor, bool]:
        replica, primary = self.resources.replica, self.resources.primary
        return (primary, True) if replica is None else replica.reader(primary)

    def again(self) -> "Context":
        """For another answer to the same."""
        return Context(
            self.resources,
            self.caller,
            may_read=self.may_read,
            may_fetch=self.may_fetch,
            needs_token_to_fetch=self.needs_token_to_fetch,
            last_event_id=self.last_event_id,
        )

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
        if self.resources.allowance is not None:
            self.resources.allowance.spend(self.caller, cost, paid)

    async def pay(self, cost: int) -> None:
        """Takes more for an answer that goes on, as it goes on: waits until the sender has it."""
        budget = self.budget
        while budget is not None and cost > 0:
            cost -= await budget.reserve(cost)

    @property
    def budget(self) -> CallerBudget | None:
        """What its sender may spend; None where that is as much as it likes."""
        return None if self.resources.allowance is None else CallerBudget(self.resources.allowance, self.caller)

    def require_fetching(self) -> None:
        """Raises ForbiddenError where the request does not bring the ADMIN_TOKEN that is set."""
        if not self.may_fetch:
            raise ForbiddenError("Asking for prices needs the admin token: send `Authorization: Bearer …` with ADMIN_TOKEN")


Info = strawberry.Info[Context, None]
