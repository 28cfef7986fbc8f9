"""The tickers that a worker collects: those in the TICKERS of any running worker that the exchange supports."""

import asyncio
import difflib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from db import times
from db.pool import Database
from db.queries import clock, tickers, tracking, write_lock
from ingest import metrics
from ingest.errors import OutboxError, SourceError
from ingest.outbox import Outbox
from ingest.source import MAX_CLOCK_DIFFERENCE_S, Exchange

log = logging.getLogger(__name__)

ALL: Final = "all"
"""Value in TICKERS for every index that the exchange lists."""
LIST_INTERVAL_S: Final = 86_400
"""How often the exchange's list is read if TICKERS contains `all`."""
LIST_RETRY_INTERVAL_S: Final = 600
"""How soon the list is read again if a name is missing: a name is dropped after two lists without it."""
MAX_LOST_RATIO: Final = 0.5
"""Part of the list that may disappear at once. A list that lost more is ignored."""
REPAIR_INTERVAL_S: Final = 3_600
WORKER_TICKERS_TTL_S: Final = 60.0
"""How long the tickers of another worker are remembered. A Redis that lost its data has the heartbeats again in seconds."""
UNWANTED_TIMEOUT_S: Final = 30.0
"""How long a ticker must be missing in every running worker's TICKERS before its tracking period ends."""


class Watchlist:
    """The tickers of one worker. The tracking periods reflect the tickers of all running workers.

    Any worker may receive a message, so each collects the TICKERS of all workers. Otherwise a ticker of only one worker would
    miss the minutes that another worker processes.
    """

    def __init__(
        self, wanted: Sequence[str], *, updates_tracking: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Without `updates_tracking`, it ignores other workers and writes no periods: a manual collect changes no tracking."""
        self._wanted = list(wanted)
        self._updates_tracking = updates_tracking
        self._monotonic = monotonic
        self._supported: frozenset[str] | None = None
        self._list_read_at = -math.inf
        self._missing_names: frozenset[str] = frozenset()
        """Names that are missing in the last list."""
        self._dropped: set[str] = set()
        self.unknown: dict[str, str] = {}
        """The names in TICKERS that the exchange does not know, each with an error message."""
        self._wanted_by_others_at: dict[str, float] = {}
        """When another worker's heartbeat last contained the ticker, by the monotonic clock."""
        self._worker_tickers_are_known = False
        self._unwanted_since: dict[str, float] = {}
        self._disagreement = ""
        self._requested_since: dict[str, float] = {}
        self._repaired_at = -math.inf
        self._lookup_lock = asyncio.Lock()
        self._tracking_lock = asyncio.Lock()
        """A separate lock: a task that waits for the database must not block a collect."""

    async def tickers(self, *, source: Exchange) -> list[str]:
        """Returns the tickers to collect. The first call compares TICKERS with the exchange's list."""
        async with self._lookup_lock:
            interval_s = LIST_RETRY_INTERVAL_S if self._missing_names else LIST_INTERVAL_S
            wants_list = self._wants_all and (self._supported is None or self._since_list_read_s >= interval_s)
            if self._list_read_at == -math.inf or wants_list:
                await self._read_exchange_names(source)
                self._list_read_at = self._monotonic()
            names = self._names()
            # Forgets the names that disappeared: if one returns, its tracking period begins at its return.
            self._requested_since = {name: self._requested_since.get(name, self._monotonic()) for name in names}
            metrics.unknown_tickers.set(len(self.unknown))
            return names

    async def read_worker_tickers(self, outbox: Outbox | None) -> None:
        """Reads the TICKERS of the other running workers, and logs a warning if they differ from its own."""
        if not self._updates_tracking or outbox is None:
            return
        try:
            workers = await outbox.worker_tickers()
        except OutboxError:
            self._worker_tickers_are_known = False  # no period ends while the tickers of other workers are unknown
            return
        own_tickers, now = set(self._wanted), self._monotonic()
        self._wanted_by_others_at |= {name: now for names in workers.values() for name in names if name not in own_tickers}
        self._wanted_by_others_at = {
            name: at for name, at in self._wanted_by_others_at.items() if now - at < WORKER_TICKERS_TTL_S
        }
        self._worker_tickers_are_known = True
        different = {worker: sorted(set(names) ^ own_tickers) for worker, names in workers.items() if set(names) != own_tickers}
        disagreement = "; ".join(f"{worker}: {', '.join(names)}" for worker, names in sorted(different.items()))
        if disagreement and disagreement != self._disagreement:
            log.warning(
                "TICKERS differ between running workers, all of them are collected; the differences are %s", disagreement
            )
        self._disagreement = disagreement

    async def update_tracking(self, minute: int, *, source: Exchange, db: Database) -> None:
        """Writes the tracking periods if they differ from what running workers collect. Raises DatabaseError.

        A period begins with the minute in which its ticker was first requested, even if it is written later. The minute is that
        of the exchange's clock, or of the database's if the exchange has not responded yet. If both are unreliable, no period
        begins.
        """
        if not self._updates_tracking or self._list_read_at == -math.inf:
            return
        async with self._tracking_lock:
            await self._repair(minute, source, db)
            names = self._names()
            tracked = set(await tickers.list_tracked(db))
            new_names = [name for name in names if name not in tracked]
            ending_names = self._unwanted(tracked - set(names))
            if not new_names and not ending_names:
                return
            now = await _trusted_now(minute, source, db)
            if now is None:
                log.error("tracking neither begins nor ends while the clocks disagree: correct the clock of this host")
                return
            requested_s = {name: self._monotonic() - self._requested_since.get(name, self._monotonic()) for name in new_names}
            since = {name: times.minute_of(now - requested_s[name]) for name in new_names}
            async with write_lock.write_transaction(db) as connection:
                began = await tracking.begin_periods(connection, since)
                for name, unwanted_s in ending_names.items():
                    await tracking.end_periods(connection, [name], times.minute_of(now - unwanted_s))
            for name, first in began.items():
                log.info("tracking of %s begins with %s", name, times.iso(first))
            for name, unwanted_s in ending_names.items():
                log.warning("tracking of %s ends with %s: in no worker's TICKERS", name, times.iso(int(now - unwanted_s)))

    async def drop(self, ticker: str, minute: int, *, db: Database) -> None:
        """Drops a ticker that the exchange rejected as unknown, unless its list contains it: one response may be wrong."""
        if not self._is_known(ticker) or (self._supported is not None and ticker in self._supported):
            return
        if self._updates_tracking:
            async with self._tracking_lock, write_lock.write_transaction(db) as connection:
                await tracking.remove_unknown_ticker(connection, ticker, minute)
        self._dropped.add(ticker)
        self.unknown[ticker] = "it is unknown to the exchange"
        log.error("TICKERS: %s is unknown to the exchange and is no longer collected", ticker)

    @property
    def _wants_all(self) -> bool:
        return ALL in self._wanted or ALL in self._wanted_by_others_at

    @property
    def _since_list_read_s(self) -> float:
        return self._monotonic() - self._list_read_at

    def _names(self) -> list[str]:
        wanted = [*self._wanted, *self._wanted_by_others_at, *(sorted(self._supported or ()) if self._wants_all else ())]
        return [name for name in dict.fromkeys(wanted) if name != ALL and self._is_known(name)]

    def _unwanted(self, names: Collection[str]) -> dict[str, float]:
        """Returns the tickers in no worker's TICKERS whose periods end now, and for how many seconds they were in none."""
        if not self._worker_tickers_are_known or (self._wants_all and self._supported is None):
            names = ()
        now = self._monotonic()
        self._unwanted_since = {name: self._unwanted_since.get(name, now) for name in sorted(names)}
        return {name: now - since for name, since in self._unwanted_since.items() if now - since >= UNWANTED_TIMEOUT_S}

    def _is_known(self, name: str) -> bool:
        return name not in self._dropped and (self._supported is None or name in self._supported)

    async def _read_exchange_names(self, source: Exchange) -> None:
        try:
            supported = await source.names()
        except SourceError as error:
            log.warning("cannot compare TICKERS with the exchange's list, all of them are collected: %s", error)
            return
        lost = (self._supported or frozenset()) - supported
        if self._supported and len(lost) > len(self._supported) * MAX_LOST_RATIO:
            log.error(
                "%d indexes disappeared at once from the exchange's list, which is ignored: %s",
                len(lost),
                ", ".join(sorted(lost)),
            )
            return
        dropped, self._missing_names = lost & self._missing_names, lost
        self._supported = supported | (lost - dropped)
        self.unknown = {name: self.unknown[name] for name in self._dropped}
        for name in self._wanted:
            if name not in self._supported and name != ALL:
                suggestions = difflib.get_close_matches(name, supported, n=3)
                hint = f"did you mean {' or '.join(suggestions)}?" if suggestions else f"it lists {len(supported)} others"
                self.unknown[name] = f"it is unknown to the exchange; {hint}"
                log.error("TICKERS: %s is unknown to the exchange and is not collected; %s", name, hint)

    async def _repair(self, minute: int, source: Exchange, db: Database) -> None:
        """Corrects periods that a wrong clock began too late. Runs first, and then once an hour."""
        now = source.clock.now(minute)
        if now is None or self._monotonic() - self._repaired_at < REPAIR_INTERVAL_S:
            return
        moved = True
        while moved:
            async with write_lock.write_transaction(db) as connection:
                moved = bool(found := await tracking.repair(connection, times.minute_of(now)))
            for row in found:
                log.warning(
                    "tracking of %s is corrected to begin with %s instead of %s: a clock was wrong",
                    *(row["ticker"], times.iso(row["since"]), times.iso(row["previous_since"])),
                )
        self._repaired_at = self._monotonic()


async def _trusted_now(minute: int, source: Exchange, db: Database) -> float | None:
    """Returns UNIX seconds by the exchange's clock; if never measured, by the database's if it agrees with the minute."""
    if source.clock.has_observation:
        return source.clock.now(minute)
    now = await clock.now(db)
    return now if abs(now - minute) <= MAX_CLOCK_DIFFERENCE_S else None
