"""Which tickers a worker asks for: those of TICKERS that the exchange knows."""

import asyncio
import difflib
import logging
from collections.abc import Sequence

from db import times
from db.pool import Database
from db.queries import tracking, writing
from ingest.errors import SourceError
from ingest.source import Source

log = logging.getLogger(__name__)


class Watchlist:
    """The tickers of one worker. The periods of tracking in the database follow the last worker that started."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = list(wanted)
        self._asked: list[str] | None = None
        self._lock = asyncio.Lock()

    async def tickers(self, minute: int, *, source: Source, db: Database) -> list[str]:
        """The tickers to ask for in the minute. The first call compares TICKERS with the exchange and the database.

        Raises DatabaseError where the periods could not be written: the next call tries again.
        """
        async with self._lock:
            if self._asked is None:
                known = await _known(self._wanted, source)
                now = source.clock.now()
                await _follow(known, times.minute_of(now) if now is not None else minute, db)
                self._asked = known
            return list(self._asked)

    async def drop(self, ticker: str, minute: int, *, db: Database) -> None:
        """Takes back a ticker that the exchange refused as unknown: it is not asked for again by this worker."""
        log.error("TICKERS: %s is unknown to the exchange and is not asked for any more", ticker)
        async with self._lock:
            if self._asked is not None and ticker in self._asked:
                self._asked.remove(ticker)
                async with writing.turn(db) as connection:
                    await tracking.take_back(connection, ticker, minute)


async def _known(wanted: Sequence[str], source: Source) -> list[str]:
    try:
        supported = await source.names()
    except SourceError as error:
        log.warning("TICKERS could not be compared with the exchange's list, all are asked for: %s", error)
        return list(wanted)
    for name in wanted:
        if name not in supported:
            near = difflib.get_close_matches(name, supported, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(supported)} others"
            log.error("TICKERS: %s is unknown to the exchange and is not asked for; %s", name, hint)
    return [name for name in wanted if name in supported]


async def _follow(names: Sequence[str], minute: int, db: Database) -> None:
    async with writing.turn(db) as connection:
        began, ended = await tracking.follow(connection, names, minute)
    if began:
        log.info("tracking of %s begins with %s", ", ".join(began), times.iso(minute))
    if ended:
        log.warning("tracking of %s ends with %s: no longer in TICKERS", ", ".join(ended), times.iso(minute))
