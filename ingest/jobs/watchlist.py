"""Which tickers a worker collects: those of TICKERS that the exchange knows, its own and those of the other running workers."""

import asyncio
import difflib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from db import times
from db.pool import Database
from db.queries import clock, tickers, tracking, writing
from ingest import metrics
from ingest.errors import OutboxError, SourceError
from ingest.outbox import Outbox
from ingest.source import AGREE_WITHIN_S, Source

log = logging.getLogger(__name__)

ALL: Final = "all"
"""In TICKERS: every index that the exchange lists."""
LISTED_EVERY_S: Final = 86_400
"""How often the exchange's list is looked up, where all of it is wanted."""
LISTED_AGAIN_S: Final = 600
"""How soon it is looked up again where a name is gone: only two lists that lack it are believed."""
LOST_MOST: Final = 0.5
"""Part of that list that may never go at once."""
REPAIRED_EVERY_S: Final = 3_600
HEARD_KEPT_S: Final = 60.0
"""How long what another worker wanted is remembered: a Redis that lost everything hears of it again in seconds."""
UNWANTED_FOR_S: Final = 30.0
"""How long no running worker may want a ticker before its period ends: workers tell what they want every few seconds."""


class Watchlist:
    """The tickers of one worker. The periods of tracking follow what all running workers collect.

    A message goes to any worker, so each collects the TICKERS of all of them: else a ticker of one alone would miss the
    minutes that another one does.
    """

    def __init__(self, wanted: Sequence[str], *, follows: bool = True, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Only one that `follows` hears of other workers and writes periods: a collect by hand changes no tracking."""
        self._wanted = list(wanted)
        self._follows = follows
        self._monotonic = monotonic
        self._supported: frozenset[str] | None = None
        self._looked_up_at = -math.inf
        self._missed: frozenset[str] = frozenset()
        """Names that the last list lacked."""
        self._dropped: set[str] = set()
        self._heard_at: dict[str, float] = {}
        """When another worker last said that it wants a ticker."""
        self._others_are_known = False
        self._unwanted_since: dict[str, float] = {}
        self._disagreement = ""
        self._asked_since: dict[str, float] = {}
        self._repaired_at = -math.inf
        self._looking_up = asyncio.Lock()
        self._writing = asyncio.Lock()
        """Another one: whoever waits for the database must not keep a collect from asking."""

    async def tickers(self, *, source: Source) -> list[str]:
        """The tickers to ask for. The first call compares TICKERS with the exchange."""
        async with self._looking_up:
            every_s = LISTED_AGAIN_S if self._missed else LISTED_EVERY_S
            wants_list = self._wants_all and (self._supported is None or self._since_looked_up_s >= every_s)
            if self._looked_up_at == -math.inf or wants_list:
                await self._look_up(source)
                self._looked_up_at = self._monotonic()
            names = self._names()
            # Forgotten with a name that goes: should it come back, its period begins then.
            self._asked_since = {name: self._asked_since.get(name, self._monotonic()) for name in names}
            metrics.unknown.set(sum(not self._is_known(name) for name in self._wanted if name != ALL))
            return names

    async def hear(self, outbox: Outbox | None) -> None:
        """Learns the TICKERS of the other running workers, and says so where they are others than its own."""
        if not self._follows or outbox is None:
            return
        try:
            workers = await outbox.worker_tickers()
        except OutboxError:
            self._others_are_known = False  # nothing ends while it is unknown who collects what
            return
        own, now = set(self._wanted), self._monotonic()
        self._heard_at |= {name: now for names in workers.values() for name in names if name not in own}
        self._heard_at = {name: at for name, at in self._heard_at.items() if now - at < HEARD_KEPT_S}
        self._others_are_known = True
        different = {worker: sorted(set(names) ^ own) for worker, names in workers.items() if set(names) != own}
        disagreement = "; ".join(f"{worker}: {', '.join(names)}" for worker, names in sorted(different.items()))
        if disagreement and disagreement != self._disagreement:
            log.warning("TICKERS differ between running workers, all of them are collected; different are %s", disagreement)
        self._disagreement = disagreement

    async def follow(self, minute: int, *, source: Source, db: Database) -> None:
        """Writes the periods of tracking, where they are not what running workers collect.

        A period begins with the minute in which its ticker was first asked for, however late this succeeds: by the exchange's
        clock, or by the database's where the exchange has not answered yet. Where neither can be believed, none begins.
        Raises DatabaseError where it did not succeed.
        """
        if not self._follows or self._looked_up_at == -math.inf:
            return
        async with self._writing:
            await self._repair(minute, source, db)
            names = self._names()
            tracked = set(await tickers.tracked(db))
            beginning = [name for name in names if name not in tracked]
            ending = self._unwanted(tracked - set(names))
            if not beginning and not ending:
                return
            now = await _believed_now(minute, source, db)
            if now is None:
                log.error("tracking neither begins nor ends while the clocks disagree: set the clock of this host")
                return
            asked_s = {name: self._monotonic() - self._asked_since.get(name, self._monotonic()) for name in beginning}
            since = {name: times.minute_of(now - asked_s[name]) for name in beginning}
            async with writing.turn(db) as connection:
                began = await tracking.begin(connection, since)
                for name, unwanted_s in ending.items():
                    await tracking.end(connection, [name], times.minute_of(now - unwanted_s))
            for name, first in began.items():
                log.info("tracking of %s begins with %s", name, times.iso(first))
            for name, unwanted_s in ending.items():
                log.warning("tracking of %s ends with %s: in no worker's TICKERS", name, times.iso(int(now - unwanted_s)))

    async def drop(self, ticker: str, minute: int, *, db: Database) -> None:
        """Takes back a ticker that the exchange refused as unknown, unless its own list had it: one answer may be wrong."""
        if not self._is_known(ticker) or (self._supported is not None and ticker in self._supported):
            return
        if self._follows:
            async with self._writing, writing.turn(db) as connection:
                await tracking.take_back(connection, ticker, minute)
        self._dropped.add(ticker)
        log.error("TICKERS: %s is unknown to the exchange and is not asked for any more", ticker)

    @property
    def _wants_all(self) -> bool:
        return ALL in self._wanted or ALL in self._heard_at

    @property
    def _since_looked_up_s(self) -> float:
        return self._monotonic() - self._looked_up_at

    def _names(self) -> list[str]:
        wanted = [*self._wanted, *self._heard_at, *(sorted(self._supported or ()) if self._wants_all else ())]
        return [name for name in dict.fromkeys(wanted) if name != ALL and self._is_known(name)]

    def _unwanted(self, names: Collection[str]) -> dict[str, float]:
        """Of tracked tickers that nobody wants: those whose periods end now, and for how many seconds nobody wanted them."""
        if not self._others_are_known or (self._wants_all and self._supported is None):
            names = ()
        now = self._monotonic()
        self._unwanted_since = {name: self._unwanted_since.get(name, now) for name in sorted(names)}
        return {name: now - since for name, since in self._unwanted_since.items() if now - since >= UNWANTED_FOR_S}

    def _is_known(self, name: str) -> bool:
        return name not in self._dropped and (self._supported is None or name in self._supported)

    async def _look_up(self, source: Source) -> None:
        try:
            supported = await source.names()
        except SourceError as error:
            log.warning("TICKERS could not be compared with the exchange's list, all are asked for: %s", error)
            return
        lost = (self._supported or frozenset()) - supported
        if self._supported and len(lost) > len(self._supported) * LOST_MOST:
            log.error(
                "the exchange lists %d of its indexes no more, which is not believed: %s", len(lost), ", ".join(sorted(lost))
            )
            return
        gone, self._missed = lost & self._missed, lost
        self._supported = supported | (lost - gone)
        for name in self._wanted:
            if name not in self._supported and name != ALL:
                near = difflib.get_close_matches(name, supported, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(supported)} others"
                log.error("TICKERS: %s is unknown to the exchange and is not asked for; %s", name, hint)

    async def _repair(self, minute: int, source: Source, db: Database) -> None:
        """Once an hour, and first of all: periods that a wrong clock began too late."""
        now = source.clock.now(minute, within_s=math.inf)
        if now is None or self._monotonic() - self._repaired_at < REPAIRED_EVERY_S:
            return
        moved = True
        while moved:
            async with writing.turn(db) as connection:
                moved = bool(found := await tracking.repair(connection, times.minute_of(now)))
            for row in found:
                log.warning(
                    "tracking of %s began with %s, not with %s: a clock was wrong then",
                    *(row["ticker"], times.iso(row["since"]), times.iso(row["before"])),
                )
        self._repaired_at = self._monotonic()


async def _believed_now(minute: int, source: Source, db: Database) -> float | None:
    """UNIX seconds by the exchange's clock; where that was never heard, by the database's, if it agrees with the minute."""
    if source.clock.was_heard:
        return source.clock.now(minute, within_s=math.inf)
    now = await clock.now(db)
    return now if abs(now - minute) <= AGREE_WITHIN_S else None
