"""Delivers open candles to subscribers. A candle is read once for all identical subscriptions, whenever it may have changed."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import orjson

from db.pool import Database
from db.queries import candles
from db.queries.candles import Basis, Interval
from db.queries.shapes import Shape
from db.runtime import tracing
from graph.engine.live_events import EventSelection, LiveEvents, read_with_retry
from graph.engine.live_ticks import LiveTicks
from graph.engine.topics import Event, ShuttingDownError, Topic, TopicRegistry
from graph.errors import HistoryChangedError, UnavailableError

log = logging.getLogger(__name__)

NO_COLUMNS: Final = Shape(())
"""An event only triggers a read of the candle, so its own JSON is empty."""
MAX_CANDLES_CHECKED: Final = 100
"""Maximum number of candles to read after a long outage of the database."""


@dataclass(frozen=True)
class CandleSelection:
    """The candles of a subscription and their JSON form."""

    ticker: str
    interval: Interval
    basis: Basis
    shape: Shape


class _CandleTopic(Topic):
    """The events of one candle selection, for all its subscribers."""

    def __init__(self) -> None:
        super().__init__(0)
        self.last_position = 0
        """The position of the last event."""
        self.open_event: Event | None = None
        """The last event of the open candle."""
        self.task: asyncio.Task[None]

    def on_empty(self) -> None:
        self.task.cancel()

    def add_event(self, text: str, *, is_open: bool) -> None:
        """Adds an event. Call `wake` afterwards."""
        self.last_position += 1
        event = Event(self.last_position, text)
        if is_open:
            self.open_event = event
        self.put([event])


class LiveCandles:
    """The candle subscriptions of a process."""

    def __init__(self, live: LiveEvents, ticks: LiveTicks) -> None:
        self._live = live
        self._ticks = ticks
        self.topics: TopicRegistry[tuple[Database, CandleSelection], _CandleTopic] = TopicRegistry(self._start_topic)

    async def subscribe(self, db: Database, selection: CandleSelection) -> AsyncGenerator[Event, None]:
        """Yields the open candle, each of its changes, and its final state; then the next candle.

        Raises ShuttingDownError, HistoryChangedError, or UnavailableError if the candle cannot be read.
        """
        with self.topics.join((db, selection)) as topic:
            position = topic.last_position
            if topic.open_event is not None:
                yield topic.open_event
            while True:
                for event in await topic.wait_for_events_after(position):
                    yield event
                    position = event.position

    def _start_topic(self, key: tuple[Database, CandleSelection]) -> _CandleTopic:
        topic = _CandleTopic()
        with tracing.suppress():  # the task serves all subscribers, so it belongs to no trace
            topic.task = asyncio.create_task(self._run_topic(*key, topic))
        return topic

    async def _run_topic(self, db: Database, selection: CandleSelection, topic: _CandleTopic) -> None:
        """Publishes changes until the topic has no subscribers or the process shuts down."""
        try:
            await self._publish_changes(db, selection, topic)
        except ShuttingDownError:
            topic.close()
        except HistoryChangedError as error:
            resume_from = int(error.extensions["resumeFrom"])
            topic.close(lambda: HistoryChangedError("The candle", resume_from, "Subscribe again"), immediately=True)
        except Exception:
            log.exception("a candle could not be read: its subscriptions end")
            topic.close(lambda: UnavailableError("The candle could not be read. Subscribe again."))
        finally:
            self.topics.discard((db, selection), topic)

    async def _publish_changes(self, db: Database, selection: CandleSelection, topic: _CandleTopic) -> None:
        """Reads the candles again after each price or range of the ticker, and when the interval of the open candle ends.

        In between, ticks move the open candle as they are published.
        """
        interval, published = selection.interval, dict[int, str]()
        kinds = ("price", "range", "history")
        event_selection = EventSelection(frozenset({selection.ticker}), tuple((kind, NO_COLUMNS) for kind in kinds))
        position = await read_with_retry(lambda: self._live.start_position(db))
        start = interval.floor(int(time.time()))
        found: dict[int, str] = {}
        with self._live.topics.join(event_selection) as event_topic:
            while True:
                if not found or event_topic.events_after(position) or time.time() >= interval.ceil(start + 1):
                    position = max([position, *(event.position for event in event_topic.events_after(position))])
                    now = int(time.time())
                    starts = _starts_to_check(interval, interval.floor(start - 1), now)
                    found = {begin: await _read_candle(db, selection, begin, now) for begin in starts}
                    start = starts[-1]
                # A candle that has just ended may lack the range of its last minute.
                moved = {
                    begin: self._move_by_ticks(selection, begin, text, is_open=begin == start) for begin, text in found.items()
                }
                # The first read publishes only the open candle; later reads also publish changes of the previous ones.
                for begin, text in moved.items():
                    if text and text != published.get(begin) and (published or begin == start):
                        topic.add_event(text, is_open=begin == start)
                if not moved[start]:
                    topic.open_event = None
                published = moved
                await topic.wake()
                await self._wait_for_change(selection, event_topic, position, interval.ceil(start + 1) - time.time())

    async def _wait_for_change(self, selection: CandleSelection, event_topic: Topic, position: int, timeout_s: float) -> None:
        """Waits for an event after the position, a tick, or the timeout. Raises the error of a closed topic."""
        events = asyncio.create_task(event_topic.wait_for_events_after(position))
        waiting: set[asyncio.Task[Any]] = {events}
        if selection.basis is Basis.RANGE:
            waiting.add(asyncio.create_task(self._ticks.wait_for_tick(selection.ticker)))
        try:
            await asyncio.wait(waiting, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
            if events.done():
                events.result()
        finally:
            for task in waiting:
                task.cancel()

    def _move_by_ticks(self, selection: CandleSelection, start: int, text: str, *, is_open: bool) -> str:
        """Returns the candle with the ticks that are not stored yet. Ticks that are stored do not change it again."""
        seen = self._ticks.extremes(selection.ticker, start, selection.interval.ceil(start + 1))
        if not text or seen is None or selection.basis is not Basis.RANGE:
            return text
        members = orjson.loads(text)
        for key, column in selection.shape.members:
            if column is candles.JSON_COLUMNS["high"]:
                members[key] = f"{max(Decimal(members[key]), seen.high):f}"
            elif column is candles.JSON_COLUMNS["low"]:
                members[key] = f"{min(Decimal(members[key]), seen.low):f}"
            elif column is candles.JSON_COLUMNS["close"] and is_open and seen.is_live:
                members[key] = f"{seen.close:f}"
        return orjson.dumps(members).decode()


def _starts_to_check(interval: Interval, low: int, now: int) -> list[int]:
    """Returns the starts of the candles to read, from `low` to the open candle, at most MAX_CANDLES_CHECKED."""
    found = [interval.floor(now)]
    while found[0] > low and len(found) < MAX_CANDLES_CHECKED:
        found.insert(0, interval.floor(found[0] - 1))
    return found


async def _read_candle(db: Database, selection: CandleSelection, start: int, now: int) -> str:
    """Returns the JSON of the candle that starts at `start`; '' if it has no price."""
    arguments = selection.interval, selection.shape, selection.ticker, start, start + 1, now
    return (await read_with_retry(lambda: candles.fetch_json(db, *arguments, basis=selection.basis, with_open=True)))[1:-1]
