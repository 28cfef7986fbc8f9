"""Which tickers a worker asks for: those of TICKERS that the exchange knows."""

import asyncio
import difflib
import logging
from collections.abc import Sequence

from db import times
from db.pool import Database
from db.queries import tracking, writing
from ingest import metrics
from ingest.errors import SourceError
from ingest.source import Source

log = logging.getLogger(__name__)


class Watchlist:
    """The tickers of one worker. The periods of tracking in the database follow the last worker that started."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = list(wanted)
        self._asked: list[str] | None = None
        self._confirmed: frozenset[str] = frozenset()
        self._begins_at: int | None = None
        self._looking_up = asyncio.Lock()
        self._writing = asyncio.Lock()
        """Another one: whoever waits for the database must not keep a collect from asking."""

    async def tickers(self, minute: int, *, source: Source) -> list[str]:
        """The tickers to ask for in the minute. The first call compares TICKERS with the exchange."""
        async with self._looking_up:
            if self._asked is None:
                self._asked = await self._known(source)
                self._tell()
                self._begins_at = _now(minute, source)
            return list(self._asked)

    async def follow(self, db: Database) -> None:
        """Writes the periods, once: they begin in the minute of the first call of `tickers`, however late this succeeds.

        Raises DatabaseError where it did not succeed.
        """
        async with self._writing:
            if self._asked is not None and self._begins_at is not None:
                await _follow(self._asked, self._begins_at, db)
                self._begins_at = None

    async def follow_again(self, minute: int, *, source: Source, db: Database) -> None:
        """Writes the periods once more, into a database that lost them."""
        async with self._writing:
            await _follow(self._asked or self._wanted, _now(minute, source), db)

    async def drop(self, ticker: str, minute: int, *, db: Database) -> None:
        """Takes back a ticker that the exchange refused as unknown, unless its own list had it: one answer may be wrong."""
        async with self._writing:
            if self._asked is None or ticker not in self._asked or ticker in self._confirmed:
                return
            async with writing.turn(db) as connection:
                await tracking.take_back(connection, ticker, minute)
            self._asked.remove(ticker)
            self._tell()
        log.error("TICKERS: %s is unknown to the exchange and is not asked for any more", ticker)

    def _tell(self) -> None:
        metrics.unknown.set(len(self._wanted) - len(self._asked or ()))

    async def _known(self, source: Source) -> list[str]:
        try:
            supported = await source.names()
        except SourceError as error:
            log.warning("TICKERS could not be compared with the exchange's list, all are asked for: %s", error)
            return list(self._wanted)
        self._confirmed = supported.intersection(self._wanted)
        for name in self._wanted:
            if name not in supported:
                near = difflib.get_close_matches(name, supported, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(supported)} others"
                log.error("TICKERS: %s is unknown to the exchange and is not asked for; %s", name, hint)
        return [name for name in self._wanted if name in supported]


def _now(minute: int, source: Source) -> int:
    now = source.clock.now(minute)
    return times.minute_of(now) if now is not None else minute


async def _follow(names: Sequence[str], minute: int, db: Database) -> None:
    async with writing.turn(db) as connection:
        began, ended = await tracking.follow(connection, names, minute)
    if began:
        log.info("tracking of %s begins with %s", ", ".join(began), times.iso(minute))
    if ended:
        log.warning("tracking of %s ends with %s: no longer in TICKERS", ", ".join(ended), times.iso(minute))
