"""Candles, summaries and series: against the same made in Python, minute by minute."""

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from db.pool import Database
from db.queries import candles, prices, write_lock
from db.queries.candles import Interval
from db.tables import PriceRow
from graph.schema.scalars import _decimal
from tests.graph.conftest import Api
from tests.stored import row, store, track

MONDAY = 1_704_672_000
"""2024-01-08, a Monday, three weeks before a month's end."""
DAY = 86_400
FIELDS = "ts end open high low close count expected closed complete twap"


def _rows() -> list[PriceRow]:
    """Five weeks with holes of every size, over the end of a month; prices that go up and down."""
    minutes = [m for m in range(0, 35 * 1_440, 7) if m % 11 and not 3_000 < m < 5_000 and not 20_000 < m < 23_000]
    return [row("btc_usd", MONDAY + 60 * m, f"{60_000 + (m * 7_919) % 1_000}.{m % 9 + 1}") for m in minutes]


@pytest.fixture
async def weeks(db: Database) -> list[PriceRow]:
    rows = _rows()
    await track(db, "btc_usd", since=MONDAY)
    for start in range(0, len(rows), 4_000):
        await store(db, rows[start : start + 4_000])
    return rows


def _begin(interval: Interval, ts: int) -> int:
    if interval is Interval.ONE_MONTH:
        at = dt.datetime.fromtimestamp(ts, dt.UTC)
        return int(at.replace(day=1, hour=0, minute=0, second=0).timestamp())
    if interval is Interval.ONE_WEEK:
        return MONDAY + (ts - MONDAY) // (7 * DAY) * 7 * DAY
    seconds: int = interval.value.seconds
    return ts - ts % seconds


def _end(interval: Interval, begin: int) -> int:
    return _begin(interval, begin + 32 * DAY) if interval is Interval.ONE_MONTH else begin + interval.value.seconds


def _expected(
    interval: Interval, rows: list[PriceRow], low: int, high: int, now: int, *, empty: bool
) -> Iterator[dict[str, Any]]:
    begin = _begin(interval, low)
    while begin < high:
        end = _end(interval, begin)
        held = [r for r in rows if begin <= r.ts < end]
        if begin >= low and end <= now and (held or empty):
            found = [r.price for r in held]
            mean = _mean(found) if found else None
            yield {
                "ts": begin,
                "end": end,
                "open": _decimal(found[0]) if found else None,
                "high": _decimal(max(found)) if found else None,
                "low": _decimal(min(found)) if found else None,
                "close": _decimal(found[-1]) if found else None,
                "count": len(found),
                "expected": (end - begin) // 60,
                "closed": True,
                "complete": len(found) == (end - begin) // 60,
                "twap": None if mean is None else _decimal(mean),
            }
        begin = end


def _mean(found: list[Decimal]) -> Decimal:
    return (sum(found, Decimal()) / len(found)).quantize(Decimal("1e-12")).normalize()


WINDOWS = {
    Interval.ONE_MINUTE: (MONDAY + 59, MONDAY + 40_000),
    Interval.FIVE_MINUTES: (MONDAY + 1, MONDAY + 2 * DAY),
    Interval.FIFTEEN_MINUTES: (MONDAY - 7_000, MONDAY + 3 * DAY + 1),
    Interval.THIRTY_MINUTES: (MONDAY + DAY, MONDAY + 5 * DAY),
}


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("built", ["kept", "to be built", "half built"])
async def test_candles_are_what_their_minutes_make(
    api: Api, db: Database, weeks: list[PriceRow], built: str, empty: bool
) -> None:
    if built != "kept":
        async with write_lock.write_transaction(db) as connection:
            await connection.execute("DELETE FROM candle")
            await connection.execute("UPDATE ticker SET candles_from = $1", MONDAY + 36 * DAY)
            if built == "half built":
                assert await candles.build(connection, "btc_usd", 12) == MONDAY + 24 * DAY
    for interval in Interval:
        low, high = WINDOWS.get(interval, (MONDAY - 9 * DAY, MONDAY + 60 * DAY))
        query = f"""{{ candles(ticker: "btc_usd", interval: {interval.name}, from: {low}, to: {high},
                                includeEmpty: {str(empty).lower()}) {{ {FIELDS} }} }}"""
        found = (await api.data(query))["candles"]
        assert found == list(_expected(interval, weeks, low, high, 2**40, empty=empty)), interval
    assert (
        await candles.find_differences(db, "btc_usd", MONDAY + 36 * DAY if built == "to be built" else MONDAY + 24 * DAY) == []
    )


async def test_building_goes_on_where_it_ended_and_says_when_it_is_done(db: Database, weeks: list[PriceRow]) -> None:
    await db.execute("DELETE FROM candle")
    await db.execute("UPDATE ticker SET candles_from = $1", MONDAY + 35 * DAY)
    steps = []
    while await candles.pending_builds(db):
        async with write_lock.write_transaction(db) as connection:
            steps.append(await candles.build(connection, "btc_usd", 10))
    assert steps == [MONDAY + 25 * DAY, MONDAY + 15 * DAY, MONDAY + 5 * DAY, None]
    assert await candles.find_differences(db, "btc_usd", 0) == []


async def test_what_comes_late_changes_its_hour_and_its_day(db: Database) -> None:
    await track(db, "btc_usd", since=MONDAY)
    for number in (50, 10, 30, 70, 1_439):
        await store(db, [row("btc_usd", MONDAY + 60 * number, str(100 + number))])
        assert await candles.find_differences(db, "btc_usd", 0) == []
    hours = await db.fetch("SELECT open, high, low, close, count, sum FROM candle WHERE span = 3600 ORDER BY ts LIMIT 1")
    assert [int(value) for value in hours[0]] == [110, 150, 110, 150, 3, 390]


async def test_a_candle_that_is_wrong_is_found(db: Database, weeks: list[PriceRow]) -> None:
    await db.execute("UPDATE candle SET sum = sum + 1 WHERE ts = $1 AND span = 86400", MONDAY)
    await db.execute("DELETE FROM candle WHERE ts = $1 AND span = 3600", MONDAY + DAY)
    assert await candles.find_differences(db, "btc_usd", 0) == [(3_600, MONDAY + DAY), (DAY, MONDAY)]


async def test_the_open_candle_is_shown_to_who_asks_for_it(api: Api, db: Database) -> None:
    now = int(dt.datetime.now(dt.UTC).timestamp())
    await track(db, "btc_usd", since=MONDAY)
    await store(db, [row("btc_usd", now - now % 60, "7")])
    window = f'ticker: "btc_usd", interval: ONE_MONTH, from: {now - 40 * DAY}'
    answer = await api.data(
        f"{{ a: candles({window}) {{ close }} b: candles({window}, includeOpen: true) {{ close closed complete }} }}"
    )
    assert answer == {"a": [], "b": [{"close": "7", "closed": False, "complete": False}]}


async def test_too_many_are_refused_before_any_sql(api: Api, ran: list[str]) -> None:
    code, message = await api.error(
        f'{{ candles(ticker: "btc_usd", interval: ONE_MINUTE, from: 0, to: {60 * 10_001}) {{ ts }} }}'
    )
    assert (code, ran) == ("RANGE_TOO_LARGE", ["validation"])
    assert "has 10001 candles of ONE_MINUTE; the maximum is 10000" in message


async def test_an_unknown_ticker_is_told(api: Api) -> None:
    nobody = 'ticker: "nobody_usd", from: 0, to: 86400'
    for query in (
        f"candles({nobody}, interval: ONE_DAY, includeEmpty: true) {{ ts }}",
        f"summary({nobody}) {{ count }}",
        f"series({nobody}) {{ ts }}",
    ):
        assert (await api.error(f"{{ {query} }}"))[0] == "UNKNOWN_TICKER"


async def test_a_series_is_two_columns(api: Api, weeks: list[PriceRow]) -> None:
    query = f'{{ series(ticker: "btc_usd", from: {MONDAY}, to: {MONDAY + DAY}) {{ ts price }} }}'
    held = [r for r in weeks if r.ts < MONDAY + DAY]
    assert (await api.data(query))["series"] == {"ts": [r.ts for r in held], "price": [_decimal(r.price) for r in held]}
    assert (await api.data(query.replace(str(MONDAY), "0", 1).replace(str(MONDAY + DAY), "60")))["series"] == {
        "ts": [],
        "price": [],
    }


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 35 * DAY), (61, 3_599), (3_000, 9_000), (55 * 60, 3_660), (DAY // 2, 7 * DAY + 7), (420, 480)]
)
async def test_a_summary_is_what_its_minutes_come_to(
    api: Api, db: Database, weeks: list[PriceRow], low: int, high: int, built: bool
) -> None:
    if not built:
        async with write_lock.write_transaction(db) as connection:
            await connection.execute("DELETE FROM candle")
            await connection.execute("UPDATE ticker SET candles_from = $1", MONDAY + 36 * DAY)
    price = "{ ts price }"
    query = f"""{{ summary(ticker: "btc_usd", from: {MONDAY + low}, to: {MONDAY + high})
        {{ first {price} last {price} high {price} low {price} change count twap coverage {{ stored }} }} }}"""
    held = [r for r in weeks if MONDAY + low <= r.ts < MONDAY + high]
    found = (await api.data(query))["summary"]

    def shown(one: PriceRow) -> dict[str, Any]:
        return {"ts": one.ts, "price": _decimal(one.price)}

    assert found == {
        "first": shown(held[0]),
        "last": shown(held[-1]),
        "high": shown(max(held, key=lambda r: (r.price, -r.ts))),
        "low": shown(min(held, key=lambda r: (r.price, r.ts))),
        "change": _decimal((held[-1].price - held[0].price).normalize()),
        "count": len(held),
        "twap": _decimal(_mean([r.price for r in held])),
        "coverage": {"stored": len(held)},
    }


async def test_of_an_empty_window_there_is_no_summary(api: Api, weeks: list[PriceRow]) -> None:
    assert (await api.data('{ summary(ticker: "btc_usd", from: 0, to: 60) { count } }'))["summary"] is None


async def test_closed_candles_are_kept_and_open_ones_are_not(api: Api, weeks: list[PriceRow]) -> None:
    closed = f'{{ candles(ticker: "btc_usd", interval: ONE_DAY, from: {MONDAY}, to: {MONDAY + 30 * DAY}) {{ ts }} }}'
    for query, tagged in ((closed, True), (closed.replace(f", to: {MONDAY + 30 * DAY}", ""), False)):
        async with api.session.get(f"{api.url}/graphql", params={"query": query}) as response:
            assert ("ETag" in response.headers) is tagged, json.loads(await response.text())


def test_every_statement_of_prices_that_is_made_has_its_columns() -> None:
    assert set(candles.JSON_COLUMNS) == set(FIELDS.split())
    assert {"id", "ticker", "ts", "time", "price", "observed_at", "source"} <= set(prices.JSON_COLUMNS)


async def test_no_candle_begins_after_now(api: Api, db: Database) -> None:
    await track(db, "btc_usd", since=MONDAY)
    now = int(dt.datetime.now(dt.UTC).timestamp())
    window = f'ticker: "btc_usd", interval: ONE_DAY, from: {now - 2 * DAY}, to: {now + 5 * DAY}'
    found = (await api.data(f"{{ candles({window}, includeOpen: true, includeEmpty: true) {{ ts }} }}"))["candles"]
    assert [one["ts"] <= now for one in found] == [True, True]


async def test_whoever_writes_by_hand_keeps_candles_and_is_heard(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", since=MONDAY)
    insert = "INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', $1, 1, 'IMPORT')"
    async with asyncio.TaskGroup() as writers:
        for number in range(8):
            writers.create_task(db.execute(insert, MONDAY + 60 * number))
    assert await candles.find_differences(db, "btc_usd", 0) == []
