"""Prometheus metrics of the API process."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from db.runtime.metrics import MULTIPROCESS_DIR

MAX_OPERATION_NAMES: Final = 100
"""Maximum number of operation names with a label of their own, because clients can send any name."""
NAME_IDLE_TIMEOUT_S: Final = 600.0
"""Seconds without use after which a new name may replace an operation name."""

requests = Counter("tickgraph_requests", "HTTP requests, by kind and status.", ("kind", "status"))
request_seconds = Histogram(
    "tickgraph_request_seconds",
    "Duration of HTTP requests in seconds, by kind.",
    ("kind",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
operations = Counter("tickgraph_operations", "Executed GraphQL operations, by name and outcome.", ("operation", "outcome"))
operation_seconds = Histogram(
    "tickgraph_operation_seconds",
    "Duration of GraphQL operations in seconds, by name.",
    ("operation",),
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
cost = Histogram(
    "tickgraph_operation_cost", "Cost of GraphQL operations.", buckets=(1, 10, 100, 1_000, 10_000, 100_000, 500_000)
)
rejected_requests = Counter("tickgraph_rejected_requests", "Errors returned to clients, by code.", ("code",))
list_encodings = Counter("tickgraph_list_encodings", "Lists encoded as JSON, by encoder: postgresql or python.", ("encoder",))
lists_by_postgresql, lists_by_python = (list_encodings.labels(encoder) for encoder in ("postgresql", "python"))
cached_responses = Counter("tickgraph_cached_responses", "Lookups in the response cache, by outcome.", ("outcome",))
response_cache_bytes = Gauge(
    "tickgraph_response_cache_bytes", "Size of the response cache in bytes.", multiprocess_mode="livesum"
)
subscribers = Gauge("tickgraph_subscribers", "Subscriptions.", multiprocess_mode="livesum")
delivery_seconds = Histogram(
    "tickgraph_delivery_seconds",
    "Seconds from the notification of a commit until its events are passed to all subscribers.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
event_read_failures = Counter("tickgraph_event_read_failures", "Failed reads of events for subscriptions.")
saturated = Counter("tickgraph_saturated", "Requests rejected because a limit of this process was reached.", ("limit",))
for _limit in ("requests", "connections", "subscriptions", "database_connections"):
    saturated.labels(_limit)  # creates the series at 0: Prometheus sees no increase in a series that starts at 1
    if _limit != "database_connections":
        saturated.labels(f"{_limit}_per_client")
slow_clients_disconnected = Counter("tickgraph_slow_clients_disconnected", "Clients disconnected because they did not read.")
reads_by_server = Counter("tickgraph_reads_by_server", "Responses by database server; only with a replica.", ("server",))
replica_lag = Gauge(
    "tickgraph_replica_lag_seconds",
    "Replication lag of the replica in seconds; 0 without a replica.",
    multiprocess_mode="livemax",
)
database_connections = Gauge("tickgraph_database_connections", "Connections to PostgreSQL in use.", multiprocess_mode="livesum")


_unnamed_operations, _unnamed_operation_seconds = operations.labels("", "ok"), operation_seconds.labels("")


class OperationNames:
    """Counts operations by name, and limits the names that are used as metric labels.

    At most MAX_OPERATION_NAMES have a label of their own. A new name replaces the oldest one that is idle.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._used_at: OrderedDict[str, float] = OrderedDict()

    def record(self, name: str | None, outcome: str, seconds: float | None) -> None:
        """Counts an operation. `seconds` is its duration; None for a subscription."""
        if name is None and outcome == "ok" and seconds is not None:  # the most frequent case, without a search by labels
            _unnamed_operations.inc()
            _unnamed_operation_seconds.observe(seconds)
            return
        label = self.label_for(name)
        operations.labels(label, outcome).inc()
        if seconds is not None:
            operation_seconds.labels(label).observe(seconds)

    def label_for(self, name: str | None) -> str:
        """Returns the label of an operation: its name, `other` above the limit, or an empty string without a name."""
        if name is None:
            return ""
        now = self._monotonic()
        if name not in self._used_at and len(self._used_at) >= MAX_OPERATION_NAMES:
            oldest, used_at = next(iter(self._used_at.items()))
            # With several processes, a series cannot be removed.
            if now - used_at < NAME_IDLE_TIMEOUT_S or os.environ.get(MULTIPROCESS_DIR):
                return "other"
            del self._used_at[oldest]
            for outcome in ("ok", "error", "subscribed"):
                with suppress(KeyError):
                    operations.remove(oldest, outcome)
            with suppress(KeyError):
                operation_seconds.remove(oldest)
        self._used_at[name] = now
        self._used_at.move_to_end(name)
        return name
