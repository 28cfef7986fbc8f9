"""Ranges of minutes: what the index did within them. A range is replaced when further ticks of its minute are merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from db.pool import Executor, Record, Transaction
from db.queries.gaps import TickerMinute
from db.queries.retention import valid_horizon_sql
from db.queries.shapes import Column
from db.queries.snapshots import Snapshot, rewrite
from db.rows import RangeRow

JSON_COLUMNS: Final[Mapping[str, Column]] = {
    "id": Column("id::text", '"'),
    "ticker": Column("ticker", '"'),
    "ts": Column("ts::text"),
    **{name: Column(f"{name}::text", '"') for name in ("open", "high", "low", "close")},
    "twap": Column("coalesce('\"' || twap || '\"', 'null')"),
    "ticks": Column("coalesce(ticks::text, 'null')"),
    "watched_s": Column("coalesce(watched_s::text, 'null')"),
    # Formatted like a float of Python, so that both encoders agree.
    "longest_silence_s": Column(
        "coalesce(CASE WHEN longest_silence_ms % 1000 = 0 THEN (longest_silence_ms / 1000)::text || '.0' "
        "ELSE trim_scale(longest_silence_ms / 1000.0)::text END, 'null')"
    ),
    "source": Column("source::text", '"'),
}
"""SQL expressions of the JSON values of a range."""

of_price_sql: Final = "FROM minute_range AS r WHERE r.ticker = price.ticker AND r.ts = price.ts"
"""The range of a row of `price`, for a subquery."""

STORED_TICKS: Final = f"""
SELECT given.ticker, given.ts, coalesce(minute_range.source <> 'IMPORT', false) AS has_tick_range, minute_ticks.ticks,
       given.ts >= coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = given.ticker), 0) AS is_retained
  FROM unnest($1::text[], $2::bigint[]) AS given (ticker, ts)
  LEFT JOIN minute_range USING (ticker, ts)
  LEFT JOIN minute_ticks USING (ticker, ts)
"""  # noqa: S608  inserts a constant

STORE: Final = """
INSERT INTO minute_range (ticker, ts, open, high, low, close, opened_ms, closed_ms, twap, ticks, watched_s, longest_silence_ms,
                          source)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[], $7::int[], $8::int[],
                     $9::numeric[], $10::int[], $11::smallint[], $12::int[], $13::price_source[])
    ON CONFLICT (ticker, ts) DO UPDATE
   SET id = excluded.id, open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
       opened_ms = excluded.opened_ms, closed_ms = excluded.closed_ms, twap = excluded.twap, ticks = excluded.ticks,
       watched_s = excluded.watched_s, longest_silence_ms = excluded.longest_silence_ms, source = excluded.source
"""

STORE_TICKS: Final = """
INSERT INTO minute_ticks (ticker, ts, ticks) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
    ON CONFLICT (ticker, ts) DO UPDATE SET ticks = excluded.ticks
"""

# The clock of the database measures the age on both sides, so another clock cannot delete ticks.
DELETE_OLD_TICKS: Final = """
DELETE FROM minute_ticks WHERE (ticker, ts) IN (
       SELECT ticker, ts FROM minute_ticks WHERE stored_at < extract(epoch FROM now())::bigint - $1::bigint LIMIT 10000)
"""

# As of a data version, minute_range is a union, into which the planner pushes no join. OFFSET 0 forces an index lookup of each.
RANGES_OF: Final = """
SELECT found.*
  FROM unnest($1::text[], $2::bigint[]) AS given (ticker, ts)
 CROSS JOIN LATERAL (SELECT * FROM minute_range AS r WHERE r.ticker = given.ticker AND r.ts = given.ts OFFSET 0) AS found
"""


@dataclass(frozen=True)
class StoredTicks:
    """What the database holds of a minute."""

    has_tick_range: bool
    """Whether it has a range from ticks."""
    ticks: str | None
    """Its ticks, while other ticks may be merged into them."""
    is_retained: bool
    """Whether the minute is not before the horizon of its ticker."""

    @property
    def is_final(self) -> bool:
        """Whether the range can no longer change, because its ticks are deleted."""
        return self.has_tick_range and self.ticks is None


async def stored_ticks(db: Transaction, minutes: Sequence[TickerMinute]) -> dict[TickerMinute, StoredTicks]:
    """Returns what is stored of each minute. Requires a write transaction, so that nothing changes before `store`."""
    rows = await db.fetch(STORED_TICKS, *_columns(minutes, 2))
    return {(row["ticker"], row["ts"]): StoredTicks(row["has_tick_range"], row["ticks"], row["is_retained"]) for row in rows}


async def store(db: Transaction, rows: Sequence[RangeRow], ticks: Mapping[TickerMinute, str]) -> None:
    """Stores or replaces the ranges, and the ticks that they result from.

    Requires a write transaction. Raises RowRejectedError if a row violates a constraint of the table.
    """
    await db.execute(STORE, *_columns([tuple(row.model_dump().values()) for row in rows], len(RangeRow.model_fields)))
    await db.execute(STORE_TICKS, *_columns([(*minute, text) for minute, text in ticks.items()], 3))


async def delete_old_ticks(db: Transaction, age_s: int) -> int:
    """Deletes up to 10,000 minutes of ticks that were stored more than `age_s` seconds ago. Returns their number."""
    status = await db.execute(DELETE_OLD_TICKS, age_s)
    return int(status.rpartition(" ")[2])


async def ranges_of(
    db: Executor, minutes: Sequence[TickerMinute], snapshot: Snapshot | None = None
) -> dict[TickerMinute, Record]:
    """Returns the ranges of the minutes that have one."""
    rows = await db.fetch(*rewrite(snapshot, RANGES_OF, *_columns(minutes, 2)))
    return {(row["ticker"], row["ts"]): row for row in rows}


def _columns(rows: Sequence[tuple[object, ...]], count: int) -> list[list[object]]:
    return [[row[number] for row in rows] for number in range(count)]
