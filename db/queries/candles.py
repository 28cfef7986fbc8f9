"""Candles of any interval, from the hours and days that the table `candle` keeps, and from minutes below an hour.

What was stored before candles were kept is built day by day; until that is done, its part is read from the minutes.
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
from db.times import DAY

_MONDAY: Final = 3 * DAY
"""UNIX time began on a Thursday, three days after a Monday."""


@dataclass(frozen=True)
class _Span:
    seconds: int
    """Of a month: of the longest."""
    base: int
    """Of the rows that it is made of: 60, 3600 or 86400."""
    shift: int = 0
    months: bool = False


class Interval(Enum):
    """How long a candle is."""

    ONE_MINUTE = _Span(60, 60)
    FIVE_MINUTES = _Span(300, 60)
    FIFTEEN_MINUTES = _Span(900, 60)
    THIRTY_MINUTES = _Span(1_800, 60)
    ONE_HOUR = _Span(3_600, 3_600)
    FOUR_HOURS = _Span(14_400, 3_600)
    TWELVE_HOURS = _Span(43_200, 3_600)
    ONE_DAY = _Span(DAY, DAY)
    ONE_WEEK = _Span(7 * DAY, DAY, shift=_MONDAY)
    ONE_MONTH = _Span(31 * DAY, DAY, months=True)

    def at_or_after(self, ts: int) -> int:
        """The first of its beginnings that is not before `ts`; UNIX seconds."""
        if self.value.months:
            day = datetime.fromtimestamp(ts, UTC)
            first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            if first < day:
                first = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
            return int(first.timestamp())
        shift, seconds = self.value.shift, self.value.seconds
        return -(-(ts + shift) // seconds) * seconds - shift

    def at_or_before(self, ts: int) -> int:
        """The last of its beginnings that is not after `ts`; UNIX seconds."""
        if self.value.months:
            first = datetime.fromtimestamp(ts, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return int(first.timestamp())
        shift, seconds = self.value.shift, self.value.seconds
        return (ts + shift) // seconds * seconds - shift

    def count(self, low: int, high: int) -> int:
        """About how many begin in [low, high): of months the most there can be."""
        seconds = 28 * DAY if self.value.months else self.value.seconds
        return max(0, self.at_or_after(high) - self.at_or_after(low)) // seconds

    @property
    def start_sql(self) -> str:
        """SQL: the beginning of the one that `ts` lies in."""
        if self.value.months:
            return "extract(epoch FROM date_trunc('month', to_timestamp(ts), 'UTC'))::bigint"
        return f"ts - (ts + {self.value.shift}) % {self.value.seconds}"

    @property
    def end_sql(self) -> str:
        """SQL: the end of the one that begins at `ts`."""
        if self.value.months:
            return "extract(epoch FROM date_trunc('month', to_timestamp(ts + 32 * 86400), 'UTC'))::bigint"
        return f"ts + {self.value.seconds}"


_NUMBERS: Final = {name: f"{name}::text" for name in ("open", "high", "low", "close")} | {
    "twap": "trim_scale(round(sum::numeric(60, 18) / count, 12))::text"
}

AS_TEXT: Final = {
    "ts": Column("ts::text"),
    "end": Column("end_ts::text"),
    "count": Column("count::text"),
    "expected": Column("((end_ts - ts) / 60)::text"),
    "closed": Column("(end_ts <= $4)::text"),
    "complete": Column("(end_ts <= $4 AND count = (end_ts - ts) / 60)::text"),
    **{name: Column(sql, '"') for name, sql in _NUMBERS.items()},
}
"""Values as clients read them."""

AS_TEXT_WITH_EMPTY: Final = AS_TEXT | {
    name: Column(f"coalesce('\"' || {sql} || '\"', 'null')") for name, sql in _NUMBERS.items()
}
"""The same where some have no price."""

_MINUTES: Final = """
    SELECT ts, price AS open, price AS high, price AS low, price AS close, 1::bigint AS count, price AS sum
      FROM price
     WHERE ticker = $1 AND ts >= $2 AND ts < """

_KEPT: Final = """
    SELECT ts, open, high, low, close, count, sum
      FROM candle
     WHERE ticker = $1 AND span = {span} AND ts >= greatest($2, (SELECT ts FROM built)) AND ts < $3"""


@lru_cache(512)
def statement(interval: Interval, shape: Shape, *, with_open: bool, with_empty: bool) -> Statement:
    """Parameters: ticker, first beginning, end of the last, now; then the constants."""
    return shapes.rows(shape, 5, lambda text: _sql(interval, text, with_open=with_open, with_empty=with_empty))


def _sql(interval: Interval, text: str, *, with_open: bool, with_empty: bool) -> str:
    base, seconds = interval.value.base, interval.value.seconds
    kept = _KEPT.format(span=base)
    # Where a row is a candle already, only what is still to be built has to be put together.
    if base == times.MINUTE:
        found = _grouped(interval, f"{_MINUTES} $3")
    elif base == seconds:
        found = f"{kept} UNION ALL {_grouped(interval, f'{_MINUTES} least($3, (SELECT ts FROM built))')}"
    else:
        found = _grouped(interval, f"{kept} UNION ALL {_MINUTES} least($3, (SELECT ts FROM built))")
    slots = "found"
    if with_empty:
        step = "1 month" if interval.value.months else f"{seconds} seconds"
        slots = f"""
       (SELECT extract(epoch FROM at)::bigint AS ts
          FROM generate_series(
               to_timestamp($2) AT TIME ZONE 'UTC', to_timestamp($3 - 1) AT TIME ZONE 'UTC', '{step}'::interval) AS at) AS slots
  LEFT JOIN found USING (ts)"""
    return f"""
WITH built AS (
    SELECT coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0) AS ts
), found AS MATERIALIZED ({found}
), every AS (
    SELECT ts, {interval.end_sql} AS end_ts, open, high, low, close, coalesce(count, 0) AS count, sum FROM {slots}
)
SELECT {text}
  FROM (SELECT * FROM every WHERE end_ts <= $4::bigint OR {str(with_open).lower()} ORDER BY ts) AS candle
"""


def _grouped(interval: Interval, part: str) -> str:
    # The first of [ts, open] holds the first open: in one pass, where a join on the first and last minute needs three.
    return f"""
    SELECT {interval.start_sql} AS ts, (min(ARRAY[ts, open]))[2] AS open, max(high) AS high, min(low) AS low,
           (max(ARRAY[ts, close]))[2] AS close, sum(count)::bigint AS count, sum(sum) AS sum
      FROM ({part}) AS part
     GROUP BY 1"""


async def listed(
    db: Executor,
    interval: Interval,
    shape: Shape,
    ticker: str,
    low: int,
    high: int,
    now: int,
    *,
    with_open: bool = False,
    with_empty: bool = False,
) -> str:
    """The candles that begin in [low, high) as the JSON text of a list, oldest first; `now` decides which are closed."""
    made = statement(interval, shape, with_open=with_open, with_empty=with_empty)
    # The last one reaches beyond `high`, unless that is a beginning itself.
    bounds = interval.at_or_after(low), interval.at_or_after(high)
    text: str = await db.fetchval(made.sql, ticker, *bounds, now, *made.constants)
    return text


STILL_TO_BUILD: Final = """
SELECT name, candles_from FROM ticker WHERE candles_from IS NOT NULL ORDER BY name
"""

# The hours of a stretch of days before what is built, down to the first price; how far it came, null where that was all.
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

# Recomputed from the minutes with other means than those that keep them.
DIFFERENT: Final = """
WITH minutes AS (
    SELECT ticker, ts, price FROM price WHERE ticker = $1 AND ts >= greatest($2, 0)
), ranked AS (
    SELECT ticker, span, ts - ts % span AS bucket, price,
           row_number() OVER (PARTITION BY span, ts - ts % span ORDER BY ts) AS from_first,
           row_number() OVER (PARTITION BY span, ts - ts % span ORDER BY ts DESC) AS from_last
      FROM minutes, unnest(ARRAY[3600, 86400]) AS span
), expected AS (
    SELECT ticker, span, bucket AS ts, max(price) FILTER (WHERE from_first = 1) AS open, max(price) AS high, min(price) AS low,
           max(price) FILTER (WHERE from_last = 1) AS close, count(*) AS count, sum(price) AS sum
      FROM ranked GROUP BY ticker, span, bucket
), kept AS (
    SELECT ticker, span, ts, open, high, low, close, count, sum FROM candle WHERE ticker = $1 AND ts >= greatest($2, 0)
)
SELECT DISTINCT span, ts FROM ((TABLE expected EXCEPT TABLE kept) UNION (TABLE kept EXCEPT TABLE expected)) AS different
 ORDER BY span, ts
"""


async def still_to_build(db: Executor) -> dict[str, int]:
    """For each ticker that is not done, the second from which on its hours and days are there."""
    return {row["name"]: row["candles_from"] for row in await db.fetch(STILL_TO_BUILD)}


async def build(db: Transaction, ticker: str, days: int) -> int | None:
    """Builds the candles of so many days more, in a writer's turn; from when on they are there now, None for all of them."""
    built: int | None = await db.fetchval(BUILD, ticker, days)
    return built


async def different(db: Executor, ticker: str, since: int) -> list[tuple[int, int]]:
    """Span and beginning of each hour and day from `since` on whose candle is not what its minutes make."""
    return [(row["span"], row["ts"]) for row in await db.fetch(DIFFERENT, ticker, since)]
