"""All queries agree on the remaining minutes at any point of the deletion of expired minutes."""

import contextlib
import json
from collections.abc import Sequence
from decimal import Decimal

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from db import times
from db.pool import Database, Transaction
from db.queries import candles, coverage, gaps, prices, retention, summaries
from db.queries.candles import Interval
from db.queries.shapes import Shape
from db.rows import PriceRow
from tests.sample_data import row, store, track

DAY, HOUR = 86_400, 3_600
BEGIN = 1_704_672_000
"""2024-01-08."""
END = BEGIN + 12 * DAY
PRICES = Shape((("ts", prices.JSON_COLUMNS["ts"]), ("price", prices.JSON_COLUMNS["price"])))
CANDLES = Shape(tuple((name, candles.JSON_COLUMNS[name]) for name in ("ts", "high", "low", "count")))


def _rows() -> list[PriceRow]:
    """Returns twelve days of prices with gaps of a minute and of a day. Many of the prices are equal."""
    numbers = [n for n in range(0, 12 * 1_440, 7) if n % 11 and not 3_000 < n < 4_500]
    return [row("btc_usd", BEGIN + 60 * n, f"{60_000 + n * 7_919 % 50}.{n % 3}") for n in numbers]


ROWS = _rows()


class _RollbackError(Exception):
    """Rolls the transaction back, so that the next example finds all rows again."""


@settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    horizon=st.integers(-1, 12).map(lambda day: BEGIN + day * DAY),
    deleted_fraction=st.floats(0, 1),
    low=st.integers(-DAY, 12 * DAY),
    minutes=st.integers(1, 12 * 1_440),
    has_candles=st.booleans(),
)
@example(horizon=BEGIN + 4 * DAY, deleted_fraction=1, low=0, minutes=12 * 1_440, has_candles=True)
@example(horizon=BEGIN + 4 * DAY, deleted_fraction=0.5, low=0, minutes=12 * 1_440, has_candles=True)
@example(horizon=BEGIN + 12 * DAY, deleted_fraction=1, low=0, minutes=12 * 1_440, has_candles=True)
@example(horizon=BEGIN + 4 * DAY, deleted_fraction=1, low=4 * DAY - 60, minutes=2, has_candles=False)
async def test_every_query_agrees_with_the_remaining_minutes(
    db: Database, horizon: int, deleted_fraction: float, low: int, minutes: int, has_candles: bool
) -> None:
    if not await db.fetchval("SELECT count(*) FROM price"):
        await track(db, "btc_usd", since=BEGIN)
        await store(db, ROWS)
    low, high = BEGIN + low, BEGIN + low + 60 * minutes
    first_remaining = int(BEGIN + deleted_fraction * (horizon - BEGIN))

    async def check() -> None:
        async with db.transaction() as connection:
            await connection.execute("UPDATE ticker SET horizon = $1", horizon)
            await connection.execute("DELETE FROM price WHERE ts < $1", first_remaining)
            if not has_candles:
                await connection.execute("DELETE FROM candle")
                await connection.execute("UPDATE ticker SET candles_from = $1", END + DAY)
            remaining = [price_row for price_row in ROWS if price_row.ts >= first_remaining]
            await _assert_queries_agree(connection, remaining, horizon, low, high, has_candles=has_candles)
            raise _RollbackError

    with contextlib.suppress(_RollbackError):
        await check()


async def _assert_queries_agree(
    db: Transaction, remaining: Sequence[PriceRow], horizon: int, low: int, high: int, *, has_candles: bool
) -> None:
    low_minute = -(-low // 60) * 60
    window_rows = [price_row for price_row in remaining if low <= price_row.ts < high]
    retained_rows = [price_row for price_row in window_rows if price_row.ts >= horizon]

    window_records = await prices.window(db, "btc_usd", low, high, newest_first=False)
    assert [(r["ts"], r["price"]) for r in window_records] == [(price_row.ts, price_row.price) for price_row in window_rows]
    text = await prices.window_json(db, PRICES, "btc_usd", low, high, newest_first=True)
    assert [entry["ts"] for entry in json.loads(text)] == [price_row.ts for price_row in reversed(window_rows)]
    page = await prices.fetch_page(db, PRICES, "btc_usd", low, high, newest_first=False, limit=5)
    assert [entry["ts"] for entry in json.loads(page.text)] == [price_row.ts for price_row in window_rows[:5]]
    assert page.has_more is (len(window_rows) > 5)
    assert await prices.count_in(db, "btc_usd", low, high) == len(window_rows)
    ts, values = await summaries.series(db, "btc_usd", low, high)
    assert (json.loads(ts), list(map(Decimal, json.loads(values)))) == (
        [price_row.ts for price_row in window_rows],
        [price_row.price for price_row in window_rows],
    )
    newest = await prices.latest(db, "btc_usd", END)
    assert (None if newest is None else newest["ts"]) == max((price_row.ts for price_row in remaining), default=None)

    counts = await coverage.count(db, "btc_usd", low, high, END)
    expected = max(0, min(-(-high // 60) * 60, END) - max(low_minute, horizon, BEGIN)) // times.MINUTE
    assert (counts.expected, counts.stored, counts.extra) == (
        expected,
        len(retained_rows),
        len(window_rows) - len(retained_rows),
    )
    await _assert_summary_agrees(db, retained_rows, low, high)
    await _assert_candles_agree(db, remaining, low, high, has_candles=has_candles)

    assert await gaps.periods(db, "btc_usd", low, high, ["open"], 10) == []
    assert (await retention.horizons(db)).get("btc_usd") == horizon


async def _assert_summary_agrees(db: Transaction, retained_rows: Sequence[PriceRow], low: int, high: int) -> None:
    found = await summaries.summary(db, "btc_usd", low, high)
    if not retained_rows:
        assert found is None
        return
    assert found is not None
    assert found.count == len(retained_rows)
    assert found.first["ts"] == retained_rows[0].ts
    assert found.last["ts"] == retained_rows[-1].ts
    assert found.high["ts"] == max(retained_rows, key=lambda price_row: (price_row.price, -price_row.ts)).ts
    assert found.low["ts"] == min(retained_rows, key=lambda price_row: (price_row.price, price_row.ts)).ts
    mean = sum((price_row.price for price_row in retained_rows), Decimal()) / len(retained_rows)
    assert abs(found.twap - mean) < Decimal("0.000000001")


async def _assert_candles_agree(
    db: Transaction, remaining: Sequence[PriceRow], low: int, high: int, *, has_candles: bool
) -> None:
    """Built candles cover all minutes ever stored. Candles that are not built yet cover the remaining minutes."""
    source_rows = ROWS if has_candles else remaining
    for interval in (Interval.ONE_HOUR, Interval.ONE_DAY):
        seconds = interval.value.seconds
        first = -(-low // seconds) * seconds
        text = await candles.fetch_json(db, interval, CANDLES, "btc_usd", first, max(first, -(-high // seconds) * seconds), END)
        expected_candles = {}
        for begin in range(first, high, seconds):
            span_prices = [price_row.price for price_row in source_rows if begin <= price_row.ts < begin + seconds]
            if span_prices and begin + seconds <= END:
                expected_candles[begin] = (max(span_prices), min(span_prices), len(span_prices))
        found = {e["ts"]: (Decimal(e["high"]), Decimal(e["low"]), e["count"]) for e in json.loads(text)}
        assert found == expected_candles
