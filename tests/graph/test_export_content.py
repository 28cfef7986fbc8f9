"""Exports of several tickers, below each other and side by side, and of candles."""

import asyncio
import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from db import times
from db.pool import Database
from db.queries import exports, retention, version, write_lock
from db.rows import PriceRow
from tests.db.test_digests import run_verb
from tests.graph.conftest import Api
from tests.sample_data import START_TS, row, store, track

DAY = times.DAY


@pytest.fixture
async def stored_rows(db: Database) -> list[PriceRow]:
    """Minutes of 40 days, so that an export has several parts. Each ticker lacks other minutes."""
    await track(db, "btc_usd", "eth_usd", "sol_usd")
    rows = [
        row(ticker, START_TS + 60 * number, f"{1_000 * (scale + 1) + number % 997}.{number % 9 + 1}")
        for scale, (ticker, skip) in enumerate((("btc_usd", 7), ("eth_usd", 5)))
        for number in range(0, 40 * 1_440, 61)
        if number % skip
    ]
    await store(db, rows)
    return rows


async def _read(api: Api, query: str, status: int = 200) -> bytes:
    async with api.session.get(f"{api.url}/export?{query}") as response:
        body = await response.read()
        assert response.status == status, body
        return body


def _csv(body: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body.decode())))


def _parquet(body: bytes) -> Any:
    return pyarrow.parquet.read_table(pa.BufferReader(body))


async def test_several_tickers_follow_each_other(api: Api, stored_rows: list[PriceRow]) -> None:
    expected = [(one.ticker, str(one.ts), str(one.price)) for one in stored_rows]
    query = "ticker=btc_usd&ticker=eth_usd&ticker=sol_usd"
    found = _csv(await _read(api, query))
    assert [(one["ticker"], one["ts"], one["price"]) for one in found] == expected
    lines = [json.loads(line) for line in (await _read(api, f"{query}&format=jsonl")).splitlines()]
    assert [(one["ticker"], str(one["ts"]), one["price"]) for one in lines] == expected
    for export_format in ("parquet", "arrow"):
        body = await _read(api, f"{query}&format={export_format}&columns=ticker,ts,price")
        table = _parquet(body) if export_format == "parquet" else pa.ipc.open_stream(body).read_all()
        assert table.column("ticker").to_pylist() == [one.ticker for one in stored_rows]
        assert table.column("price").to_pylist() == [one.price for one in stored_rows]


async def test_tickers_side_by_side_have_a_row_for_each_minute(api: Api, stored_rows: list[PriceRow]) -> None:
    minutes = dict[int, dict[str, Decimal]]()
    for one in stored_rows:
        minutes.setdefault(one.ts, {})[one.ticker] = one.price
    query = "ticker=eth_usd&ticker=sol_usd&ticker=btc_usd&layout=wide"
    names = ("eth_usd", "sol_usd", "btc_usd")
    expected = [
        {"ts": ts, **{name: None if name not in prices else str(prices[name]) for name in names}}
        for ts, prices in sorted(minutes.items())
    ]
    assert [json.loads(line) for line in (await _read(api, f"{query}&format=jsonl")).splitlines()] == expected
    assert [
        {"ts": int(one.pop("ts")), **{name: value or None for name, value in one.items()}}
        for one in _csv(await _read(api, query))
    ] == expected
    table = _parquet(await _read(api, f"{query}&format=parquet"))
    assert table.schema.names == ["time", *names]
    assert table.schema.field("sol_usd").type == pa.decimal128(38, 18)
    assert [int(one.timestamp()) for one in table.column("time").to_pylist()] == sorted(minutes)
    assert [None if one is None else str(one.normalize()) for one in table.column("btc_usd").to_pylist()] == [
        None if one["btc_usd"] is None else str(Decimal(str(one["btc_usd"])).normalize()) for one in expected
    ]


@pytest.mark.parametrize("interval", ["FIVE_MINUTES", "ONE_DAY", "ONE_MONTH"])
async def test_candles_are_those_of_graphql(
    api: Api, db: Database, stored_rows: list[PriceRow], interval: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "CANDLES_PER_STATEMENT", 700 if interval == "FIVE_MINUTES" else 13)
    data_version = await version.current(db)
    window = f'interval: {interval}, from: {START_TS - DAY}, to: {START_TS + 30 * DAY}, asOf: "{data_version}"'
    fields = "ts open high low close twap count expected"
    for as_of in ("", f"&as_of={data_version}"):
        query = f"ticker=btc_usd&ticker=eth_usd&interval={interval}&from={START_TS - DAY}&to={START_TS + 30 * DAY}{as_of}"
        expected = [
            {"ticker": ticker} | candle
            for ticker in ("btc_usd", "eth_usd")
            for candle in (await api.data(f'{{ candles(ticker: "{ticker}", {window}) {{ {fields} }} }}'))["candles"]
        ]
        assert expected
        assert [json.loads(line) for line in (await _read(api, f"{query}&format=jsonl")).splitlines()] == expected
        assert _csv(await _read(api, query)) == [{name: str(value) for name, value in one.items()} for one in expected]
        table = _parquet(await _read(api, f"{query}&format=parquet"))
        assert [int(one.timestamp()) for one in table.column("time").to_pylist()] == [one["ts"] for one in expected]
        assert table.column("twap").to_pylist() == [Decimal(one["twap"]) for one in expected]
        found = _csv(await _read(api, f"{query}&columns=close,time"))
        assert found == [{"close": one["close"], "time": times.iso(one["ts"])} for one in expected]


@pytest.mark.slow
async def test_candles_remain_when_their_minutes_are_deleted(
    api: Api, db: Database, dsn: str, stored_rows: list[PriceRow], tmp_path: Path
) -> None:
    command = ("export", "btc_usd", "--format", "parquet", "--partition", "month", "--output", str(tmp_path))
    await asyncio.to_thread(run_verb, dsn, *command)
    january = tmp_path / "ticker=btc_usd" / "month=2024-01" / "data.parquet"
    before = january.read_bytes()
    end = START_TS + 40 * DAY
    async with write_lock.write_transaction(db) as connection:
        await retention.advance_horizons(connection, START_TS + 10 * DAY, end, times.END)
    await retention.delete_expired(db, end)
    query = f"interval=ONE_DAY&ticker=btc_usd&from={START_TS - DAY}&to={START_TS + 30 * DAY + 7}"
    async with api.session.get(f"{api.url}/candles?format=csv&{query}") as response:
        expected = [(one["ts"], one["close"]) for one in _csv(await response.read())]
    assert len(expected) >= 30
    assert [(one["ts"], one["close"]) for one in _csv(await _read(api, query))] == expected
    assert "stays" in await asyncio.to_thread(run_verb, dsn, *command)
    assert january.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ticker=btc_usd&ticker=BTC_USD", "ticker: a ticker is repeated"),
        ("", "ticker: "),
        ("&".join(f"ticker=t{number}_usd" for number in range(201)), "ticker: "),
        ("ticker=btc_usd&layout=wide&interval=ONE_DAY", "layout=wide has one column of prices for each ticker"),
        ("ticker=btc_usd&layout=wide&columns=ts", "layout=wide has one column of prices for each ticker"),
        ("ticker=btc_usd&interval=ONE_DAY&columns=price", "columns: 'price' is not a column; use some of ticker, ts, time"),
    ],
)
async def test_a_wrong_combination_is_explained(api: Api, query: str, expected: str) -> None:
    assert expected in json.loads(await _read(api, query, 422))["detail"]


async def test_an_unknown_ticker_among_others_is_named(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    assert b"Unknown ticker: nobody_usd" in await _read(api, "ticker=btc_usd&ticker=nobody_usd", 404)


async def test_a_version_of_several_tickers_can_be_read_again(api: Api, db: Database, stored_rows: list[PriceRow]) -> None:
    data_version = await version.current(db)
    for options in ("", "&layout=wide", "&interval=ONE_DAY"):
        query = f"ticker=btc_usd&ticker=eth_usd&as_of={data_version}{options}"
        before = await _read(api, query)
        await store(db, [row("eth_usd", START_TS + 60 * 5 * (len(options) + 1), "7")])
        assert await _read(api, query) == before
        assert await _read(api, query.replace(str(data_version), str(await version.current(db)))) != before


@pytest.mark.slow
async def test_a_file_for_each_month_is_one_table(dsn: str, stored_rows: list[PriceRow], tmp_path: Path) -> None:
    command = ("export", "btc_usd", "eth_usd", "--format", "parquet", "--partition", "month", "--output", str(tmp_path / "a"))
    for _ in range(2):  # again over the same folder
        run_verb(dsn, *command)
        table = pyarrow.dataset.dataset(tmp_path / "a", partitioning="hive").to_table().sort_by([("ticker", "ascending")])
        assert table.column("ticker").to_pylist() == [one.ticker for one in stored_rows]
        assert table.column("price").to_pylist() == [one.price for one in stored_rows]
    files = sorted(str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert files == [
        f"ticker={name}/month={month}/data.parquet" for name in ("btc_usd", "eth_usd") for month in ("2024-01", "2024-02")
    ]
    result = run_verb(dsn, "export", "btc_usd", "eth_usd", "--interval", "one_day", "--output", str(tmp_path / "days.csv"))
    assert "minutes from 2024-01-15" in result
    days = _csv((tmp_path / "days.csv").read_bytes())
    assert [one["ticker"] for one in days[:1] + days[-1:]] == ["btc_usd", "eth_usd"]
