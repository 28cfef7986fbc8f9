"""`GET /export`: complete histories, windows, cancellation, limits, and the import of an export."""

import asyncio
import csv
import io
import json
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest

from db import times
from db.pool import Database
from db.queries import history_export
from graph.settings import Settings
from ingest.imports import file_reader
from ingest.imports.rules import parse_row
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, import_range, range_row, row, store, store_ranges, track
from tests.wait import wait_until

ACTIVE_EXPORT_STATEMENTS = """
SELECT count(*) FROM pg_stat_activity
 WHERE state = 'active' AND query LIKE '%string_agg%' AND pid <> pg_backend_pid() AND datname = current_database()
"""
FILL = """
INSERT INTO price (ticker, ts, price, source) SELECT 'btc_usd', $1 + 60 * m, 1, 'LIVE' FROM generate_series(0, 199999) AS m
"""


@pytest.fixture
async def history(db: Database) -> list[dict[str, Any]]:
    """Stores minutes of five weeks, one of them empty, and returns them as the exported objects."""
    await track(db, "btc_usd", since=START_TS)
    minutes = [START_TS + 60 * number for number in range(0, 5 * 10_080, 97) if not 10_080 < number < 21_000]
    rows = [row("btc_usd", ts, f"{ts % 997 + 1}.5", at_s=None if ts % 180 else 1.25) for ts in minutes]
    await store(db, rows)
    return [
        {
            "ticker": "btc_usd",
            "ts": price_row.ts,
            "price": str(price_row.price),
            "observed_at": None if price_row.observed_at is None else times.iso_us(price_row.observed_at),
            "source": "LIVE",
            "original_source": None,
        }
        for price_row in rows
    ]


async def _export(api: Api, query: str, **headers: str) -> tuple[dict[str, str], str]:
    async with api.session.get(f"{api.url}/export?ticker=btc_usd{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        return dict(response.headers), await response.text()


async def test_json_lines_contain_every_row_in_order(api: Api, history: list[dict[str, Any]]) -> None:
    headers, text = await _export(api, "&format=jsonl")
    assert [json.loads(line) for line in text.splitlines()] == history
    assert headers["Content-Type"] == "application/jsonl; charset=utf-8"
    assert headers["Content-Disposition"] == 'attachment; filename="btc_usd.jsonl"'


async def test_csv_has_a_header_and_empty_fields(api: Api, history: list[dict[str, Any]]) -> None:
    headers, text = await _export(api, "", **{"Accept-Encoding": "gzip"})
    assert list(csv.DictReader(io.StringIO(text))) == [
        {name: "" if value is None else str(value) for name, value in one.items()} for one in history
    ]
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Vary"] == "Accept-Encoding, Want-Repr-Digest"


async def test_an_export_can_be_resumed_from_its_last_minute(api: Api, history: list[dict[str, Any]]) -> None:
    middle = history[len(history) // 2]["ts"]
    parts = [(await _export(api, f"&format=jsonl&{window}"))[1] for window in (f"to={middle}", f"from={middle}")]
    assert [json.loads(line) for line in "".join(parts).splitlines()] == history
    headers, _ = await _export(api, f"&from={START_TS}&to={START_TS + 60}")
    assert headers["Content-Disposition"] == 'attachment; filename="btc_usd_20240115T114000Z_20240115T114100Z.csv"'


async def test_an_empty_window_is_an_empty_file(api: Api, history: list[dict[str, Any]]) -> None:
    assert (await _export(api, "&to=60"))[1] == "ticker,ts,price,observed_at,source,original_source\n"
    assert (await _export(api, "&to=60&format=jsonl"))[1] == ""


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("?ticker=unknown_usd", 404, "Unknown ticker"),
        ("?ticker=btc_usd&from=60&to=60", 422, "must be before"),
        ("?ticker=btc_usd&format=xml", 422, "format: 'xml' should be 'csv', 'jsonl', 'parquet' or 'arrow'"),
        ("?ticker=btc_usd&columns=ts,prize", 422, "columns: 'prize' is not a column; use some of ticker, ts, price"),
        ("?ticker=btc_usd&columns=ts,ts", 422, "columns: a column is repeated"),
        ("", 422, "ticker: is required"),
    ],
)
async def test_an_invalid_export_request_gets_a_reason(
    api: Api, history: list[dict[str, Any]], query: str, status: int, detail: str
) -> None:
    async with api.session.get(f"{api.url}/export{query}") as response:
        assert (response.status, detail in (await response.json())["detail"]) == (status, True), await response.text()


async def test_export_statements_end_when_the_client_disconnects(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await db.execute(FILL, START_TS)
    async with api.session.get(f"{api.url}/export?ticker=btc_usd") as response:
        await response.content.read(10)
        response.close()
    await wait_until(lambda: _no_statement_runs(db))


async def test_closing_an_export_cancels_its_prefetched_slice(db: Database) -> None:
    class SlowDatabase:
        """A database whose second slice never completes."""

        canceled: ClassVar[list[int]] = []

        async def fetchrow(self, _statement: str, /, *_args: Any) -> Any:
            return {"low": 0, "high": 10 * history_export.SLICE_S}

        async def fetchval(self, _statement: str, /, *args: Any) -> Any:
            if args[1]:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    self.canceled.append(args[1])
                    raise
            return "x"

    shape = history_export.ExportShape(history_export.ExportFormat.JSONL)
    slices = history_export.slices(SlowDatabase(), shape, "btc_usd", 0, 2**40)  # type: ignore[arg-type]  # the export calls nothing else
    async for _ in slices:
        break
    await slices.aclose()
    assert SlowDatabase.canceled == [history_export.SLICE_S]


async def _no_statement_runs(db: Database) -> bool:
    return not await db.fetchval(ACTIVE_EXPORT_STATEMENTS)


async def test_an_export_can_be_imported(api: Api, history: list[dict[str, Any]], tmp_path: Any) -> None:
    for export_format in (history_export.ExportFormat.CSV, history_export.ExportFormat.JSONL):
        file = tmp_path / f"history.{export_format}"
        file.write_text((await _export(api, f"&format={export_format}"))[1])

        def read(path: Any = file) -> list[tuple[int, str, str | None]]:
            with file_reader.open_price_file(path, ticker="btc_usd") as price_file:
                rows = [parse_row(raw.time, raw.price, is_exact=raw.is_exact) for raw in price_file.rows]
            return [(ts, price, None if at is None else times.iso_us(at)) for ts, price, at, *_ in rows]

        assert await asyncio.to_thread(read) == [(one["ts"], one["price"], one["observed_at"]) for one in history]


async def test_a_slow_download_does_not_block_other_requests(dsn: str, db: Database) -> None:
    """A download counts against the limit of connections, and not against the limit of concurrent requests."""
    await track(db, "btc_usd")
    await db.execute(FILL, START_TS)
    settings = Settings(database_url=dsn, max_in_flight=1, max_sockets_per_client=2)
    async with run_api(settings) as api, AsyncExitStack() as downloads:
        for _ in range(2):
            download = await downloads.enter_async_context(api.session.get(f"{api.url}/export?ticker=btc_usd"))
            assert await download.content.read(10)
        assert await api.data('{ latest(ticker: "btc_usd") { price } }') == {"latest": {"price": "1"}}
        async with api.session.get(f"{api.url}/export?ticker=btc_usd") as rejected:
            assert (rejected.status, (await rejected.json())["code"]) == (429, "RATE_LIMITED")


async def test_head_returns_the_headers_of_an_export(api: Api, history: list[dict[str, Any]]) -> None:
    async with api.session.head(f"{api.url}/export?ticker=btc_usd") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        assert await response.read() == b""


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_head_returns_the_length_and_a_range_returns_that_part(
    api: Api, history: list[dict[str, Any]], form: str
) -> None:
    """Like `polars.read_csv(url)` and DuckDB, which request the length first and then parts of the file."""
    url = f"{api.url}/export?ticker=btc_usd&format={form}"
    whole = (await _export(api, f"&format={form}"))[1].encode()
    async with api.session.head(url) as response:
        assert (response.status, response.content_length) == (200, len(whole))
        assert response.headers["Accept-Ranges"] == "bytes"
        etag = response.headers["ETag"]
    size = len(whole)
    for first, last in ((0, 3), (0, size - 1), (10, size + 500), (size // 2, size // 2 + 9_999), (size - 1, size - 1)):
        async with api.session.get(url, headers={"Range": f"bytes={first}-{last}", "If-Match": etag}) as response:
            assert (response.status, await response.read()) == (206, whole[first : last + 1])
            assert response.headers["Content-Range"] == f"bytes {first}-{min(last, size - 1)}/{size}"
    for header, part in (("bytes=100-", whole[100:]), ("bytes=-100", whole[-100:])):
        async with api.session.get(url, headers={"Range": header, "Accept-Encoding": "gzip"}) as response:
            assert (response.status, await response.read()) == (206, part)


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=1-2,4-5", "bytes=-", "lines=1-2", "bytes=a-b"])
async def test_another_range_is_ignored(api: Api, history: list[dict[str, Any]], header: str) -> None:
    whole = (await _export(api, ""))[1]
    async with api.session.get(f"{api.url}/export?ticker=btc_usd", headers={"Range": header}) as response:
        assert (response.status, await response.text()) == (200, whole)


async def test_a_range_of_a_changed_history_is_rejected_or_replaced_by_the_whole(
    api: Api, db: Database, history: list[dict[str, Any]]
) -> None:
    url = f"{api.url}/export?ticker=btc_usd"
    async with api.session.head(url) as response:
        etag = response.headers["ETag"]
    await store(db, [row("btc_usd", START_TS - 60)])
    async with api.session.get(url, headers={"Range": "bytes=0-9", "If-Match": etag}) as response:
        assert (response.status, await response.read()) == (412, b"")
    async with api.session.get(url, headers={"Range": "bytes=0-9", "If-Range": etag}) as response:
        assert (response.status, len((await response.read()).splitlines())) == (200, len(history) + 2)
    async with api.session.get(url, headers={"Range": "bytes=99999999-"}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"].startswith("bytes */")


async def test_columns_include_the_range_of_each_minute(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * number) for number in range(3)])
    await store_ranges(db, [range_row("btc_usd", START_TS)])
    await import_range(db, "btc_usd", START_TS + 60)
    columns = "ts,price,open,high,low,close,twap,ticks,watched_s,longest_silence_s"
    text = (await _export(api, f"&columns={columns}"))[1]
    assert text.splitlines() == [
        columns,
        f"{START_TS},100,90,110,90,110,90,60,60,1",
        f"{START_TS + 60},100,90,110,90,110,,,,",
        f"{START_TS + 120},100,,,,,,,,",
    ]
    lines = (await _export(api, f"&format=jsonl&columns={columns}"))[1].splitlines()
    assert json.loads(lines[0]) == {
        "ts": START_TS,
        "price": "100",
        "open": "90",
        "high": "110",
        "low": "90",
        "close": "110",
        "twap": "90",
        "ticks": 60,
        "watched_s": 60,
        "longest_silence_s": 1,
    }
    assert [json.loads(line)["ticks"] for line in lines] == [60, None, None]
    url = f"{api.url}/export?ticker=btc_usd&columns={columns}"
    async with api.session.get(url, headers={"Range": "bytes=-10"}) as response:
        assert await response.text() == text[-10:]
