"""What Prometheus is told of collecting."""

from prometheus_client import Counter, Gauge, Histogram

stored = Counter("tickgraph_prices_stored", "Prices committed.", ("source",))
lateness_seconds = Histogram(
    "tickgraph_price_lateness_seconds",
    "Seconds from the beginning of a live price's minute to its commit.",
    buckets=(1, 2, 5, 10, 20, 30, 45, 60, 120, 300, 900, 3_600, 21_600),
)
calls = Counter("tickgraph_exchange_calls", "Calls to the exchange.", ("method", "outcome"))
call_seconds = Histogram("tickgraph_exchange_call_seconds", "Seconds that calls to the exchange took.", ("method",))
clock_skew_seconds = Gauge(
    "tickgraph_clock_skew_seconds", "The local clock minus the exchange's.", multiprocess_mode="mostrecent"
)
unknown = Gauge(
    "tickgraph_unknown_tickers", "Names in TICKERS that the exchange does not know.", multiprocess_mode="mostrecent"
)
last_price = Gauge(
    "tickgraph_last_price_timestamp_seconds", "The newest minute stored.", ("ticker",), multiprocess_mode="mostrecent"
)
missing = Gauge("tickgraph_missing_minutes", "Gaps that are not filled.", ("reason", "state"), multiprocess_mode="mostrecent")
oldest_gap = Gauge(
    "tickgraph_oldest_open_gap_timestamp_seconds",
    "The oldest minute that is looked for; 0 where there is none.",
    multiprocess_mode="mostrecent",
)
job_failing = Gauge(
    "tickgraph_job_failing", "1 where a job of the last minute failed, else 0.", ("job",), multiprocess_mode="mostrecent"
)
horizons_in_future = Gauge(
    "tickgraph_horizons_in_future",
    "Tickers whose horizon a wrong clock set into the future: nothing older is expected.",
    multiprocess_mode="mostrecent",
)
outbox = Gauge("tickgraph_outbox_prices", "Prices that wait for PostgreSQL.", multiprocess_mode="mostrecent")
outbox_oldest = Gauge(
    "tickgraph_outbox_oldest_timestamp_seconds",
    "The oldest minute that waits; 0 where none does.",
    multiprocess_mode="mostrecent",
)
reconciled = Gauge(
    "tickgraph_reconciled_timestamp_seconds",
    "Every minute before it is stored or a gap with a reason.",
    multiprocess_mode="mostrecent",
)
