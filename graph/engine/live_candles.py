"""The candle that is open, to whoever follows it: read once for all who ask the same, whenever it may have changed."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from db import tracing
from db.pool import Database
from db.queries import candles
from db.queries.candles import Interval
from db.queries.shapes import Shape
from graph.engine.live import Live, Question, patiently
from graph.engine.topics import Event, LeavingError, Topic
from graph.errors import HistoryChangedError, UnavailableError

log = logging.getLogger(__name__)

NOTHING: Final = Shape(())
LOOKED_AT_MOST: Final = 100
"""Candles that are looked at where the database was away for long."""


@dataclass(frozen=True)
class Followed:
    """Which candle is followed, and what is told of it."""

    ticker: str
    interval: Interval
    shape: Shape


class _Candles(Topic):
    """What was told of a candle, and of those before it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.last = 0
        """The position of the last event."""
        self.open: Event | None = None
        """What was last told of the candle that is open."""
        self.following: asyncio.Task[None]

    def tell(self, text: str, *, is_open: bool) -> None:
        """Adds an event. `wake` then."""
        self.last += 1
        event = Event(self.last, text)
        if is_open:
            self.open = event
        self.put([event])


class LiveCandles:
    """The candles that somebody follows."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._topics: dict[Followed, _Candles] = {}
        self._is_leaving = False

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(topic.subscribers for topic in self._topics.values())

    def leave(self) -> None:
        """Ends every subscription with LeavingError, once it has told what is there."""
        self._is_leaving = True
        for topic in self._topics.values():
            topic.end()

    async def subscribe(self, db: Database, followed: Followed) -> AsyncGenerator[Event, None]:
        """The open candle as it stands, each time it changes, and its closing; then the next one's.

        Raises LeavingError, or UnavailableError where it cannot be told any more.
        """
        with self._joined(db, followed) as topic:
            position = topic.last
            if topic.open is not None:
                yield topic.open
            while True:
                for event in await topic.further(position):
                    yield event
                    position = event.position

    @contextmanager
    def _joined(self, db: Database, followed: Followed) -> Iterator[_Candles]:
        topic = self._topics.get(followed)
        if topic is None:
            topic = self._topics[followed] = _Candles()
            with tracing.unseen():  # it is for all who come
                topic.following = asyncio.create_task(self._follow(db, followed, topic))
        if self._is_leaving:
            topic.end()
        topic.subscribers += 1
        try:
            yield topic
        finally:
            topic.subscribers -= 1
            if not topic.subscribers:
                topic.following.cancel()
                if self._topics.get(followed) is topic:
                    del self._topics[followed]

    async def _follow(self, db: Database, followed: Followed, topic: _Candles) -> None:
        """Tells until nobody listens, or the process leaves."""
        try:
            await self._tell(db, followed, topic)
        except LeavingError:
            topic.end()
        except HistoryChangedError as error:
            topic.end(functools.partial(_itself, error), at_once=True)
        except Exception:
            log.exception("a candle could not be told")
            topic.end(lambda: UnavailableError("The candle cannot be told any more; subscribe again."))
        finally:
            if self._topics.get(followed) is topic:
                del self._topics[followed]

    async def _tell(self, db: Database, followed: Followed, topic: _Candles) -> None:
        """Reads the candles anew whenever something of the ticker was stored, and when the open one's time is over."""
        interval, told = followed.interval, dict[int, str]()
        question = Question(frozenset({followed.ticker}), (("price", NOTHING), ("history", NOTHING)))
        seen = await patiently(lambda: self._live.begun(db))
        start = interval.at_or_before(int(time.time()))
        with self._live.joined(question) as stored:
            while True:
                now = int(time.time())
                starts = _starts(interval, interval.at_or_before(start - 1), now)
                found = {at: await _read(db, followed, at, now) for at in starts}
                start = starts[-1]
                for at, text in found.items():
                    if text and text != told.get(at) and (told or at == start):
                        topic.tell(text, is_open=at == start)
                if not found[start]:
                    topic.open = None
                told = found
                await topic.wake()
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval.at_or_after(start + 1) - time.time()):
                        seen = (await stored.further(seen))[-1].position


def _itself(error: Exception) -> Exception:
    return error


def _starts(interval: Interval, low: int, now: int) -> list[int]:
    """When the candles begin that are to be looked at: the one before the last that was open, up to the one that is."""
    found = [interval.at_or_before(now)]
    while found[0] > low and len(found) < LOOKED_AT_MOST:
        found.insert(0, interval.at_or_before(found[0] - 1))
    return found


async def _read(db: Database, followed: Followed, start: int, now: int) -> str:
    """The candle that begins there; '' where it has no price."""
    asked = followed.interval, followed.shape, followed.ticker, start, start + 1, now
    return (await patiently(lambda: candles.listed(db, *asked, with_open=True)))[1:-1]
