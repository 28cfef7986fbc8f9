"""The context of a request: resources, permissions and budget."""

import time
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import strawberry
from strawberry.dataloader import DataLoader

from db.pool import Database, Executor, Record
from db.queries import alerts, delivery_prices, gaps, ranges
from db.queries.gaps import TickerMinute
from db.queries.snapshots import Snapshot
from db.queries.version import current as current_version
from graph.engine.fetch_requests import FetchRequests
from graph.engine.history import HistoryWatch
from graph.engine.live_candles import LiveCandles
from graph.engine.live_events import LiveEvents
from graph.engine.live_ticks import LiveTicks
from graph.engine.rate_limit import CallerBudget, CostBudget
from graph.engine.replica import Replica
from graph.engine.shared_reads import SharedReads
from graph.engine.snapshots import open_snapshot, parse_version
from graph.errors import ForbiddenError


@dataclass(frozen=True)
class Resources:
    """The resources that all requests of an API process share."""

    primary: Database
    replica: Replica | None
    fetch_requests: FetchRequests
    stale_after_s: int
    live_events: LiveEvents
    live_candles: LiveCandles
    live_ticks: LiveTicks
    cost_budget: CostBudget | None
    """The budget of all callers; None without a rate limit."""
    history: HistoryWatch
    shared_reads: SharedReads


class Context:
    """The resources and the permissions of the caller for one response."""

    def __init__(
        self,
        resources: Resources,
        caller: str,
        *,
        may_read: bool,
        may_fetch: bool,
        needs_admin_token: bool = False,
        last_event_id: str | None = None,
    ) -> None:
        """`last_event_id`: the last id that a reconnecting client received from an event stream."""
        self.resources = resources
        self.caller = caller
        self.may_read = may_read
        self.may_fetch = may_fetch
        self.needs_admin_token = needs_admin_token
        self.last_event_id = last_event_id
        self._snapshot_windows: set[tuple[int, str, int, str]] = set()
        self.version: int | None = None
        """The data version of fields without `asOf`; None: the newest one."""

    @property
    def db(self) -> Executor:
        """The reader for this response: the replica or the primary."""
        return self._reader[0]

    @property
    def shared_reads(self) -> SharedReads:
        """Reads that share statements with other requests."""
        return self.resources.shared_reads

    @property
    def is_current(self) -> bool:
        """Whether `db` has every commit notified so far. Otherwise it may lack the commits of the last seconds."""
        return self._reader[1]

    @cached_property
    def _reader(self) -> tuple[Executor, bool]:
        replica, primary = self.resources.replica, self.resources.primary
        return (primary, True) if replica is None else replica.reader(primary)

    async def snapshot(self, as_of: str | None, ticker: str, low: int, name: str = "asOf") -> Snapshot | None:
        """Returns the snapshot for a window from `low` on, or None to read the newest data.

        `name` is the argument of `as_of`, for messages. Raises the errors of `open_snapshot`, and DatabaseError.
        """
        version = parse_version(as_of, name) if isinstance(as_of, str) else self.version
        if version is None:
            return None
        if self.db is not self.resources.primary and version > await current_version(self.db):
            self._reader = self.resources.primary, True  # the replica does not have the version yet
        self._snapshot_windows.add((version, ticker, low, name))
        return await open_snapshot(self.db, version, ticker, low, name)

    async def require_snapshots_retained(self) -> None:
        """Raises AsOfTooOldError if retention began to delete minutes of a snapshot while it was read.

        Call it after reading: the response would lack them, and be cached for ever.
        """
        for window in sorted(self._snapshot_windows):
            await open_snapshot(self.db, *window)

    def for_next_operation(self) -> "Context":
        """Returns a context for another response to the same caller."""
        return Context(
            self.resources,
            self.caller,
            may_read=self.may_read,
            may_fetch=self.may_fetch,
            needs_admin_token=self.needs_admin_token,
            last_event_id=self.last_event_id,
        )

    @cached_property
    def last_gaps(self) -> DataLoader[str, Record | None]:
        """Loads the newest gap of a ticker, with one statement for all tickers that are loaded at the same time."""

        async def load(tickers: list[str]) -> list[Record | None]:
            found = await gaps.last_period_of_each(self.db, tickers)
            return [found.get(ticker) for ticker in tickers]

        return DataLoader(load_fn=load, cache=False)

    def alert_deliveries(self, limit: int) -> DataLoader[int, list[Record]]:
        """Loads the newest `limit` webhooks of an alert, with one statement for all alerts that are loaded at the same time."""

        async def load(alert_ids: list[int]) -> list[list[Record]]:
            found = await alerts.deliveries(self.resources.primary, alert_ids, limit)
            return [[one for one in found if one["alert_id"] == alert_id] for alert_id in alert_ids]

        return self._delivery_loaders.setdefault(limit, DataLoader(load_fn=load, cache=False))

    @cached_property
    def _delivery_loaders(self) -> dict[int, DataLoader[int, list[Record]]]:
        return {}

    @cached_property
    def ranges(self) -> DataLoader[tuple[Snapshot | None, TickerMinute], Record | None]:
        """Loads the range of a minute, with one statement for all minutes of a snapshot that are loaded at the same time."""

        async def load(keys: list[tuple[Snapshot | None, TickerMinute]]) -> list[Record | None]:
            found = {
                snapshot: await ranges.ranges_of(self.db, [minute for other, minute in keys if other == snapshot], snapshot)
                for snapshot in {snapshot for snapshot, _ in keys}
            }
            return [found[snapshot].get(minute) for snapshot, minute in keys]

        return DataLoader(load_fn=load, cache=False)

    @cached_property
    def estimates(self) -> DataLoader[TickerMinute, Decimal | None]:
        """Loads the estimated delivery price of a minute, with one statement for all minutes loaded at the same time."""

        async def load(minutes: list[TickerMinute]) -> list[Decimal | None]:
            found = await delivery_prices.estimates_of(self.db, minutes)
            return [found.get(minute) for minute in minutes]

        return DataLoader(load_fn=load, cache=False)

    def now(self) -> float:
        """Returns UNIX seconds of the local clock. They determine ages and open ends of windows, but no stored value."""
        return time.time()

    def charge(self, cost: int, already_charged: int = 1) -> None:
        """Charges the cost of a request, less what was `already_charged` (by default 1 for the request), to the budget.

        Raises RateLimitedError if the remaining budget is too small, TooComplexError if the cost exceeds the whole budget.
        """
        if self.resources.cost_budget is not None:
            self.resources.cost_budget.charge(self.caller, cost, already_charged)

    async def charge_gradually(self, cost: int) -> None:
        """Charges further cost of a streamed response to the caller's budget. Waits until the budget allows it."""
        budget = self.budget
        while budget is not None and cost > 0:
            cost -= await budget.reserve(cost)

    @property
    def budget(self) -> CallerBudget | None:
        """The caller's budget; None without a rate limit."""
        return None if self.resources.cost_budget is None else CallerBudget(self.resources.cost_budget, self.caller)

    def require_admin_token(self, *, even_if_unset: bool = False) -> None:
        """Raises ForbiddenError if ADMIN_TOKEN is set and the request does not send it.

        `even_if_unset`: nobody may do this while ADMIN_TOKEN is not set.
        """
        if even_if_unset and not self.needs_admin_token:
            raise ForbiddenError("This is disabled because ADMIN_TOKEN is not set")
        if not self.may_fetch:
            raise ForbiddenError("This requires the admin token: send `Authorization: Bearer …` with ADMIN_TOKEN")


Info = strawberry.Info[Context, None]
