"""Messages in, jobs out. Each actor is one call; none is retried: a job tries by itself until its minute's budget ends."""

import dramatiq
from dramatiq.middleware import Shutdown
from periodiq import cron

from db.errors import DatabaseError
from db.queues import Actor, Queue
from ingest.broker import broker, lifetimes, settings
from ingest.errors import JobsFailedError, OutboxError
from ingest.jobs.collect import collect as collect_minute
from ingest.jobs.reconcile import reconcile as reconcile_until

EVERY_MINUTE = cron("* * * * *")
EXPECTED = (DatabaseError, OutboxError, JobsFailedError, Shutdown)
"""Told in a line of our own, or none of our doing: no traceback."""


@dramatiq.actor(
    broker=broker,
    queue_name=Queue.COLLECT,
    actor_name=Actor.COLLECT,
    periodic=EVERY_MINUTE,
    max_retries=0,
    time_limit=60_000,
    notify_shutdown=True,
    throws=EXPECTED,
)
async def collect(minute: int, only: list[str] | None = None) -> None:
    """Collects the prices of the minute (its first UNIX second), of the tickers in `only` or of all."""
    resources = await lifetimes.resources()
    await collect_minute(
        minute,
        watchlist=resources.watchlist,
        source=resources.source,
        db=resources.db,
        outbox=resources.outbox,
        only=only or (),
        max_retries=settings.http_max_retries,
        minutes=None if only else resources.collects,  # who asks for some leaves the minute to the scheduled message
    )


@dramatiq.actor(
    broker=broker,
    queue_name=Queue.RECONCILE,
    actor_name=Actor.RECONCILE,
    priority=10,  # behind every collect: those cannot be made up for
    periodic=EVERY_MINUTE,
    max_retries=0,
    time_limit=60_000,
    notify_shutdown=True,
    throws=EXPECTED,
)
async def reconcile(minute: int) -> None:
    """Drains the outbox, and explains every minute before this one: stored, or a gap that is filled where it can be."""
    resources = await lifetimes.resources()
    await reconcile_until(
        minute,
        watchlist=resources.watchlist,
        source=resources.source,
        db=resources.db,
        outbox=resources.outbox,
        resume_days=settings.resume_days,
        retention_days=settings.retention_days,
        minutes=resources.reconciles,
    )
