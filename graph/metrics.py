"""What Prometheus is told of the API."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OPERATIONS_MOST: Final = 100
"""Names of operations that are counted apart, the first ones: anybody can send new ones."""

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
cut = Counter("tickgraph_clients_cut", "Clients cut off because they took nothing.")
read_by = Counter("tickgraph_read_by", "Answers read, by server; only where there is a replica.", ("server",))
replica_behind = Gauge(
    "tickgraph_replica_behind_seconds",
    "The replica holds everything that was committed so many seconds ago; 0 where there is none.",
    multiprocess_mode="livemax",
)
connections = Gauge("tickgraph_database_connections", "Connections to PostgreSQL in use.", multiprocess_mode="livesum")


class Names:
    """The names of operations that are counted apart: the first so many; whoever sends more of them is counted as `other`."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str | None) -> str:
        """What an operation is counted as."""
        if name is None:
            return ""
        if len(self._known) < OPERATIONS_MOST:
            self._known.add(name)
        return name if name in self._known else "other"
