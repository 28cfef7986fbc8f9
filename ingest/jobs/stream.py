"""Collects the ticks of the exchange's stream into minutes, and stores the range of each minute that is over."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Never

from db.errors import DatabaseError
from db.pool import Database
from db.queries import clock, tickers
from db.queries.ticks import notify_ticks
from ingest import metrics
from ingest.errors import OutboxError
from ingest.jobs.drain import drain_ticks
from ingest.jobs.store_ranges import store_ranges
from ingest.outbox import Outbox, StreamState
from ingest.source import MAX_CLOCK_DIFFERENCE_S, ExchangeClock
from ingest.ticks import ClockReading, MinuteTicks, StreamMessage, Tick, TickRejection, UnsealedMinutes

log = logging.getLogger(__name__)

SEAL_INTERVAL_S: Final = 0.5
"""How often minutes that are over are sealed."""
DRAIN_INTERVAL_S: Final = 10.0
"""How often the outbox is drained if nothing was added to it, for minutes that could not be stored before."""
TICKERS_INTERVAL_S: Final = 5.0
"""How often the tracked tickers and the database's clock are read."""
MAX_CLOCK_STEP_S: Final = 2.0
"""How far a reading of the exchange's clock may be from all other clocks without being confirmed by the next reading."""
STATE_INTERVAL_S: Final = 5.0
DATABASE_TIMEOUT_S: Final = 5.0
MAX_UNSAVED_MINUTES: Final = 20_000
"""Minutes held in memory while neither Redis nor PostgreSQL accepts them. Older ones are dropped: they stay unwatched."""


for outcome in ("ok", *TickRejection):
    metrics.ticks.labels(outcome)  # so that a rate exists before the first tick


class TickRecorder:
    """The ticks of one process, from their arrival to their commit."""

    def __init__(
        self,
        db: Database,
        outbox: Outbox,
        fallback_tickers: Sequence[str],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`fallback_tickers` are subscribed until the tracked tickers were read from the database once."""
        self.clock = ExchangeClock(monotonic)
        self._monotonic = monotonic
        self._wall = wall
        self._doubtful_offset_s: float | None = None
        """The last reading that agreed with no other clock, minus the monotonic clock, in seconds."""
        self._db = db
        self._outbox = outbox
        self._tickers = tuple(fallback_tickers)
        self._collector = UnsealedMinutes()
        self._unsaved: list[MinuteTicks] = []
        self._latest: dict[str, Tick] = {}
        """The newest tick of each ticker since the last notification."""
        self._queued = asyncio.Event()
        self._queued.set()  # an earlier process may have left minutes in the outbox
        self._last_tick_ms: int | None = None
        # Two processes may have the same host name and process id, one after the other or in two containers.
        self._process = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    @property
    def last_tick_at(self) -> float | None:
        """The exchange's timestamp of the newest tick, in UNIX seconds."""
        return self._last_tick_ms / 1_000 if self._last_tick_ms is not None else None

    def tickers(self) -> Sequence[str]:
        """Returns the tickers to subscribe."""
        return self._tickers

    def receive(self, received: StreamMessage) -> None:
        """Adds what a message contained."""
        if received.clock is not None and self._is_plausible(received.clock):
            self.clock.observe(received.clock.exchange_us, received.clock.requested_us, received.clock.received_us)
        for tick in received.ticks:
            rejection = self._collector.add(tick, self.trusted_now())
            if rejection is not None:
                received.rejections.append(rejection)
            else:
                metrics.ticks.labels("ok").inc()
                self._last_tick_ms = max(tick.at_ms, self._last_tick_ms or 0)
                previous = self._latest.get(tick.ticker)
                if previous is None or previous.at_ms <= tick.at_ms:
                    self._latest[tick.ticker] = tick
        for rejection in received.rejections:
            metrics.ticks.labels(rejection.value).inc()

    def _is_plausible(self, reading: ClockReading) -> bool:
        """Whether a reading of the exchange's clock agrees with another clock, with earlier readings or with the one before it.

        Otherwise one wrong response would seal minutes too early, or make every tick look late.
        """
        exchange_s = reading.exchange_us / 1e6
        known = (self.clock.now(int(exchange_s)), self._wall(), self.clock.database_now)
        offset_s, doubtful_offset_s = exchange_s - self._monotonic(), self._doubtful_offset_s
        is_plausible = any(abs(exchange_s - now) <= MAX_CLOCK_STEP_S for now in known if now is not None) or (
            doubtful_offset_s is not None and abs(offset_s - doubtful_offset_s) <= MAX_CLOCK_STEP_S
        )
        self._doubtful_offset_s = None if is_plausible else offset_s
        return is_plausible

    def trusted_now(self) -> float | None:
        """Returns UNIX seconds by the exchange's clock; None if unknown, or if neither of the other clocks agrees with it."""
        local_now = self._wall()
        now = self.clock.now(int(local_now))
        others = [local_now] if self.clock.database_now is None else [local_now, self.clock.database_now]
        if now is None or min(abs(now - other) for other in others) > MAX_CLOCK_DIFFERENCE_S:
            return None
        return now

    async def follow_tickers(self) -> Never:
        """Reads the tracked tickers repeatedly. Keeps the last ones while the database is unavailable."""
        while True:
            try:
                async with asyncio.timeout(DATABASE_TIMEOUT_S):
                    tracked = await tickers.list_tracked(self._db)
                    self.clock.observe_database(await clock.now(self._db))
                self._tickers = tuple(tracked) or self._tickers
            except (DatabaseError, TimeoutError) as error:
                log.warning("the tracked tickers cannot be read, the last ones stay subscribed: %s", error or "timeout")
            await asyncio.sleep(TICKERS_INTERVAL_S)

    async def seal_minutes(self) -> Never:
        """Seals the minutes that are over, and moves them into the outbox; directly into PostgreSQL if Redis is unavailable."""
        while True:
            now = self.trusted_now()
            if now is not None:
                self._unsaved += self._collector.seal(now)
            await self._save()
            await asyncio.sleep(SEAL_INTERVAL_S)

    async def drain_outbox(self) -> Never:
        """Commits the minutes in the outbox as soon as there are some. The worker does the same every minute."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_INTERVAL_S):
                    await self._queued.wait()
            self._queued.clear()
            try:
                await drain_ticks(self._outbox, self._db)
            except (OutboxError, DatabaseError) as error:
                log.warning("ticks wait in the outbox: %s", error)

    async def save_all(self) -> None:
        """Seals all minutes, also unfinished ones, and stores them: the process ends."""
        self._unsaved += self._collector.seal_all()
        await self._save()
        with suppress(OutboxError, DatabaseError):  # then they wait in the outbox
            await drain_ticks(self._outbox, self._db)

    async def publish(self, interval_s: float, state: Callable[[], StreamState]) -> Never:
        """Notifies the API processes of the newest ticks, and writes the state of the stream for `status`, repeatedly."""
        state_written_at = float("-inf")
        while True:
            await asyncio.sleep(interval_s)
            latest, self._latest = self._latest, {}
            try:
                await notify_ticks(self._db, {tick.ticker: (tick.at_ms, tick.price) for tick in latest.values()})
            except DatabaseError as error:
                log.debug("the newest ticks are not published: %s", error)
            if time.monotonic() - state_written_at >= STATE_INTERVAL_S:
                state_written_at = time.monotonic()
                try:
                    await self._outbox.write_stream_state(self._process, state())
                except OutboxError as error:
                    log.debug("the state of the stream is not written: %s", error)

    async def _save(self) -> None:
        if not self._unsaved:
            return
        minutes = list(self._unsaved)
        try:
            try:
                await self._outbox.put_ticks(self._process, minutes)
                self._queued.set()
            except OutboxError as error:
                log.warning("ticks go directly into PostgreSQL: %s", error)
                async with asyncio.timeout(DATABASE_TIMEOUT_S):
                    await store_ranges(self._db, minutes)
        except (DatabaseError, TimeoutError) as error:
            log.warning("%d minutes of ticks wait in memory: %s", len(minutes), error or "no response from PostgreSQL")
            dropped = max(0, len(minutes) - MAX_UNSAVED_MINUTES)
            metrics.ticks_dropped_minutes.inc(dropped)
        else:
            dropped = len(minutes)
        del self._unsaved[:dropped]
