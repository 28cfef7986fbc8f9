"""Delivers events to subscribers. A process reads each event once, and renders it once for all identical subscriptions.

A subscriber that resumes from an id first reads the missed events from the database, page by page. Then it continues with the
events in memory. A subscriber that is too slow for memory reads from the database in the same way.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar, cast

from db.errors import DatabaseError, DatabaseUnavailableError, PoolExhaustedError
from db.pool import Database, Record
from db.queries import events, version
from db.queries.shapes import Shape
from graph import metrics
from graph.engine.background import background_task
from graph.engine.client_errors import to_client_error
from graph.engine.commit_listener import RETRY_INTERVAL_S, CommitListener
from graph.engine.rate_limit import CallerBudget
from graph.engine.topics import BATCH_SIZE, Event, Topic, TopicRegistry
from graph.errors import HistoryChangedError, ResumeTooOldError, UnavailableError

MAX_CONCURRENT_CATCH_UPS: Final = 3
"""Pages read at the same time for subscribers that catch up."""
CATCH_UP_PAGE_SIZE: Final = 250
"""Maximum number of events read at once for one subscriber. They stay in memory until the subscriber has read them."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class EventSelection:
    """The events of a subscription and their JSON form. Subscribers with equal selections share one topic."""

    tickers: frozenset[str] | None
    """None selects all tickers."""
    shapes: tuple[tuple[str, Shape], ...]
    """The shape of each delivered kind of `db.queries.events`. Other kinds are not delivered."""

    def render(self, records: Iterable[Record]) -> Iterator[Event]:
        """Renders those of the records that this selection includes."""
        for record in records:
            write = self._writers.get(record["kind"])
            if write is not None and (self.tickers is None or record["ticker"] in self.tickers):
                yield Event(record["position"], write(cast(Mapping[str, str], record)))  # a Record supports reading by key

    @cached_property
    def _writers(self) -> Mapping[str, Callable[[Mapping[str, str]], str]]:
        return {kind: shape.writer() for kind, shape in self.shapes}


class LiveEvents:
    """The event subscriptions of a process. It reads each event from the database once for all subscribers."""

    def __init__(self, commits: CommitListener) -> None:
        self._commits = commits
        self._position: int | None = None
        self.topics: TopicRegistry[EventSelection, Topic] = TopicRegistry(lambda _: Topic(self._position or 0))
        # Leaves most connections of the pool to other requests.
        self._catch_up_slots = asyncio.Semaphore(MAX_CONCURRENT_CATCH_UPS)

    @property
    def position(self) -> int:
        """The id up to which events were read; 0 if there were no subscribers at the last commit."""
        return self._position or 0

    @asynccontextmanager
    async def run_in_background(self, db: Database) -> AsyncIterator[None]:
        """Delivers the events of each commit while the block runs."""
        async with background_task(self._follow_commits(db)):
            yield

    def handle_history_change(self, resume_from: int) -> None:
        """Ends every subscription with HistoryChangedError, because the history of the database was replaced."""
        self._position = None
        for selection, topic in self.topics.items():
            self.topics.discard(selection, topic)
            topic.close(lambda: HistoryChangedError("The last received id", resume_from), immediately=True)

    async def subscribe(
        self, db: Database, selection: EventSelection, after: int | None, budget: CallerBudget | None = None
    ) -> AsyncGenerator[Event, None]:
        """Returns the events from now on, or those after the id `after`.

        Events that are read from the database for this subscriber alone are charged to `budget` as rows. The subscriber waits
        while the budget is empty. Raises HistoryChangedError or ResumeTooOldError if `after` is not a valid id to resume
        from, or DatabaseError. The generator raises these, any other ApiError, and ShuttingDownError.
        """
        position = await self.start_position(db)
        if after is not None:
            current = await version.current(db)
            if after > current:
                raise HistoryChangedError(f"after: {after} (newer than every commit of this database)", current)
            fork = await version.fork_of(db, after)
            if fork is not None:
                raise HistoryChangedError(f"after: {after}", fork)
            _require_retained(after, await events.oldest_resumable_id(db))
            position = after
        return self._stream_events(db, selection, position, budget)

    async def _stream_events(
        self, db: Database, selection: EventSelection, position: int, budget: CallerBudget | None
    ) -> AsyncGenerator[Event, None]:
        await read_with_retry(lambda: self.start_position(db))  # the process reads all later events from here on
        with self.topics.join(selection) as topic:
            while True:
                topic.require_open()
                if position < topic.base_position:
                    try:
                        found, position = await self._read_missed_events(db, selection, position, topic.base_position, budget)
                    except DatabaseError as error:
                        raise (to_client_error(error) or _read_error()) from error
                else:
                    found = await topic.wait_for_events_after(position)
                    position = found[-1].position
                for number, event in enumerate(found, 1):
                    yield event
                    if number % BATCH_SIZE == 0:
                        await asyncio.sleep(0)

    async def start_position(self, db: Database) -> int:
        """Returns the id up to which events were delivered, or the newest id if there are no subscribers.

        A caller that joins a topic before its next await misses no event in memory. Any other caller reads the events after
        the id from the database. Raises DatabaseError.
        """
        if self._position is None:
            current = await version.current(db)
            if self._position is None:
                self._position = current
        return self._position

    async def _follow_commits(self, db: Database) -> None:
        commit_count = 0
        while True:
            commit_count = await self._commits.wait_for_commit_after(commit_count)
            if not self.topics:
                self._position = None  # the next subscriber starts at the newest id
            elif self._position is not None:
                try:
                    with metrics.delivery_seconds.time():
                        await self._publish_new_events(db, self._position)
                except Exception:
                    metrics.event_read_failures.inc()
                    log.exception("events could not be read: all subscriptions end, and their clients should subscribe again")
                    self._fail_topics(self.topics.items())

    async def _publish_new_events(self, db: Database, position: int) -> None:
        """Reads new events and puts them into each topic. If one topic fails, only that topic ends."""
        is_last = False
        while not is_last:
            page = await read_with_retry(functools.partial(events.read_events_after, db, position, events.MAX_ID))
            if self._position != position:
                return  # the history was replaced meanwhile
            position, is_last = page.end_position, page.is_last
            self._position = position
            for selection, topic in self.topics.items():
                try:
                    found = list(selection.render(page.events))
                except Exception:
                    metrics.event_read_failures.inc()
                    log.exception("the events of a subscription could not be rendered: clients should subscribe again")
                    self._fail_topics([(selection, topic)])
                    continue
                if found:
                    topic.put(found)
                    await topic.wake()
                    await asyncio.sleep(0)

    def _fail_topics(self, topics: Iterable[tuple[EventSelection, Topic]]) -> None:
        for selection, topic in topics:
            self.topics.discard(selection, topic)
            topic.close(_read_error)

    async def _read_missed_events(
        self, db: Database, selection: EventSelection, position: int, until: int, budget: CallerBudget | None
    ) -> tuple[list[Event], int]:
        """Returns a page of events after the position, and the position up to which the page is complete."""
        tickers = None if selection.tickers is None else sorted(selection.tickers)
        max_events = CATCH_UP_PAGE_SIZE if budget is None else await budget.reserve(CATCH_UP_PAGE_SIZE)
        read_count = 0
        try:
            async with self._catch_up_slots:
                page = await read_with_retry(
                    functools.partial(events.read_events_after, db, position, until, tickers, max_events=max_events)
                )
            read_count = len(page.events)
        finally:
            if budget is not None:
                budget.refund(max_events - read_count)
        _require_retained(position, page.oldest_resumable_id)
        return list(selection.render(page.events)), page.end_position


async def read_with_retry(read: Callable[[], Awaitable[T]]) -> T:
    """Returns the result of `read`. Retries while the database is unavailable or the connection pool is exhausted.

    Raises any other DatabaseError.
    """
    failed = False
    while True:
        try:
            return await read()
        except (DatabaseUnavailableError, PoolExhaustedError) as error:
            metrics.event_read_failures.inc()
            if not failed:
                log.warning("reading for subscriptions failed: %s; retrying", error)
            failed = True
            await asyncio.sleep(RETRY_INTERVAL_S)


def _read_error() -> UnavailableError:
    return UnavailableError("The events could not be read. Subscribe again with the last id as `after`.")


def _require_retained(position: int, oldest: int) -> None:
    if position < oldest:
        raise ResumeTooOldError(position, oldest)
