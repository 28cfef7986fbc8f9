"""The type WorkerReport: what the workers reported in the last minute in which one ran."""

from typing import Self

import strawberry

from db.queries import worker_report
from graph.schema.scalars import DateTime, UnixTime


@strawberry.type(description="What the workers reported of themselves in the last minute in which one ran.")
class WorkerReport:
    """What the workers reported."""

    at: UnixTime = strawberry.field(description="When, by the clock of the database.")
    workers: int = strawberry.field(description="Number of hosts with a running worker.")
    queued_prices: int = strawberry.field(description="Number of prices that are fetched and not stored yet.")
    queued_ticks: int = strawberry.field(description="Number of minutes of ticks that are not stored yet.")
    clock_skew_s: float | None = strawberry.field(
        description="Clock of a worker minus the exchange's clock, in seconds; null if it was never measured."
    )
    streams: int = strawberry.field(description="Number of running stream processes.")
    connected_streams: int = strawberry.field(description="How many of them are connected to the exchange.")
    newest_tick_at: DateTime | None = strawberry.field(
        description="Deribit's timestamp of the newest tick; null if none was received."
    )
    failing_jobs: list[str] = strawberry.field(description="Names of the jobs that failed in the minute before.")

    @classmethod
    def from_report(cls, report: worker_report.WorkerReport) -> Self:
        """Builds the type from a report of `db.queries.worker_report`."""
        tick = report.newest_tick_at
        return cls(
            at=UnixTime(report.at),
            workers=report.workers,
            queued_prices=report.queued_prices,
            queued_ticks=report.queued_ticks,
            clock_skew_s=report.clock_skew_s,
            streams=report.streams,
            connected_streams=report.connected_streams,
            newest_tick_at=None if tick is None else DateTime(int(tick * 10**6)),
            failing_jobs=list(report.failing_jobs),
        )
