"""Stores what the workers do, once a minute, so that the API can show it without Redis."""

from db.pool import Database
from db.queries import worker_report
from db.queries.worker_report import WorkerReport
from ingest.outbox import Outbox, hosts_of
from ingest.source import ExchangeClock


async def report_workers(clock: ExchangeClock, outbox: Outbox, db: Database) -> None:
    """Stores a report of all workers and stream processes. Raises OutboxError or DatabaseError."""
    streams = list((await outbox.read_stream_states()).values())
    ticks = [stream.last_tick_at for stream in streams if stream.last_tick_at is not None]
    await worker_report.store(
        db,
        WorkerReport(
            workers=len(hosts_of(await outbox.worker_tickers())),
            queued_prices=await outbox.prices.depth(),
            queued_ticks=await outbox.ticks.depth(),
            clock_skew_s=clock.skew_s,
            streams=len(streams),
            connected_streams=sum(stream.connected for stream in streams),
            newest_tick_at=max(ticks, default=None),
            failing_jobs=sorted((await outbox.read_report()).jobs),
        ),
    )
