"""Dramatiq actors. Each actor calls one job. Dramatiq retries none of them: a job retries by itself within its time budget."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import dramatiq
import redis
from dramatiq.middleware import Shutdown
from periodiq import cron

from db.errors import DatabaseError
from db.queues import Actor, Queue
from ingest.broker import broker, resource_middleware, settings
from ingest.errors import JobsFailedError, OutboxError

EXPECTED_ERRORS = (DatabaseError, OutboxError, JobsFailedError, Shutdown)
"""Expected errors, logged without a traceback: the jobs log their failures, and `Shutdown` is no failure."""
EVERY_MINUTE: Final[dict[str, Any]] = {
    "broker": broker,
    "periodic": cron("* * * * *"),
    "max_retries": 0,
    "time_limit": 60_000,
    "notify_shutdown": True,
    "throws": EXPECTED_ERRORS,
}
"""The options of an actor that runs every minute."""


@dramatiq.actor(
    queue_name=Queue.COLLECT,
    actor_name=Actor.COLLECT,
    **EVERY_MINUTE,
)
async def collect(minute: int, only: list[str] | None = None) -> None:
    """Collects the prices of one minute, of the tickers in `only` or of all. `minute` is its first UNIX second."""
    from ingest.jobs.collect import collect as collect_minute  # noqa: PLC0415  the scheduler does without it

    resources = await resource_middleware.resources()
    await collect_minute(
        minute,
        watchlist=resources.watchlist,
        source=resources.source,
        db=resources.db,
        outbox=resources.outbox,
        only=only or (),
        max_retries=settings.http_max_retries,
        minute_chooser=None
        if only
        else resources.collect_minute_chooser,  # a message for some tickers does not mark the minute as processed
    )
    with suppress(redis.RedisError):  # the scheduler sends another message within a minute
        await asyncio.to_thread(alerts.send, minute=minute)


@dramatiq.actor(
    queue_name=Queue.RECONCILE,
    actor_name=Actor.RECONCILE,
    priority=10,  # after every collect message, whose live prices cannot be fetched later
    **EVERY_MINUTE,
)
async def reconcile(minute: int) -> None:
    """Drains the outbox, records each missing minute before this one as a gap, and fills gaps."""
    from ingest.jobs.reconcile import reconcile as reconcile_until  # noqa: PLC0415  the scheduler does without it

    resources = await resource_middleware.resources()
    await reconcile_until(
        minute,
        watchlist=resources.watchlist,
        source=resources.source,
        db=resources.db,
        outbox=resources.outbox,
        resume_days=settings.resume_days,
        retention_days=settings.retention_days,
        ticks_days=settings.ticks_days,
        delivery_prices=resources.delivery_prices,
        peers=resources.peers,
        peer_comparer=resources.peer_comparer,
        minute_chooser=resources.reconcile_minute_chooser,
    )


@dramatiq.actor(
    queue_name=Queue.ALERTS,
    actor_name=Actor.ALERTS,
    priority=20,  # after what stores prices
    **EVERY_MINUTE,
)
async def alerts(minute: int) -> None:
    """Decides which alerts fire, and delivers the webhooks that are due."""
    from ingest.jobs.alerts import run  # noqa: PLC0415  the scheduler does without it

    resources = await resource_middleware.resources()
    await run(resources.db, resources.webhooks, resources.source.clock.now(minute))
