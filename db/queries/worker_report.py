"""What the workers report of themselves once a minute, for readers of the API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from db.pool import Executor

STORE: Final = """
INSERT INTO worker_report (id, at, workers, queued_prices, queued_ticks, clock_skew_s, streams, connected_streams,
                           newest_tick_at, failing_jobs)
VALUES (1, extract(epoch FROM now())::bigint, $1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (id) DO UPDATE
   SET (at, workers, queued_prices, queued_ticks, clock_skew_s, streams, connected_streams, newest_tick_at, failing_jobs)
     = (EXCLUDED.at, EXCLUDED.workers, EXCLUDED.queued_prices, EXCLUDED.queued_ticks, EXCLUDED.clock_skew_s,
        EXCLUDED.streams, EXCLUDED.connected_streams, EXCLUDED.newest_tick_at, EXCLUDED.failing_jobs)
"""

GET: Final = """
SELECT at, workers, queued_prices, queued_ticks, clock_skew_s, streams, connected_streams, newest_tick_at, failing_jobs
  FROM worker_report
"""


@dataclass(frozen=True)
class WorkerReport:
    """What the workers reported in one minute. `at` is by the database's clock, in UNIX seconds."""

    workers: int
    """Hosts with a running worker."""
    queued_prices: int
    queued_ticks: int
    """Minutes of ticks in the outbox."""
    clock_skew_s: float | None
    """A worker's clock minus the exchange's; None if it was never measured."""
    streams: int
    connected_streams: int
    newest_tick_at: float | None
    """The exchange's timestamp of the newest tick, in UNIX seconds."""
    failing_jobs: Sequence[str]
    at: int = 0


async def store(db: Executor, report: WorkerReport) -> None:
    """Replaces the report, at the time of the database."""
    await db.execute(
        STORE,
        report.workers,
        report.queued_prices,
        report.queued_ticks,
        report.clock_skew_s,
        report.streams,
        report.connected_streams,
        report.newest_tick_at,
        report.failing_jobs,
    )


async def get(db: Executor) -> WorkerReport | None:
    """Returns the last report; None if there is none."""
    row = await db.fetchrow(GET)
    return None if row is None else WorkerReport(**row)
