"""The Prometheus metrics of the collector."""

from prometheus_client import Counter, Gauge, Histogram

prices_stored = Counter("tickgraph_prices_stored", "Prices committed.", ("source",))
lateness_seconds = Histogram(
    "tickgraph_price_lateness_seconds",
    "Seconds from the start of a live price's minute to its commit.",
    buckets=(1, 2, 5, 10, 20, 30, 45, 60, 120, 300, 900, 3_600, 21_600),
)
ranges_stored = Counter("tickgraph_ranges_stored", "Ranges of minutes committed, also after a merge of further ticks.")
ticks = Counter(
    "tickgraph_ticks", "Ticks from the exchange's stream, by outcome: `ok`, or why a tick is no evidence.", ("outcome",)
)
ticks_dropped_minutes = Counter(
    "tickgraph_ticks_dropped_minutes", "Minutes of ticks lost because neither Redis nor PostgreSQL accepted them."
)
stream_connected = Gauge(
    "tickgraph_stream_connected",
    "1 while the stream process is connected to the exchange, else 0.",
    multiprocess_mode="mostrecent",
)
stream_subscribed = Gauge(
    "tickgraph_stream_subscribed_tickers", "Tickers whose channel the exchange confirmed.", multiprocess_mode="mostrecent"
)
stream_reconnects = Counter(
    "tickgraph_stream_reconnects", "Connections to the exchange's stream that ended, by reason.", ("reason",)
)
calls = Counter("tickgraph_exchange_calls", "Calls to the exchange.", ("method", "outcome"))
call_seconds = Histogram("tickgraph_exchange_call_seconds", "Duration of calls to the exchange in seconds.", ("method",))
clock_skew_seconds = Gauge(
    "tickgraph_clock_skew_seconds", "Local clock minus the exchange's clock, in seconds.", multiprocess_mode="mostrecent"
)
unknown_tickers = Gauge(
    "tickgraph_unknown_tickers", "Names in TICKERS that the exchange does not know.", multiprocess_mode="mostrecent"
)
last_price_timestamp = Gauge(
    "tickgraph_last_price_timestamp_seconds", "The newest stored minute.", ("ticker",), multiprocess_mode="mostrecent"
)
missing_minutes = Gauge(
    "tickgraph_missing_minutes", "Gaps that are not filled.", ("reason", "state"), multiprocess_mode="mostrecent"
)
oldest_gap = Gauge(
    "tickgraph_oldest_open_gap_timestamp_seconds",
    "The oldest minute of an open gap; 0 if there is none.",
    multiprocess_mode="mostrecent",
)
job_failing = Gauge(
    "tickgraph_job_failing", "1 if the job failed in the last minute, else 0.", ("job_name",), multiprocess_mode="mostrecent"
)
horizons_in_future = Gauge(
    "tickgraph_horizons_in_future",
    "Tickers whose horizon a wrong clock set into the future. Such a horizon is ignored.",
    multiprocess_mode="mostrecent",
)
peer_failures = Counter("tickgraph_peer_failures", "Requests to a peer without a usable response.", ("peer",))
peer_minutes_refused = Counter(
    "tickgraph_peer_minutes_refused", "Minutes of a peer that were not stored: invalid or implausible.", ("peer",)
)
peer_compared_day = Gauge(
    "tickgraph_peer_compared_timestamp_seconds",
    "The newest day that was compared with the peer; 0 if none was in the last days.",
    ("peer",),
    multiprocess_mode="mostrecent",
)
peer_missing_minutes = Gauge(
    "tickgraph_peer_missing_minutes",
    "Minutes of the newest compared day that only one site has: `here` or `there`.",
    ("peer", "missing"),
    multiprocess_mode="mostrecent",
)
peer_difference = Gauge(
    "tickgraph_peer_price_difference_bps",
    "Largest difference of live prices of the same minute on the newest compared day, in basis points.",
    ("peer",),
    multiprocess_mode="mostrecent",
)
delivery_difference = Gauge(
    "tickgraph_delivery_price_difference_bps",
    "Mean before the newest delivery, minus the exchange's delivery price, in basis points.",
    ("ticker",),
    multiprocess_mode="mostrecent",
)
outbox = Gauge(
    "tickgraph_outbox_prices", "Prices in the outbox that are not yet stored in PostgreSQL.", multiprocess_mode="mostrecent"
)
outbox_oldest = Gauge(
    "tickgraph_outbox_oldest_timestamp_seconds",
    "The oldest minute in the outbox; 0 if it is empty.",
    multiprocess_mode="mostrecent",
)
reconciled_until = Gauge(
    "tickgraph_reconciled_timestamp_seconds",
    "Every minute before this one is stored, queued in the outbox, or a gap with a reason.",
    multiprocess_mode="mostrecent",
)
webhooks = Counter("tickgraph_webhooks", "Attempts to deliver a webhook, by outcome: `ok`, `error`.", ("outcome",))
