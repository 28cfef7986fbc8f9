"""The newest ticks, as the stream process publishes them: not stored, and without resume. They also move the open candles."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from db import times
from db.queries import ticks
from db.queries.shapes import Column, Shape
from graph.engine.topics import Event, Topic, TopicRegistry

PUBLISH_INTERVAL_S: Final = 0.5
"""Minimum interval between two events of a subscription, however many stream processes there are."""
MAX_INITIAL_TICK_AGE_S: Final = 60.0
"""A tick that arrived longer ago than this is not the first event of a subscription."""
MAX_CLOSE_AGE_S: Final = 5.0
"""A tick that arrived longer ago than this is not the close of an open candle: the minute's price may be newer."""
MAX_TICKERS: Final = 2_000
"""Maximum number of tickers in memory. The exchange has about 200."""
MAX_MINUTES: Final = 5
"""Minutes of a ticker whose extremes are in memory. Their range is stored seconds after they end."""

TICK_COLUMNS: Final = {
    "ticker": Column("ticker", '"'),
    "at": Column("at", '"'),
    "price": Column("price", '"'),
}
"""JSON columns of a tick."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TickSelection:
    """The ticks of a subscription and their JSON form."""

    tickers: frozenset[str] | None
    """None selects all tickers."""
    shape: Shape


@dataclass
class TickExtremes:
    """The lowest, highest and last of the ticks that this process received of a minute or of several."""

    low: Decimal
    high: Decimal
    close: Decimal
    closed_at_ms: int
    """The exchange's timestamp of the last tick, in UNIX milliseconds."""
    arrived_at: float
    """When the last tick arrived, by the monotonic clock."""
    is_live: bool = True
    """Whether the last tick arrived within MAX_CLOSE_AGE_S."""


class LiveTicks:
    """The newest ticks of a process, and the subscriptions to them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._latest: dict[str, tuple[int, Decimal, float]] = {}
        """The newest tick of each ticker: UNIX milliseconds, price, and when it arrived."""
        self._minutes: defaultdict[str, dict[int, TickExtremes]] = defaultdict(dict)
        self._changed: set[str] = set()
        """Tickers with ticks that are not published yet."""
        self._published_at = float("-inf")
        self._publishing: asyncio.Task[None] | None = None
        self._position = 0
        self._waiters: dict[asyncio.Future[None], str] = {}
        self.topics: TopicRegistry[TickSelection, Topic] = TopicRegistry(lambda _: Topic(self._position))

    def receive(self, payload: str) -> None:
        """Adds the ticks of a notification. An invalid notification is ignored."""
        try:
            found = ticks.parse_notification(payload)
        except ValueError as error:
            log.warning("%s", error)
            return
        now = self._monotonic()
        for ticker, (at_ms, price) in found.items():
            if ticker not in self._latest and len(self._latest) >= MAX_TICKERS:
                continue
            self._add_to_minute(ticker, at_ms, price, now)
            known = self._latest.get(ticker)
            # An old tick gives way to any other, so that a timestamp far ahead cannot stay the newest one.
            if known is None or known[0] <= at_ms or now - known[2] > MAX_CLOSE_AGE_S:
                self._latest[ticker] = at_ms, price, now
                self._changed.add(ticker)
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.get_running_loop().create_task(self._publish())

    def extremes(self, ticker: str, low: int, high: int) -> TickExtremes | None:
        """Returns what the ticks of the minutes in [low, high) prove, as far as this process holds them; None without ticks."""
        found = [one for ts, one in self._minutes.get(ticker, {}).items() if low <= ts < high]
        if not found:
            return None
        last = max(found, key=lambda one: one.closed_at_ms)
        is_live = self._monotonic() - last.arrived_at <= MAX_CLOSE_AGE_S
        return replace(last, low=min(one.low for one in found), high=max(one.high for one in found), is_live=is_live)

    async def wait_for_tick(self, ticker: str) -> None:
        """Waits until a further tick of the ticker is published."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = ticker
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    async def subscribe(self, selection: TickSelection) -> AsyncGenerator[Event, None]:
        """Yields the newest tick of each selected ticker, then each later one.

        A slow subscriber gets the ticks of the last 30 seconds late, and misses older ones. Raises ShuttingDownError.
        """
        with self.topics.join(selection) as topic:
            position = self._position
            oldest = self._monotonic() - MAX_INITIAL_TICK_AGE_S
            for ticker, (_, _, arrived_at) in sorted(self._latest.items()):
                if arrived_at >= oldest and _is_selected(selection, ticker):
                    yield self._event(selection, ticker)
            while True:
                for event in await topic.wait_for_events_after(position):
                    yield event
                    position = event.position

    async def _publish(self) -> None:
        """Publishes the changed tickers, at most one event of each in PUBLISH_INTERVAL_S."""
        await asyncio.sleep(max(0.0, self._published_at + PUBLISH_INTERVAL_S - self._monotonic()))
        self._published_at = self._monotonic()
        changed, self._changed = sorted(self._changed), set()
        self._position += 1
        for waiter, ticker in list(self._waiters.items()):
            if ticker in changed and not waiter.done():
                waiter.set_result(None)
        for selection, topic in self.topics.items():
            found = [self._event(selection, ticker) for ticker in changed if _is_selected(selection, ticker)]
            if found:
                topic.put(found)
                await topic.wake()

    def _event(self, selection: TickSelection, ticker: str) -> Event:
        at_ms, price, _ = self._latest[ticker]
        row = {"ticker": ticker, "at": times.iso_us(at_ms * 1_000), "price": f"{price:f}"}
        return Event(self._position, selection.shape.writer()(row))

    def _add_to_minute(self, ticker: str, at_ms: int, price: Decimal, now: float) -> None:
        minutes, ts = self._minutes[ticker], at_ms // 60_000 * times.MINUTE
        known = minutes.setdefault(ts, TickExtremes(price, price, price, at_ms, now))
        known.low, known.high = min(known.low, price), max(known.high, price)
        if at_ms >= known.closed_at_ms:
            known.close, known.closed_at_ms, known.arrived_at = price, at_ms, now
        while len(minutes) > MAX_MINUTES:
            del minutes[min(minutes)]


def _is_selected(selection: TickSelection, ticker: str) -> bool:
    return selection.tickers is None or ticker in selection.tickers
