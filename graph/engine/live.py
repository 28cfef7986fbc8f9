"""What happens, to whoever subscribed: read once for a process, written once for all who ask the same.

Who comes back with an id first reads what it missed from the database, a page at a time, and goes on with what is in memory;
so does who reads too slowly for that.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar, cast

from db.errors import DatabaseError, DatabaseUnavailableError, PoolExhaustedError
from db.pool import Database, Record
from db.queries import events, version
from db.queries.shapes import Shape
from graph import metrics
from graph.engine.allowance import CallerBudget
from graph.engine.background import running
from graph.engine.feed import AGAIN_S, Feed
from graph.engine.topics import AT_ONCE, Event, Topic
from graph.engine.translation import told
from graph.errors import HistoryChangedError, ResumeTooOldError, UnavailableError

CATCHING_UP: Final = 3
"""Pages that are read at once for those who come back."""
MISSED_AT_ONCE: Final = 250
"""Events that are held for one of them, who may take them slowly."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """Which events are told, and how: whoever asks the same is told in the same words."""

    tickers: frozenset[str] | None
    """None: of all."""
    shapes: tuple[tuple[str, Shape], ...]
    """What is told of each kind of `db.queries.events`; other kinds are not."""

    def written(self, records: Iterable[Record]) -> Iterator[Event]:
        """Those of the records that are told."""
        for record in records:
            write = self._writers.get(record["kind"])
            if write is not None and (self.tickers is None or record["ticker"] in self.tickers):
                yield Event(record["position"], write(cast(Mapping[str, str], record)))  # a record is one

    @cached_property
    def _writers(self) -> Mapping[str, Callable[[Mapping[str, str]], str]]:
        return {kind: shape.writer() for kind, shape in self.shapes}


class Live:
    """The events of a process. Each is read from the database once, however many listen."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._position: int | None = None
        self._topics: dict[Question, Topic] = {}
        self._is_leaving = False
        # So that those who come back leave most connections of the pool to everybody else.
        self._catching_up = asyncio.Semaphore(CATCHING_UP)

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(topic.subscribers for topic in self._topics.values())

    @property
    def position(self) -> int:
        """The id up to which events were read; 0 where nobody listens."""
        return self._position or 0

    @asynccontextmanager
    async def followed(self, db: Database) -> AsyncIterator[None]:
        """Follows commits as long as the block runs."""
        async with running(self._follow(db)):
            yield

    def leave(self) -> None:
        """Ends every subscription with LeavingError, once it has told what is there."""
        self._is_leaving = True
        for topic in self._topics.values():
            topic.end()

    def restart(self, resume_from: int) -> None:
        """Ends every subscription with HistoryChangedError: the database holds another history."""
        topics, self._topics = self._topics, {}
        self._position = None
        for topic in topics.values():
            topic.end(lambda: HistoryChangedError("What was received last", resume_from), at_once=True)

    async def subscribe(
        self, db: Database, question: Question, after: int | None, budget: CallerBudget | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events from now on, or those after an id.

        Events that are read from the database for this subscriber alone are charged to the `budget` as rows, and wait until it
        has them. Raises HistoryChangedError or ResumeTooOldError where nobody can go on from there, or DatabaseError. The
        events themselves raise these, too, and LeavingError.
        """
        position = await self.begun(db)
        if after is not None:
            current = await version.current(db)
            if after > current:
                raise HistoryChangedError(f"after: {after}, which no commit of this database has,", current)
            fork = await version.fork_of(db, after)
            if fork is not None:
                raise HistoryChangedError(f"after: {after}", fork)
            _require_kept(after, await events.oldest(db))
            position = after
        return self._told(db, question, position, budget)

    async def _told(
        self, db: Database, question: Question, position: int, budget: CallerBudget | None
    ) -> AsyncGenerator[Event, None]:
        await patiently(lambda: self.begun(db))
        with self.joined(question) as topic:
            while True:
                topic.require_open()
                if position < topic.begins:
                    try:
                        found, position = await self._missed(db, question, position, topic.begins, budget)
                    except DatabaseError as error:
                        raise (told(error) or _unread()) from error
                else:
                    found = await topic.further(position)
                    position = found[-1].position
                for number, event in enumerate(found, 1):
                    yield event
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)

    async def begun(self, db: Database) -> int:
        """The id up to which everything was told; begins with what is there. Join at once then. Raises DatabaseError."""
        if self._position is None:
            current = await version.current(db)
            if self._position is None:
                self._position = current
        return self._position

    @contextmanager
    def joined(self, question: Question) -> Iterator[Topic]:
        """The topic of the question, which is followed as long as somebody has joined it."""
        topic = self._topics.get(question)
        if topic is None:
            topic = self._topics[question] = Topic(self._position or 0)
        if self._is_leaving:
            topic.end()
        topic.subscribers += 1
        try:
            yield topic
        finally:
            topic.subscribers -= 1
            if not topic.subscribers and self._topics.get(question) is topic:
                del self._topics[question]

    async def _follow(self, db: Database) -> None:
        heard = 0
        while True:
            heard = await self._feed.beyond(heard)
            if not self._topics:
                self._position = None  # whoever comes next begins with what is there then
            elif self._position is not None:
                try:
                    with metrics.told_seconds.time():
                        await self._tell(db, self._position)
                except Exception:
                    metrics.event_read_failures.inc()
                    log.exception("events could not be read: every subscription ends, to come back")
                    self._fail(list(self._topics))

    async def _tell(self, db: Database, position: int) -> None:
        """Reads on, and puts what is new into each topic; one that fails ends alone."""
        is_last = False
        while not is_last:
            page = await patiently(functools.partial(events.after, db, position, events.EVER))
            if self._position != position:
                return  # the history was replaced meanwhile
            position, is_last = page.reached, page.is_last
            self._position = position
            for question, topic in list(self._topics.items()):
                try:
                    found = list(question.written(page.events))
                except Exception:
                    metrics.event_read_failures.inc()
                    log.exception("the events of a subscription could not be written: it ends, to come back")
                    self._fail([question])
                    continue
                if found:
                    topic.put(found)
                    await topic.wake()
                    await asyncio.sleep(0)

    def _fail(self, questions: Iterable[Question]) -> None:
        for question in questions:
            topic = self._topics.pop(question, None)
            if topic is not None:
                topic.end(_unread)

    async def _missed(
        self, db: Database, question: Question, position: int, until: int, budget: CallerBudget | None
    ) -> tuple[list[Event], int]:
        """A page of what came after the position, and the position up to which it tells everything."""
        tickers = None if question.tickers is None else sorted(question.tickers)
        most = MISSED_AT_ONCE if budget is None else await budget.reserve(MISSED_AT_ONCE)
        read = 0
        try:
            async with self._catching_up:
                page = await patiently(functools.partial(events.after, db, position, until, tickers, most=most))
            read = len(page.events)
        finally:
            if budget is not None:
                budget.give_back(most - read)
        _require_kept(position, page.oldest)
        return list(question.written(page.events)), page.reached


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, as soon as the database is there to give it; any other error of the database is raised."""
    failed = False
    while True:
        try:
            return await ask()
        except (DatabaseUnavailableError, PoolExhaustedError) as error:
            metrics.event_read_failures.inc()
            if not failed:
                log.warning("events wait for the database: %s; trying again", error)
            failed = True
            await asyncio.sleep(AGAIN_S)


def _unread() -> UnavailableError:
    return UnavailableError("The events could not be read. Subscribe again with the last id as `after`.")


def _require_kept(position: int, oldest: int) -> None:
    if position < oldest:
        raise ResumeTooOldError(position, oldest)
