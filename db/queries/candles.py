"""Candles of any interval. Intervals of an hour or more come from the table `candle`, shorter ones from minute prices.

The candles of prices that were stored before the table `candle` existed are built from the newest day back, several days
per transaction. Until then they are computed from minute prices.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Final

from db import times
from db.pool import Executor, Transaction
from db.queries import shapes
from db.queries.shapes import Column, Shape, Statement
from db.queries.snapshots import Snapshot, minute_close_sql, minute_open_sql, rewrite
from db.times import DAY

_HOUR: Final = 3_600
_MONDAY: Final = 3 * DAY
"""Offset of weeks in seconds: UNIX time began on a Thursday, three days after a Monday."""


@dataclass(frozen=True)
class _Span:
    seconds: int
    """Length; for months the longest possible."""
    base: int
    """Length of the source rows: 60, 3600 or 86400."""
    shift: int = 0
    is_monthly: bool = False


class Interval(Enum):
    """Length of a candle."""

    ONE_MINUTE = _Span(60, 60)
    FIVE_MINUTES = _Span(300, 60)
    FIFTEEN_MINUTES = _Span(900, 60)
    THIRTY_MINUTES = _Span(1_800, 60)
    ONE_HOUR = _Span(3_600, 3_600)
    FOUR_HOURS = _Span(14_400, 3_600)
    TWELVE_HOURS = _Span(43_200, 3_600)
    ONE_DAY = _Span(DAY, DAY)
    ONE_WEEK = _Span(7 * DAY, DAY, shift=_MONDAY)
    ONE_MONTH = _Span(31 * DAY, DAY, is_monthly=True)

    def ceil(self, ts: int) -> int:
        """Returns the first start of a candle at or after `ts`, in UNIX seconds."""
        if self.value.is_monthly:
            day = datetime.fromtimestamp(ts, UTC)
            first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            if first < day:
                first = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
            return int(first.timestamp())
        shift, seconds = self.value.shift, self.value.seconds
        return -(-(ts + shift) // seconds) * seconds - shift

    def floor(self, ts: int) -> int:
        """Returns the last start of a candle at or before `ts`, in UNIX seconds."""
        if self.value.is_monthly:
            first = datetime.fromtimestamp(ts, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return int(first.timestamp())
        shift, seconds = self.value.shift, self.value.seconds
        return (ts + shift) // seconds * seconds - shift

    def count(self, low: int, high: int) -> int:
        """Returns the number of candles that start in [low, high); for months an upper bound."""
        seconds = 28 * DAY if self.value.is_monthly else self.value.seconds
        return max(0, self.ceil(high) - self.ceil(low)) // seconds

    @property
    def start_sql(self) -> str:
        """SQL expression for the start of the candle that contains `ts`."""
        if self.value.is_monthly:
            return "extract(epoch FROM date_trunc('month', to_timestamp(ts), 'UTC'))::bigint"
        return f"ts - (ts + {self.value.shift}) % {self.value.seconds}"

    @property
    def end_sql(self) -> str:
        """SQL expression for the end of the candle that starts at `ts`."""
        if self.value.is_monthly:
            return "extract(epoch FROM date_trunc('month', to_timestamp(ts + 32 * 86400), 'UTC'))::bigint"
        return f"ts + {self.value.seconds}"


class Basis(Enum):
    """What the numbers of a candle are computed from."""

    RANGE = "RANGE"
    """The ranges of the minutes that have one, and the prices."""
    SAMPLE = "SAMPLE"
    """The prices alone, one sample a minute."""


_NUMBERS: Final = {name: f"{name}::text" for name in ("open", "high", "low", "close")} | {
    "twap": "trim_scale(round(sum::numeric(60, 18) / count, 12))::text"
}

JSON_COLUMNS: Final = {
    "ts": Column("ts::text"),
    "end": Column("end_ts::text"),
    "count": Column("count::text"),
    "expected": Column("((end_ts - ts) / 60)::text"),
    "closed": Column("(end_ts <= $4)::text"),
    "complete": Column("(end_ts <= $4 AND count = (end_ts - ts) / 60)::text"),
    "watched": Column("watched::text"),
    "sampled": Column("(count - ranged)::text"),
    **{name: Column(sql, '"') for name, sql in _NUMBERS.items()},
}
"""SQL expressions of the JSON values of a candle."""

JSON_COLUMNS_WITH_EMPTY: Final = JSON_COLUMNS | {
    name: Column(f"coalesce('\"' || {sql} || '\"', 'null')") for name, sql in _NUMBERS.items()
}
"""Like JSON_COLUMNS, for candles that may have no price."""

_MINUTE_CANDLES: Final = {
    Basis.SAMPLE: """
    SELECT ts, price AS open, price AS high, price AS low, price AS close, 1::bigint AS count, price AS sum,
           0 AS ranged, 0 AS watched
      FROM price
     WHERE ticker = $1 AND ts >= $2 AND ts < {high}""",
    Basis.RANGE: f"""
    SELECT p.ts, {minute_open_sql} AS open,
           greatest(p.price, r.high) AS high, least(p.price, r.low) AS low,
           {minute_close_sql} AS close,
           1::bigint AS count, coalesce(r.twap, p.price) AS sum, (r.ts IS NOT NULL)::int AS ranged,
           (r.watched_s IS NOT DISTINCT FROM 60)::int AS watched
      FROM price AS p
      LEFT JOIN minute_range AS r ON r.ticker = p.ticker AND r.ts = p.ts AND r.ts >= $2 AND r.ts < {{high}}
     WHERE p.ticker = $1 AND p.ts >= $2 AND p.ts < {{high}}""",
}

_STORED_NUMBERS: Final = {
    Basis.SAMPLE: "open, high, low, close, count, sum, 0 AS ranged, 0 AS watched",
    Basis.RANGE: "coalesce(range_open, open) AS open, coalesce(range_high, high) AS high, coalesce(range_low, low) AS low, "
    "coalesce(range_close, close) AS close, count, coalesce(range_sum, sum) AS sum, ranged, watched",
}

_STORED_CANDLES: Final = """
    SELECT ts, {numbers}
      FROM candle
     WHERE ticker = $1 AND span = {span} AND ts >= greatest($2, (SELECT ts FROM built)) AND ts < $3"""


@lru_cache(512)
def statement(
    interval: Interval, shape: Shape, basis: Basis, *, with_open: bool, with_empty: bool, from_hours: bool = False
) -> Statement:
    """Builds the statement of `fetch_json`. Parameters: ticker, first start, last end, now; then the constants.

    `from_hours`: the statement reads the stored candles of hours, not of days.
    """
    return shapes.build_list_statement(
        shape, 5, lambda text: _sql(interval, text, basis, with_open=with_open, with_empty=with_empty, from_hours=from_hours)
    )


def _sql(interval: Interval, text: str, basis: Basis, *, with_open: bool, with_empty: bool, from_hours: bool) -> str:
    base, seconds = interval.value.base, interval.value.seconds
    if from_hours:
        base = min(base, _HOUR)
    stored = _STORED_CANDLES.format(numbers=_STORED_NUMBERS[basis], span=base)
    unbuilt = _MINUTE_CANDLES[basis].format(high="least($3, (SELECT ts FROM built))")
    # If a stored row already is a candle, only the part that is not built yet must be grouped.
    if base == times.MINUTE:
        found = _group_sql(interval, _MINUTE_CANDLES[basis].format(high="$3"))
    elif base == seconds:
        found = f"{stored} UNION ALL {_group_sql(interval, unbuilt)}"
    else:
        found = _group_sql(interval, f"{stored} UNION ALL {unbuilt}")
    slots = "found"
    if with_empty:
        step = "1 month" if interval.value.is_monthly else f"{seconds} seconds"
        slots = f"""
       (SELECT extract(epoch FROM at)::bigint AS ts
          FROM generate_series(
               to_timestamp($2) AT TIME ZONE 'UTC', to_timestamp($3 - 1) AT TIME ZONE 'UTC', '{step}'::interval) AS at) AS slots
  LEFT JOIN found USING (ts)"""
    return f"""
WITH built AS (
    SELECT coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0) AS ts
), found AS MATERIALIZED ({found}
), slots_with_end AS (
    SELECT ts, {interval.end_sql} AS end_ts, open, high, low, close, coalesce(count, 0) AS count, sum,
           coalesce(ranged, 0) AS ranged, coalesce(watched, 0) AS watched
      FROM {slots}
)
SELECT {text}
  FROM (SELECT * FROM slots_with_end WHERE end_ts <= $4::bigint OR {str(with_open).lower()} ORDER BY ts) AS candle
"""


def _group_sql(interval: Interval, part: str) -> str:
    # min(ARRAY[ts, open]) finds the first open in one pass; joins on the first and last minute would need three.
    return f"""
    SELECT {interval.start_sql} AS ts, (min(ARRAY[ts, open]))[2] AS open, max(high) AS high, min(low) AS low,
           (max(ARRAY[ts, close]))[2] AS close, sum(count)::bigint AS count, sum(sum) AS sum,
           sum(ranged)::bigint AS ranged, sum(watched)::bigint AS watched
      FROM ({part}) AS part
     GROUP BY 1"""


async def fetch_json(
    db: Executor,
    interval: Interval,
    shape: Shape,
    ticker: str,
    low: int,
    high: int,
    now: int,
    *,
    basis: Basis = Basis.RANGE,
    with_open: bool = False,
    with_empty: bool = False,
    snapshot: Snapshot | None = None,
) -> str:
    """Returns the candles that start in [low, high) as a JSON list, oldest first. Those that end by `now` are closed."""
    query = statement(interval, shape, basis, with_open=with_open, with_empty=with_empty, from_hours=snapshot is not None)
    # The last candle ends after `high`, unless `high` is the start of a candle.
    bounds = interval.ceil(low), interval.ceil(high)
    text: str = await db.fetchval(*rewrite(snapshot, query.sql, ticker, *bounds, now, *query.constants))
    return text


PENDING_BUILDS: Final = """
SELECT name, candles_from FROM ticker WHERE candles_from IS NOT NULL ORDER BY name
"""

# Builds the hour and day candles of $2 days before `candles_from`. Returns the new `candles_from`; null if no older price
# exists. The condition on `refreshed` makes PostgreSQL execute that CTE.
BUILD: Final = """
WITH stretch AS (
    SELECT $1::text AS ticker, greatest(candles_from - $2::bigint * 86400, 0) AS low, candles_from AS high
      FROM ticker WHERE name = $1
), touched AS (
    SELECT DISTINCT stretch.ticker, price.ts - price.ts % 3600 AS hour
      FROM stretch JOIN price ON price.ticker = stretch.ticker AND price.ts >= stretch.low AND price.ts < stretch.high
), refreshed AS (
    SELECT refresh_candles(array_agg(ticker), array_agg(hour)) FROM touched HAVING count(*) > 0
)
UPDATE ticker
   SET candles_from = CASE WHEN EXISTS (SELECT FROM price WHERE ticker = name AND ts < stretch.low) THEN stretch.low END
  FROM stretch
 WHERE name = stretch.ticker AND (SELECT count(*) FROM refreshed) >= 0
RETURNING candles_from
"""

# Recomputes the candles from prices and ranges, with a method that differs from that of the triggers.
FIND_DIFFERENCES: Final = """
WITH minutes AS (
    SELECT ticker, ts, price, coalesce(opening.value, price) AS range_open, coalesce(closing.value, price) AS range_close,
           greatest(price, high) AS range_high, least(price, low) AS range_low, coalesce(twap, price) AS twap,
           minute_range.open IS NOT NULL AS is_ranged, coalesce(watched_s = 60, false) AS is_watched
      FROM price
      LEFT JOIN minute_range USING (ticker, ts)
      LEFT JOIN LATERAL (
           SELECT value
             FROM (VALUES (ts * 1000000 + opened_ms * 1000, open, 1), (observed_at, price, 2)) AS seen (at, value, rank)
            WHERE open IS NOT NULL AND at IS NOT NULL ORDER BY at, rank LIMIT 1) AS opening ON true
      LEFT JOIN LATERAL (
           SELECT value
             FROM (VALUES (ts * 1000000 + closed_ms * 1000, close, 1), (observed_at, price, 2)) AS seen (at, value, rank)
            WHERE open IS NOT NULL AND at IS NOT NULL ORDER BY at DESC, rank LIMIT 1) AS closing ON true
     WHERE ticker = $1 AND ts >= greatest($2, 0)
), ranked AS (
    SELECT minutes.*, span, ts - ts % span AS bucket,
           row_number() OVER (PARTITION BY span, ts - ts % span ORDER BY ts) = 1 AS is_first,
           row_number() OVER (PARTITION BY span, ts - ts % span ORDER BY ts DESC) = 1 AS is_last,
           bool_or(is_ranged) OVER (PARTITION BY span, ts - ts % span) AS has_range
      FROM minutes, unnest(ARRAY[3600, 86400]) AS span
), expected AS (
    SELECT ticker, span, bucket AS ts, max(price) FILTER (WHERE is_first) AS open, max(price) AS high, min(price) AS low,
           max(price) FILTER (WHERE is_last) AS close, count(*) AS count, sum(price) AS sum,
           max(range_open) FILTER (WHERE is_first AND has_range) AS range_open,
           max(range_high) FILTER (WHERE has_range) AS range_high,
           min(range_low) FILTER (WHERE has_range) AS range_low,
           max(range_close) FILTER (WHERE is_last AND has_range) AS range_close,
           sum(twap) FILTER (WHERE has_range) AS range_sum, count(*) FILTER (WHERE is_ranged) AS ranged,
           count(*) FILTER (WHERE is_watched) AS watched
      FROM ranked GROUP BY ticker, span, bucket
), stored AS (
    SELECT ticker, span, ts, open, high, low, close, count, sum,
           range_open, range_high, range_low, range_close, range_sum, ranged, watched
      FROM candle WHERE ticker = $1 AND ts >= greatest($2, 0)
)
SELECT DISTINCT span, ts FROM ((TABLE expected EXCEPT TABLE stored) UNION (TABLE stored EXCEPT TABLE expected)) AS different
 ORDER BY span, ts
"""


async def pending_builds(db: Executor) -> dict[str, int]:
    """Returns `candles_from` of each ticker whose candles are not completely built, in UNIX seconds."""
    return {row["name"]: row["candles_from"] for row in await db.fetch(PENDING_BUILDS)}


async def build(db: Transaction, ticker: str, days: int) -> int | None:
    """Builds the candles of up to `days` more days. Returns the new `candles_from`, or None if all are built.

    Requires a write transaction.
    """
    built: int | None = await db.fetchval(BUILD, ticker, days)
    return built


async def find_differences(db: Executor, ticker: str, since: int) -> list[tuple[int, int]]:
    """Returns span and start of each hour and day candle from `since` on that differs from its minutes."""
    return [(row["span"], row["ts"]) for row in await db.fetch(FIND_DIFFERENCES, ticker, since)]
