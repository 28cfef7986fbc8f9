"""The edge where the worker and the scheduler begin: `dramatiq ingest.broker:broker ingest.actors`. Opens nothing."""

from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, Callbacks, Retries, ShutdownNotifications, TimeLimit
from periodiq import PeriodiqMiddleware

from db import log, tracing
from db.queues import Actor, Queue
from ingest.middleware import EndWithParent, EventLoop, FirstMessages, Heartbeat, Lifetimes, Metrics, ScheduledMinute, Traces
from ingest.settings import Settings

settings = Settings.read()
log.configure(settings, "ingest")
lifetimes = Lifetimes(settings)

broker = RedisBroker(  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
    url=settings.required_broker(),
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
        Heartbeat(settings.required_broker()),
        Metrics(settings.metrics_host, settings.worker_metrics_port),
        # Never skips: a collect knows by itself what is too old, and skipping would hide it.
        PeriodiqMiddleware(skip_delay=float("inf")),
        ScheduledMinute(),
        # At a start, too: what waits is stored, and what was missed may still be filled from the finest chart.
        FirstMessages((Queue.RECONCILE, Actor.RECONCILE), (Queue.COLLECT, Actor.COLLECT)),
    ],
    # Each command may look for messages of dead workers; by default one in a thousand does, which takes minutes.
    maintenance_chance=1_000_000,
)
