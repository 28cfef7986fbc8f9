"""What Prometheus is told of the API."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from db.metrics import FOLDER

OPERATIONS_MOST: Final = 100
"""Names of operations that are counted apart: anybody can send new ones."""
UNUSED_S: Final = 600.0
"""After so long a name's place may go to another."""

requests = Counter("tickgraph_requests", "Requests answered, by what they asked and by status.", ("kind", "status"))
request_seconds = Histogram(
    "tickgraph_request_seconds",
    "Seconds that requests took.",
    ("kind",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
operations = Counter("tickgraph_operations", "GraphQL operations answered, by name.", ("operation", "outcome"))
operation_seconds = Histogram(
    "tickgraph_operation_seconds",
    "Seconds that executing GraphQL operations took, by name.",
    ("operation",),
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
cost = Histogram(
    "tickgraph_operation_cost", "Cost of GraphQL operations.", buckets=(1, 10, 100, 1_000, 10_000, 100_000, 500_000)
)
refusals = Counter("tickgraph_refusals", "Errors told to clients, by code.", ("code",))
lists = Counter("tickgraph_lists", "Lists answered: written by PostgreSQL, or made of objects.", ("way",))
answers = Counter("tickgraph_answers", "Answers that could be kept: given again, shared while asked, or made.", ("by",))
answer_bytes = Gauge("tickgraph_answer_bytes", "Bytes of the answers kept.", multiprocess_mode="livesum")
subscribers = Gauge("tickgraph_subscribers", "Subscriptions.", multiprocess_mode="livesum")
told_seconds = Histogram(
    "tickgraph_told_seconds",
    "Seconds from hearing of a commit until its events were handed to all who subscribed.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
event_read_failures = Counter("tickgraph_event_read_failures", "Reads of events for subscriptions that failed.")
saturated = Counter("tickgraph_saturated", "Requests refused because a limit of this process was reached.", ("limit",))
for _limit in ("requests", "connections", "subscriptions", "database_connections"):
    saturated.labels(_limit)  # from the start: what appears with its first event does not increase
    if _limit != "database_connections":
        saturated.labels(f"{_limit}_per_client")
cut = Counter("tickgraph_clients_cut", "Clients cut off because they took nothing.")
read_by = Counter("tickgraph_read_by", "Answers read, by server; only where there is a replica.", ("server",))
replica_behind = Gauge(
    "tickgraph_replica_behind_seconds",
    "The replica holds everything that was committed so many seconds ago; 0 where there is none.",
    multiprocess_mode="livemax",
)
connections = Gauge("tickgraph_database_connections", "Connections to PostgreSQL in use.", multiprocess_mode="livesum")


class Names:
    """The names of operations that are counted apart: so many at once; one that is unused gives its place to another."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._used_at: OrderedDict[str, float] = OrderedDict()

    def of(self, name: str | None) -> str:
        """What an operation is counted as."""
        if name is None:
            return ""
        now = self._monotonic()
        if name not in self._used_at and len(self._used_at) >= OPERATIONS_MOST:
            oldest, used_at = next(iter(self._used_at.items()))
            # Of several processes, a series cannot be removed again.
            if now - used_at < UNUSED_S or os.environ.get(FOLDER):
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
