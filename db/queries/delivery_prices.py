"""Delivery prices, as the exchange publishes them once a day, and the mean of our own data."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from db.pool import Executor, Record, Transaction
from db.rows import DeliveryBasis

WINDOW_S: Final = 1_800
"""The exchange averages the index over the 30 minutes before a delivery (https://www.deribit.com/kb/deribit-index)."""
DELIVERY_SECOND: Final = 8 * 3_600
"""Second of the UTC day of a delivery."""
MEAN_DECIMALS: Final = 12

MISSING: Final = """
SELECT name FROM unnest($1::text[]) AS name
 WHERE NOT EXISTS (SELECT FROM delivery_price WHERE ticker = name AND ts = $2)
 ORDER BY name
"""

WATCHED_MEANS: Final = f"""
SELECT given.ts, trim_scale(round(avg(r.twap), {MEAN_DECIMALS})) AS mean
  FROM unnest($2::bigint[]) AS given (ts)
  JOIN minute_range AS r ON r.ticker = $1 AND r.ts >= given.ts - {WINDOW_S} AND r.ts < given.ts AND r.watched_s = 60
 GROUP BY given.ts
HAVING count(*) = {WINDOW_S // 60}
"""  # noqa: S608  inserts constants

STORE: Final = """
INSERT INTO delivery_price (ticker, ts, price, mean, basis)
SELECT $1, * FROM unnest($2::bigint[], $3::numeric[], $4::numeric[], $5::text[])
    ON CONFLICT (ticker, ts) DO NOTHING
"""

_DIFFERENCE_BPS: Final = "((mean - price) / price * 10000)::float8"

GET: Final = f"""
SELECT ticker, ts, price, mean, basis, {_DIFFERENCE_BPS} AS difference_bps FROM delivery_price WHERE ticker = $1 AND ts = $2
"""  # noqa: S608  inserts a constant

LATEST_DIFFERENCES: Final = f"""
SELECT DISTINCT ON (ticker) ticker, {_DIFFERENCE_BPS} AS difference_bps
  FROM delivery_price
 WHERE ts >= $1 AND mean IS NOT NULL
 ORDER BY ticker, ts DESC
"""  # noqa: S608  inserts a constant

ESTIMATES_OF: Final = """
SELECT ticker, ts, price
  FROM unnest($1::text[], $2::bigint[]) AS given (ticker, ts) JOIN delivery_estimate USING (ticker, ts)
"""

estimate_of_price_sql: Final = """coalesce('"' || (
    SELECT e.price::text FROM delivery_estimate AS e WHERE e.ticker = price.ticker AND e.ts = price.ts) || '"', 'null')"""
"""SQL expression for the estimate of a row of `price` as JSON."""


async def missing(db: Executor, tickers: Sequence[str], ts: int) -> list[str]:
    """Returns those of the tickers whose delivery price at `ts` is not stored."""
    return [row["name"] for row in await db.fetch(MISSING, list(tickers), ts)]


async def watched_means(db: Executor, ticker: str, instants: Sequence[int]) -> dict[int, Decimal]:
    """Returns the mean of the 30 minutes before each instant, for instants before which all minutes were watched."""
    return {row["ts"]: row["mean"] for row in await db.fetch(WATCHED_MEANS, ticker, list(instants))}


async def store(
    db: Transaction, ticker: str, prices: Mapping[int, Decimal], means: Mapping[int, tuple[Decimal, DeliveryBasis]]
) -> None:
    """Stores the delivery prices by instant that are not stored yet, with their means. Requires a write transaction."""
    known = [means.get(ts, (None, None)) for ts in prices]
    await db.execute(
        STORE, ticker, list(prices), list(prices.values()), [mean for mean, _ in known], [basis for _, basis in known]
    )


async def get(db: Executor, ticker: str, ts: int) -> Record | None:
    """Returns the delivery price at `ts`: ticker, ts, price, mean, basis, difference_bps; or None."""
    return await db.fetchrow(GET, ticker, ts)


async def latest_differences(db: Executor, since: int) -> dict[str, float]:
    """Returns how far the newest mean of each ticker is from its delivery price, in basis points. `since`: UNIX seconds."""
    return {row["ticker"]: row["difference_bps"] for row in await db.fetch(LATEST_DIFFERENCES, since)}


async def estimates_of(db: Executor, minutes: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Decimal]:
    """Returns the estimated delivery price of each minute in which it differed from the index price."""
    columns = [ticker for ticker, _ in minutes], [ts for _, ts in minutes]
    return {(row["ticker"], row["ts"]): row["price"] for row in await db.fetch(ESTIMATES_OF, *columns)}
