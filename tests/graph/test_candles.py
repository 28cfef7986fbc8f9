"""Compares candles, summaries and series with the same values computed in Python from single minutes."""

import asyncio
import datetime as dt
import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from db.pool import Database
from db.queries import candles, prices, version, write_lock
from db.queries.candles import Interval
from db.rows import PriceRow
from graph.schema.scalars import _format_decimal
from tests.graph.conftest import Api
from tests.sample_data import row, store, track

MONDAY = 1_704_672_000
"""2024-01-08, a Monday, three weeks before a month's end."""
DAY = 86_400
FIELDS = "ts end open high low close count expected closed complete twap"


def _rows() -> list[PriceRow]:
    """Returns rows of five weeks with gaps of many sizes, across the end of a month, with rising and falling prices."""
    minutes = [m for m in range(0, 35 * 1_440, 7) if m % 11 and not 3_000 < m < 5_000 and not 20_000 < m < 23_000]
    return [row("btc_usd", MONDAY + 60 * m, f"{60_000 + (m * 7_919) % 1_000}.{m % 9 + 1}") for m in minutes]


@pytest.fixture
async def stored_rows(db: Database) -> list[PriceRow]:
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
        window_rows = [r for r in rows if begin <= r.ts < end]
        if begin >= low and end <= now and (window_rows or empty):
            values = [r.price for r in window_rows]
            mean = _mean(values) if values else None
            yield {
                "ts": begin,
                "end": end,
                "open": _format_decimal(values[0]) if values else None,
                "high": _format_decimal(max(values)) if values else None,
                "low": _format_decimal(min(values)) if values else None,
                "close": _format_decimal(values[-1]) if values else None,
                "count": len(values),
                "expected": (end - begin) // 60,
                "closed": True,
                "complete": len(values) == (end - begin) // 60,
                "twap": None if mean is None else _format_decimal(mean),
            }
        begin = end


def _mean(values: list[Decimal]) -> Decimal:
    return (sum(values, Decimal()) / len(values)).quantize(Decimal("1e-12")).normalize()


WINDOWS = {
    Interval.ONE_MINUTE: (MONDAY + 59, MONDAY + 40_000),
    Interval.FIVE_MINUTES: (MONDAY + 1, MONDAY + 2 * DAY),
    Interval.FIFTEEN_MINUTES: (MONDAY - 7_000, MONDAY + 3 * DAY + 1),
    Interval.THIRTY_MINUTES: (MONDAY + DAY, MONDAY + 5 * DAY),
}


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("build_state", ["complete", "missing", "partial"])
async def test_candles_aggregate_their_minutes(
    api: Api, db: Database, stored_rows: list[PriceRow], build_state: str, empty: bool
) -> None:
    if build_state != "complete":
        async with write_lock.write_transaction(db) as connection:
            await connection.execute("DELETE FROM candle")
            await connection.execute("UPDATE ticker SET candles_from = $1", MONDAY + 36 * DAY)
            if build_state == "partial":
                assert await candles.build(connection, "btc_usd", 12) == MONDAY + 24 * DAY
    for interval in Interval:
        low, high = WINDOWS.get(interval, (MONDAY - 9 * DAY, MONDAY + 60 * DAY))
        query = f"""{{ candles(ticker: "btc_usd", interval: {interval.name}, from: {low}, to: {high},
                                includeEmpty: {str(empty).lower()}) {{ {FIELDS} }} }}"""
        actual = (await api.data(query))["candles"]
        assert actual == list(_expected(interval, stored_rows, low, high, 2**40, empty=empty)), interval
    assert (
        await candles.find_differences(db, "btc_usd", MONDAY + 36 * DAY if build_state == "missing" else MONDAY + 24 * DAY)
        == []
    )


async def test_building_candles_resumes_where_it_stopped_and_reports_its_end(db: Database, stored_rows: list[PriceRow]) -> None:
    await db.execute("DELETE FROM candle")
    await db.execute("UPDATE ticker SET candles_from = $1", MONDAY + 35 * DAY)
    steps = []
    while await candles.pending_builds(db):
        async with write_lock.write_transaction(db) as connection:
            steps.append(await candles.build(connection, "btc_usd", 10))
    assert steps == [MONDAY + 25 * DAY, MONDAY + 15 * DAY, MONDAY + 5 * DAY, None]
    assert await candles.find_differences(db, "btc_usd", 0) == []


async def test_a_late_price_updates_the_candles_of_its_hour_and_day(db: Database) -> None:
    await track(db, "btc_usd", since=MONDAY)
    for number in (50, 10, 30, 70, 1_439):
        await store(db, [row("btc_usd", MONDAY + 60 * number, str(100 + number))])
        assert await candles.find_differences(db, "btc_usd", 0) == []
    hours = await db.fetch("SELECT open, high, low, close, count, sum FROM candle WHERE span = 3600 ORDER BY ts LIMIT 1")
    assert [int(value) for value in hours[0]] == [110, 150, 110, 150, 3, 390]


async def test_wrong_candles_are_found(db: Database, stored_rows: list[PriceRow]) -> None:
    await db.execute("UPDATE candle SET sum = sum + 1 WHERE ts = $1 AND span = 86400", MONDAY)
    await db.execute("DELETE FROM candle WHERE ts = $1 AND span = 3600", MONDAY + DAY)
    assert await candles.find_differences(db, "btc_usd", 0) == [(3_600, MONDAY + DAY), (DAY, MONDAY)]


async def test_the_open_candle_is_returned_only_on_request(api: Api, db: Database) -> None:
    now = int(dt.datetime.now(dt.UTC).timestamp())
    await track(db, "btc_usd", since=MONDAY)
    await store(db, [row("btc_usd", now - now % 60, "7")])
    window = f'ticker: "btc_usd", interval: ONE_MONTH, from: {now - 40 * DAY}'
    result = await api.data(
        f"{{ a: candles({window}) {{ close }} b: candles({window}, includeOpen: true) {{ close closed complete }} }}"
    )
    assert result == {"a": [], "b": [{"close": "7", "closed": False, "complete": False}]}


async def test_too_many_candles_are_rejected_before_any_sql(api: Api, work_log: list[str]) -> None:
    code, message = await api.error(
        f'{{ candles(ticker: "btc_usd", interval: ONE_MINUTE, from: 0, to: {60 * 10_001}) {{ ts }} }}'
    )
    assert (code, work_log) == ("RANGE_TOO_LARGE", ["validation"])
    assert "has 10001 candles of ONE_MINUTE; the maximum is 10000" in message


async def test_aggregates_of_an_unknown_ticker_fail_with_unknown_ticker(api: Api) -> None:
    arguments = 'ticker: "unknown_usd", from: 0, to: 86400'
    for query in (
        f"candles({arguments}, interval: ONE_DAY, includeEmpty: true) {{ ts }}",
        f"summary({arguments}) {{ count }}",
        f"series({arguments}) {{ ts }}",
    ):
        assert (await api.error(f"{{ {query} }}"))[0] == "UNKNOWN_TICKER"


async def test_a_series_is_two_columns(api: Api, stored_rows: list[PriceRow]) -> None:
    query = f'{{ series(ticker: "btc_usd", from: {MONDAY}, to: {MONDAY + DAY}) {{ ts price }} }}'
    window_rows = [r for r in stored_rows if r.ts < MONDAY + DAY]
    assert (await api.data(query))["series"] == {
        "ts": [r.ts for r in window_rows],
        "price": [_format_decimal(r.price) for r in window_rows],
    }
    assert (await api.data(query.replace(str(MONDAY), "0", 1).replace(str(MONDAY + DAY), "60")))["series"] == {
        "ts": [],
        "price": [],
    }


def _thinned(rows: list[PriceRow], most: int) -> list[PriceRow]:
    """Returns what a series of at most `most` points must contain, by its definition."""
    if not rows or (rows[-1].ts - rows[0].ts) // 60 < most:
        return rows
    begin, parts = rows[0].ts, (most - 2) // 2
    part = -(-(rows[-1].ts + 60 - begin) // (parts * 60)) * 60
    if part >= 3_600:
        begin -= begin % 3_600
        part = -(-(rows[-1].ts + 60 - begin) // (parts * 3_600)) * 3_600
    found = {rows[0].ts: rows[0], rows[-1].ts: rows[-1]}
    for _, group in itertools.groupby(rows, lambda one: (one.ts - begin) // part):
        of_part = list(group)
        for one in (max(of_part, key=lambda r: (r.price, -r.ts)), min(of_part, key=lambda r: (r.price, r.ts))):
            found[one.ts] = one
    return [found[ts] for ts in sorted(found)]


@pytest.mark.parametrize("candles_from", [None, MONDAY + 17 * DAY])
@pytest.mark.parametrize("most", [4, 5, 100, 1_000, 9_999])
async def test_a_thinned_series_has_the_extremes_of_each_part(
    api: Api, db: Database, stored_rows: list[PriceRow], most: int, candles_from: int | None
) -> None:
    data_version = await version.current(db)
    if candles_from is not None:
        async with write_lock.write_transaction(db) as connection:
            await connection.execute("DELETE FROM candle WHERE ts < $1", candles_from)
            await connection.execute("UPDATE ticker SET candles_from = $1", candles_from)
    for low, high in ((0, 35 * DAY), (61, 3_599), (3_000, 9 * DAY + 61), (DAY // 2, 7 * DAY + 7), (0, 10 * DAY)):
        rows = [r for r in stored_rows if MONDAY + low <= r.ts < MONDAY + high]
        expected = _thinned(rows, most)
        assert len(expected) <= most or expected == rows
        for as_of in ("", f', asOf: "{data_version}"'):
            window = f'ticker: "btc_usd", from: {MONDAY + low}, to: {MONDAY + high}, maxPoints: {most}{as_of}'
            assert (await api.data(f"{{ series({window}) {{ ts price }} }}"))["series"] == {
                "ts": [r.ts for r in expected],
                "price": [_format_decimal(r.price) for r in expected],
            }


async def test_a_thinned_series_may_be_longer_than_a_range(api: Api, stored_rows: list[PriceRow]) -> None:
    query = '{ series(ticker: "btc_usd", from: 0, maxPoints: %d) { ts } }'
    found = (await api.data(query % 10))["series"]["ts"]
    assert (found[0], found[-1]) == (stored_rows[0].ts, stored_rows[-1].ts)
    for most in (3, 10_001):
        assert await api.error(query % most) == ("BAD_USER_INPUT", f"maxPoints ({most}) must be from 4 to 10000")


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 35 * DAY), (61, 3_599), (3_000, 9_000), (55 * 60, 3_660), (DAY // 2, 7 * DAY + 7), (420, 480)]
)
async def test_a_summary_aggregates_its_minutes(
    api: Api, db: Database, stored_rows: list[PriceRow], low: int, high: int, built: bool
) -> None:
    if not built:
        async with write_lock.write_transaction(db) as connection:
            await connection.execute("DELETE FROM candle")
            await connection.execute("UPDATE ticker SET candles_from = $1", MONDAY + 36 * DAY)
    price = "{ ts price }"
    query = f"""{{ summary(ticker: "btc_usd", from: {MONDAY + low}, to: {MONDAY + high})
        {{ first {price} last {price} high {price} low {price} highest lowest
           change count twap coverage {{ stored }} }} }}"""
    window_rows = [r for r in stored_rows if MONDAY + low <= r.ts < MONDAY + high]
    actual = (await api.data(query))["summary"]

    def as_point(price_row: PriceRow) -> dict[str, Any]:
        return {"ts": price_row.ts, "price": _format_decimal(price_row.price)}

    assert actual == {
        "first": as_point(window_rows[0]),
        "last": as_point(window_rows[-1]),
        "high": as_point(max(window_rows, key=lambda r: (r.price, -r.ts))),
        "low": as_point(min(window_rows, key=lambda r: (r.price, r.ts))),
        "highest": _format_decimal(max(r.price for r in window_rows).normalize()),
        "lowest": _format_decimal(min(r.price for r in window_rows).normalize()),
        "change": _format_decimal((window_rows[-1].price - window_rows[0].price).normalize()),
        "count": len(window_rows),
        "twap": _format_decimal(_mean([r.price for r in window_rows])),
        "coverage": {"stored": len(window_rows)},
    }


async def test_an_empty_window_has_no_summary(api: Api, stored_rows: list[PriceRow]) -> None:
    assert (await api.data('{ summary(ticker: "btc_usd", from: 0, to: 60) { count } }'))["summary"] is None


async def test_closed_candles_are_cacheable_and_open_ones_are_not(api: Api, stored_rows: list[PriceRow]) -> None:
    closed = f'{{ candles(ticker: "btc_usd", interval: ONE_DAY, from: {MONDAY}, to: {MONDAY + 30 * DAY}) {{ ts }} }}'
    for query, has_etag in ((closed, True), (closed.replace(f", to: {MONDAY + 30 * DAY}", ""), False)):
        async with api.session.get(f"{api.url}/graphql", params={"query": query}) as response:
            assert ("ETag" in response.headers) is has_etag, json.loads(await response.text())


def test_the_json_columns_include_every_field() -> None:
    assert set(candles.JSON_COLUMNS) == {*FIELDS.split(), "watched", "sampled"}
    assert {"id", "ticker", "ts", "time", "price", "observed_at", "source"} <= set(prices.JSON_COLUMNS)


async def test_no_candle_begins_after_now(api: Api, db: Database) -> None:
    await track(db, "btc_usd", since=MONDAY)
    now = int(dt.datetime.now(dt.UTC).timestamp())
    window = f'ticker: "btc_usd", interval: ONE_DAY, from: {now - 2 * DAY}, to: {now + 5 * DAY}'
    actual = (await api.data(f"{{ candles({window}, includeOpen: true, includeEmpty: true) {{ ts }} }}"))["candles"]
    assert [one["ts"] <= now for one in actual] == [True, True]


async def test_concurrent_manual_inserts_update_the_candles(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", since=MONDAY)
    insert = "INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', $1, 1, 'IMPORT')"
    async with asyncio.TaskGroup() as writers:
        for number in range(8):
            writers.create_task(db.execute(insert, MONDAY + 60 * number))
    assert await candles.find_differences(db, "btc_usd", 0) == []
