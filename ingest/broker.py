"""Entry module of the worker and the scheduler: `dramatiq ingest.broker:broker ingest.actors`. Opens no connection."""

import logging

from dramatiq.middleware import AgeLimit, Callbacks, Retries, ShutdownNotifications, TimeLimit
from periodiq import PeriodiqMiddleware

from db.queues import Actor, Queue
from db.runtime import log, tracing
from ingest.middleware import (
    EnqueueOnBoot,
    EventLoop,
    ExitWithParent,
    Heartbeat,
    Metrics,
    ResourceMiddleware,
    ScheduledMinute,
    TracingMiddleware,
)
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
resource_middleware = ResourceMiddleware(settings)

broker = QueueBroker(
    url=settings.required_broker(),
    state=queue_state,
    middleware=[
        *([TracingMiddleware()] if tracing.configure("tickgraph worker") else []),
        AgeLimit(),
        TimeLimit(),
        ShutdownNotifications(),
        Callbacks(),
        Retries(),
        ExitWithParent(),
        EventLoop(),
        resource_middleware,
        Heartbeat(settings.tickers, redis_states),
        Metrics(settings.metrics_host, settings.worker_metrics_port),
        # Never skips a message: the collect job handles old messages itself, and a skipped one would not be logged.
        PeriodiqMiddleware(skip_delay=float("inf")),
        ScheduledMinute(),
        # At startup the worker stores queued prices and fills recent gaps while the finest chart still has them.
        EnqueueOnBoot((Queue.RECONCILE, Actor.RECONCILE), (Queue.COLLECT, Actor.COLLECT)),
    ],
)
