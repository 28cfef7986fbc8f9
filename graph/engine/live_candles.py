"""The candle that is open, to whoever follows it: read once for all who ask the same, whenever it may have changed."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from db.errors import DatabaseError
from db.pool import Database
from db.queries import candles
from db.queries.candles import Interval
from db.queries.shapes import Shape
from graph.engine.feed import AGAIN_S
from graph.engine.live import Live, Question
from graph.engine.topics import Event, LeavingError, Topic

log = logging.getLogger(__name__)

NOTHING: Final = Shape(())


@dataclass(frozen=True)
class Followed:
    """Which candle is followed, and what is told of it."""

    ticker: str
    interval: Interval
    shape: Shape


class LiveCandles:
    """The candles that somebody follows."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._topics: dict[Followed, tuple[Topic, asyncio.Task[None]]] = {}
        self._is_leaving = False

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(topic.subscribers for topic, _ in self._topics.values())

    def leave(self) -> None:
        """Ends every subscription with LeavingError, once it has told what is there."""
        self._is_leaving = True
        for topic, _ in self._topics.values():
            topic.leave()

    async def subscribe(self, db: Database, followed: Followed) -> AsyncGenerator[Event, None]:
        """The open candle as it stands, each time it changes, and its closing; then the next one's. Raises LeavingError."""
        with self._joined(db, followed) as topic:
            position = max((event.position for event in topic.beyond(0)), default=1) - 1
            while True:
                for event in await topic.further(position):
                    yield event
                    position = event.position

    @contextmanager
    def _joined(self, db: Database, followed: Followed) -> Iterator[Topic]:
        if followed not in self._topics:
            topic = Topic(0)
            self._topics[followed] = topic, asyncio.create_task(self._follow(db, followed, topic))
        topic, task = self._topics[followed]
        if self._is_leaving:
            topic.leave()
        topic.subscribers += 1
        try:
            yield topic
        finally:
            topic.subscribers -= 1
            if not topic.subscribers:
                task.cancel()
                del self._topics[followed]

    async def _follow(self, db: Database, followed: Followed, topic: Topic) -> None:
        """Tells until nobody listens, or the process leaves."""
        try:
            await self._tell(db, followed, topic)
        except (LeavingError, DatabaseError):
            pass  # who listens comes back
        except Exception:
            log.exception("a candle could not be told")
        finally:
            topic.leave()

    async def _tell(self, db: Database, followed: Followed, topic: Topic) -> None:
        """Reads the candle anew whenever something of its ticker was stored, and when its time is over."""
        interval, number, told = followed.interval, 0, dict[int, str]()
        question = Question(frozenset({followed.ticker}), (("price", NOTHING), ("history", NOTHING)))
        seen = await self._live.begun(db)
        with self._live.joined(question) as stored:
            while True:
                now = int(time.time())
                start = interval.at_or_before(now)
                last = interval.at_or_before(start - 1)
                found = {at: await _read(db, followed, at, now) for at in (last, start)}
                new = [text for at, text in found.items() if text and text != told.get(at) and (told or at == start)]
                told = found
                topic.put(Event(number := number + 1, text) for text in new)
                await topic.wake()
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval.at_or_after(start + 1) - time.time()):
                        seen = (await stored.further(seen))[-1].position


async def _read(db: Database, followed: Followed, start: int, now: int) -> str:
    """The candle that begins there; '' where it has no price."""
    asked = followed.interval, followed.shape, followed.ticker, start, start + 1, now
    while True:
        try:
            return (await candles.listed(db, *asked, with_open=True))[1:-1]
        except DatabaseError as error:
            log.debug("a candle waits for the database: %s", error)
            await asyncio.sleep(AGAIN_S)
