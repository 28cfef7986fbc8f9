"""The edge where the worker and the scheduler begin: `dramatiq ingest.broker:broker ingest.actors`. Opens nothing."""

import logging

from dramatiq.middleware import AgeLimit, Callbacks, Retries, ShutdownNotifications, TimeLimit
from periodiq import PeriodiqMiddleware

from db import log, tracing
from db.queues import Actor, Queue
from ingest.middleware import EndWithParent, EventLoop, FirstMessages, Heartbeat, Lifetimes, Metrics, ScheduledMinute, Traces
from ingest.queue import QueueBroker
from ingest.redis_state import RedisState
from ingest.settings import Settings

settings = Settings.read()
log.configure(settings, "ingest")
for note in settings.notes():
    logging.getLogger(__name__).warning(note)
queue_state = RedisState("BROKER_URL" if settings.broker_url else "REDIS_URL")
for handler in logging.getLogger().handlers:
    handler.addFilter(queue_state)
redis_states = {settings.required_redis(): RedisState("REDIS_URL")} | {settings.required_broker(): queue_state}
lifetimes = Lifetimes(settings)

broker = QueueBroker(
    url=settings.required_broker(),
    state=queue_state,
    middleware=[
        *([Traces()] if tracing.begin("tickgraph worker") else []),
        AgeLimit(),
        TimeLimit(),
        ShutdownNotifications(),
        Callbacks(),
        Retries(),
        EndWithParent(),
        EventLoop(),
        lifetimes,
        Heartbeat(settings.tickers, redis_states),
        Metrics(settings.metrics_host, settings.worker_metrics_port),
        # Never skips: a collect knows by itself what is too old, and skipping would hide it.
        PeriodiqMiddleware(skip_delay=float("inf")),
        ScheduledMinute(),
        # At a start, too: what waits is stored, and what was missed may still be filled from the finest chart.
        FirstMessages((Queue.RECONCILE, Actor.RECONCILE), (Queue.COLLECT, Actor.COLLECT)),
    ],
)
