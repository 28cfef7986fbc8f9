"""Whatever was forgotten, and however far that came: every query says the same of what is left."""

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
from db.tables import PriceRow
from tests.stored import row, store, track

DAY, HOUR = 86_400, 3_600
BEGIN = 1_704_672_000
"""2024-01-08."""
END = BEGIN + 12 * DAY
PRICES = Shape((("ts", prices.JSON_COLUMNS["ts"]), ("price", prices.JSON_COLUMNS["price"])))
CANDLES = Shape(tuple((name, candles.JSON_COLUMNS[name]) for name in ("ts", "high", "low", "count")))


def _rows() -> list[PriceRow]:
    """Twelve days with holes, of a minute and of a day, and prices of which many are the same."""
    numbers = [n for n in range(0, 12 * 1_440, 7) if n % 11 and not 3_000 < n < 4_500]
    return [row("btc_usd", BEGIN + 60 * n, f"{60_000 + n * 7_919 % 50}.{n % 3}") for n in numbers]


ROWS = _rows()


class _RolledBackError(Exception):
    """Raised so that the next example finds everything again."""


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    horizon=st.integers(-1, 12).map(lambda day: BEGIN + day * DAY),
    forgotten=st.floats(0, 1),
    low=st.integers(-DAY, 12 * DAY),
    minutes=st.integers(1, 12 * 1_440),
    built=st.booleans(),
)
@example(horizon=BEGIN + 4 * DAY, forgotten=1, low=0, minutes=12 * 1_440, built=True)
@example(horizon=BEGIN + 4 * DAY, forgotten=0.5, low=0, minutes=12 * 1_440, built=True)
@example(horizon=BEGIN + 12 * DAY, forgotten=1, low=0, minutes=12 * 1_440, built=True)
@example(horizon=BEGIN + 4 * DAY, forgotten=1, low=4 * DAY - 60, minutes=2, built=False)
async def test_every_query_agrees_with_the_minutes_that_are_left(
    db: Database, horizon: int, forgotten: float, low: int, minutes: int, built: bool
) -> None:
    if not await db.fetchval("SELECT count(*) FROM price"):
        await track(db, "btc_usd", since=BEGIN)
        await store(db, ROWS)
    low, high = BEGIN + low, BEGIN + low + 60 * minutes
    cut = int(BEGIN + forgotten * (horizon - BEGIN))

    async def look() -> None:
        async with db.transaction() as connection:
            await connection.execute("UPDATE ticker SET horizon = $1", horizon)
            await connection.execute("DELETE FROM price WHERE ts < $1", cut)
            if not built:
                await connection.execute("DELETE FROM candle")
                await connection.execute("UPDATE ticker SET candles_from = $1", END + DAY)
            left = [one for one in ROWS if one.ts >= cut]
            await _agrees(connection, left, horizon, low, high, built=built)
            raise _RolledBackError

    with contextlib.suppress(_RolledBackError):
        await look()


async def _agrees(db: Transaction, left: Sequence[PriceRow], horizon: int, low: int, high: int, *, built: bool) -> None:
    low_minute = -(-low // 60) * 60
    inside = [one for one in left if low <= one.ts < high]
    counted = [one for one in inside if one.ts >= horizon]

    listed = await prices.window(db, "btc_usd", low, high, newest_first=False)
    assert [(r["ts"], r["price"]) for r in listed] == [(one.ts, one.price) for one in inside]
    text = await prices.window_json(db, PRICES, "btc_usd", low, high, newest_first=True)
    assert [entry["ts"] for entry in json.loads(text)] == [one.ts for one in reversed(inside)]
    page = await prices.fetch_page(db, PRICES, "btc_usd", low, high, newest_first=False, limit=5)
    assert [entry["ts"] for entry in json.loads(page.text)] == [one.ts for one in inside[:5]]
    assert page.has_more is (len(inside) > 5)
    assert await prices.count_in(db, "btc_usd", low, high) == len(inside)
    ts, values = await summaries.series(db, "btc_usd", low, high)
    assert (json.loads(ts), list(map(Decimal, json.loads(values)))) == (
        [one.ts for one in inside],
        [one.price for one in inside],
    )
    newest = await prices.latest(db, "btc_usd", END)
    assert (None if newest is None else newest["ts"]) == max((one.ts for one in left), default=None)

    said = await coverage.count(db, "btc_usd", low, high, END)
    expected = max(0, min(-(-high // 60) * 60, END) - max(low_minute, horizon, BEGIN)) // times.MINUTE
    assert (said.expected, said.stored, said.extra) == (expected, len(counted), len(inside) - len(counted))
    await _summary_agrees(db, counted, low, high)
    await _candles_agree(db, left, low, high, built=built)

    assert await gaps.periods(db, "btc_usd", low, high, ["open"], 10) == []
    assert (await retention.horizons(db)).get("btc_usd") == horizon


async def _summary_agrees(db: Transaction, counted: Sequence[PriceRow], low: int, high: int) -> None:
    found = await summaries.summary(db, "btc_usd", low, high)
    if not counted:
        assert found is None
        return
    assert found is not None
    assert found.count == len(counted)
    assert found.first["ts"] == counted[0].ts
    assert found.last["ts"] == counted[-1].ts
    assert found.high["ts"] == max(counted, key=lambda one: (one.price, -one.ts)).ts
    assert found.low["ts"] == min(counted, key=lambda one: (one.price, one.ts)).ts
    mean = sum((one.price for one in counted), Decimal()) / len(counted)
    assert abs(found.twap - mean) < Decimal("0.000000001")


async def _candles_agree(db: Transaction, left: Sequence[PriceRow], low: int, high: int, *, built: bool) -> None:
    """Hours that were built are of all that was ever stored; what is still to be built is of what is left."""
    of = ROWS if built else left
    for interval in (Interval.ONE_HOUR, Interval.ONE_DAY):
        seconds = interval.value.seconds
        first = -(-low // seconds) * seconds
        text = await candles.fetch_json(db, interval, CANDLES, "btc_usd", first, max(first, -(-high // seconds) * seconds), END)
        wanted = {}
        for begin in range(first, high, seconds):
            held = [one.price for one in of if begin <= one.ts < begin + seconds]
            if held and begin + seconds <= END:
                wanted[begin] = (max(held), min(held), len(held))
        found = {e["ts"]: (Decimal(e["high"]), Decimal(e["low"]), e["count"]) for e in json.loads(text)}
        assert found == wanted
