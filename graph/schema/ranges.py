"""The type MinuteRange: what an index did within a minute."""

from decimal import Decimal
from typing import Final, Self

import strawberry

from db.pool import Record
from db.queries import ranges
from graph.engine.json_fragments import NestedRows, Rows
from graph.schema.scalars import UnixTime
from graph.schema.source import Source

RANGE_COLUMNS: Final = {
    "id": ranges.JSON_COLUMNS["id"],
    "ticker": ranges.JSON_COLUMNS["ticker"],
    "ts": ranges.JSON_COLUMNS["ts"],
    "open": ranges.JSON_COLUMNS["open"],
    "high": ranges.JSON_COLUMNS["high"],
    "low": ranges.JSON_COLUMNS["low"],
    "close": ranges.JSON_COLUMNS["close"],
    "twap": ranges.JSON_COLUMNS["twap"],
    "ticks": ranges.JSON_COLUMNS["ticks"],
    "watchedS": ranges.JSON_COLUMNS["watched_s"],
    "longestSilenceS": ranges.JSON_COLUMNS["longest_silence_s"],
    "source": ranges.JSON_COLUMNS["source"],
}
"""The fields of MinuteRange, which PostgreSQL writes as JSON."""
NESTED_RANGE: Final = NestedRows(Rows("MinuteRange", RANGE_COLUMNS), ranges.of_price_sql)


@strawberry.type(
    description="What an index did within a minute, from the ticks that Deribit publishes about once a second. Further ticks "
    "can be merged while its ticks are retained, for ten minutes or `TICKS_DAYS`; then the range gets a new `id`."
)
class MinuteRange:
    """What an index did within a minute."""

    id: strawberry.ID = strawberry.field(
        description="An integer that increases with every commit, in one sequence with price ids."
    )
    ticker: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    ts: UnixTime = strawberry.field(description="The minute: its first second.")
    open: Decimal = strawberry.field(description="The first tick.")
    high: Decimal = strawberry.field(description="The highest tick.")
    low: Decimal = strawberry.field(description="The lowest tick.")
    close: Decimal = strawberry.field(description="The last tick.")
    twap: Decimal | None = strawberry.field(
        description="Mean price, weighted by time: each tick counts until the next one, but for at most five seconds. Null if "
        "the range was imported."
    )
    ticks: int | None = strawberry.field(description="Number of ticks; null if the range was imported.")
    watched_s: int | None = strawberry.field(
        description="Seconds that ticks cover. 60: the minute was watched completely, without a silence of more than five "
        "seconds. Null if the range was imported."
    )
    longest_silence_s: float | None = strawberry.field(
        description="Longest time without a tick, in seconds; null if the range was imported."
    )
    source: Source = strawberry.field(description="`LIVE`: from ticks; `IMPORT`: from a file.")

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Builds a range from a record with the columns of `minute_range`."""
        silence_ms = record["longest_silence_ms"]
        return cls(
            id=strawberry.ID(str(record["id"])),
            ticker=record["ticker"],
            ts=UnixTime(record["ts"]),
            open=record["open"],
            high=record["high"],
            low=record["low"],
            close=record["close"],
            twap=record["twap"],
            ticks=record["ticks"],
            watched_s=record["watched_s"],
            longest_silence_s=None if silence_ms is None else silence_ms / 1_000,
            source=Source[record["source"]],
        )
