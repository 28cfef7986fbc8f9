"""Candles of any interval. Intervals of an hour or more come from the table `candle`, shorter ones from minute prices.

The candles of prices that were stored before the table `candle` existed are built from the newest day back, several days
per transaction. Until then they are computed from minute prices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from db import times
from db.pool import Executor, Transaction
from db.queries import shapes
from db.queries.shapes import Column, Shape, Statement
from db.queries.snapshots import Snapshot, minute_close_sql, minute_open_sql, rewrite
from db.times import DAY, HOUR

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
     WHERE ticker = $1 AND ts >= {low} AND ts < {high}""",
    Basis.RANGE: f"""
    SELECT p.ts, {minute_open_sql} AS open,
           greatest(p.price, r.high) AS high, least(p.price, r.low) AS low,
           {minute_close_sql} AS close,
           1::bigint AS count, coalesce(r.twap, p.price) AS sum, (r.ts IS NOT NULL)::int AS ranged,
           (r.watched_s IS NOT DISTINCT FROM 60)::int AS watched
      FROM price AS p
      LEFT JOIN minute_range AS r ON r.ticker = p.ticker AND r.ts = p.ts AND r.ts >= {{low}} AND r.ts < {{high}}
     WHERE p.ticker = $1 AND p.ts >= {{low}} AND p.ts < {{high}}""",
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


# In a calendar, a stored hour is used if no candle starts within it. The hours of $6 are computed from minutes.
_STORED_WHOLE_HOURS: Final = " AND ts NOT IN (SELECT unnest($6::bigint[]))"
_SPLIT_HOURS: Final = """
    SELECT minute.* FROM unnest($6::bigint[]) AS split CROSS JOIN LATERAL ({minutes}) AS minute"""


@dataclass(frozen=True)
class _Slots:
    """SQL for the candles of a window."""

    start: str
    """The start of the candle that contains `ts`."""
    end: str
    """The end of the candle that starts at `ts`."""
    all: str
    """A query of all starts, as `ts`."""


_CALENDAR_SLOTS: Final = _Slots(
    start="($5::bigint[])[width_bucket(ts, $5::bigint[])]",
    end="($5::bigint[])[width_bucket(ts, $5::bigint[]) + 1]",
    all="SELECT unnest(trim_array($5::bigint[], 1)) AS ts",
)


def _slots(interval: Interval) -> _Slots:
    step = "1 month" if interval.value.is_monthly else f"{interval.value.seconds} seconds"
    series = f"to_timestamp($2) AT TIME ZONE 'UTC', to_timestamp($3 - 1) AT TIME ZONE 'UTC', '{step}'::interval"
    return _Slots(
        interval.start_sql,
        interval.end_sql,
        f"SELECT extract(epoch FROM at)::bigint AS ts FROM generate_series({series}) AS at",
    )


@lru_cache(512)
def statement(
    interval: Interval,
    shape: Shape,
    basis: Basis,
    *,
    with_open: bool,
    with_empty: bool,
    from_hours: bool = False,
    in_calendar: bool = False,
) -> Statement:
    """Builds the statement of `fetch_json`. Parameters: ticker, first start, last end, now; then the constants.

    `from_hours`: the statement reads the stored candles of hours, not of days. `in_calendar`: more parameters precede the
    constants, all starts with the last end and, unless minutes are read, the hours that contain one of them.
    """
    base = min(interval.value.base, HOUR) if from_hours or in_calendar else interval.value.base
    found = _found_sql(interval, base, basis, in_calendar=in_calendar)
    slots = _CALENDAR_SLOTS if in_calendar else _slots(interval)
    parameter_count = 4 + (1 if in_calendar else 0) + (1 if in_calendar and base > times.MINUTE else 0)

    def wrap(text: str) -> str:
        return _sql(text, found, slots, with_open=with_open, with_empty=with_empty)

    return shapes.build_list_statement(shape, parameter_count + 1, wrap)


def _found_sql(interval: Interval, base: int, basis: Basis, *, in_calendar: bool) -> str:
    """Returns SQL for the candles with a price, from stored candles of `base` seconds or from minutes."""
    start = (_CALENDAR_SLOTS if in_calendar else _slots(interval)).start
    minutes = _MINUTE_CANDLES[basis]
    if base == times.MINUTE:
        return _group_sql(start, minutes.format(low="$2", high="$3"))
    stored = _STORED_CANDLES.format(numbers=_STORED_NUMBERS[basis], span=base)
    unbuilt = minutes.format(low="$2", high="least($3, (SELECT ts FROM built))")
    if in_calendar:
        split = minutes.format(low="greatest($2, split, (SELECT ts FROM built))", high="least($3, split + 3600)")
        parts = [stored + _STORED_WHOLE_HOURS, unbuilt, _SPLIT_HOURS.format(minutes=split)]
        return _group_sql(start, " UNION ALL ".join(parts))
    if base == interval.value.seconds:  # only the part that is not built yet must be grouped
        return f"{stored} UNION ALL {_group_sql(start, unbuilt)}"
    return _group_sql(start, f"{stored} UNION ALL {unbuilt}")


def _sql(text: str, found: str, slots: _Slots, *, with_open: bool, with_empty: bool) -> str:
    rows = f"({slots.all}) AS slots LEFT JOIN found USING (ts)" if with_empty else "found"
    return f"""
WITH built AS (
    SELECT coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0) AS ts
), found AS MATERIALIZED ({found}
), slots_with_end AS (
    SELECT ts, {slots.end} AS end_ts, open, high, low, close, coalesce(count, 0) AS count, sum,
           coalesce(ranged, 0) AS ranged, coalesce(watched, 0) AS watched
      FROM {rows}
)
SELECT {text}
  FROM (SELECT * FROM slots_with_end WHERE end_ts <= $4::bigint OR {str(with_open).lower()} ORDER BY ts) AS candle
"""


def _group_sql(start: str, part: str) -> str:
    # min(ARRAY[ts, open]) finds the first open in one pass; joins on the first and last minute would need three.
    return f"""
    SELECT {start} AS ts, (min(ARRAY[ts, open]))[2] AS open, max(high) AS high, min(low) AS low,
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
    starts: Sequence[int] | None = None,
) -> str:
    """Returns the candles that start in [low, high) as a JSON list, oldest first. Those that end by `now` are closed.

    They align with UTC, or with `starts`: the starts of all candles, and the end of the last one.
    """
    if starts is not None and not starts:
        return "[]"
    # Stored candles of days can be used only if the starts are those of UTC.
    in_calendar = starts is not None and any(interval.floor(start) != start for start in starts)
    options = {"with_open": with_open, "with_empty": with_empty}
    query = statement(interval, shape, basis, **options, from_hours=snapshot is not None, in_calendar=in_calendar)
    arguments: list[Any] = [ticker, interval.ceil(low), interval.ceil(high), now]  # the last candle may end after `high`
    if in_calendar:
        assert starts is not None  # noqa: S101  for the type checker
        arguments = [ticker, starts[0], starts[-1], now, starts]
        if interval.value.base > times.MINUTE:
            arguments.append(sorted({start - start % HOUR for start in starts if start % HOUR}))
    text: str = await db.fetchval(*rewrite(snapshot, query.sql, *arguments, *query.constants))
    return text


# Stored candles remain when retention deletes their minutes.
EXTENT: Final = """
SELECT least((SELECT min(ts) FROM price WHERE ticker = $1 AND ts < $2),
             (SELECT min(ts) FROM candle WHERE ticker = $1 AND span = 3600 AND ts < $2)) AS low,
       greatest((SELECT max(ts) + 60 FROM price WHERE ticker = $1 AND ts < $2),
                (SELECT max(ts) + 3600 FROM candle WHERE ticker = $1 AND span = 3600 AND ts < $2)) AS high
"""

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


async def extent(db: Executor, ticker: str, high: int, snapshot: Snapshot | None = None) -> tuple[int, int] | None:
    """Returns the start of the first minute or stored hour before `high`, and the end of the last; None if there is none."""
    row = await db.fetchrow(*rewrite(snapshot, EXTENT, ticker, high))
    return None if row is None or row["low"] is None else (row["low"], row["high"])


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
