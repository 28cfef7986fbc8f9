"""Exports as Parquet and Arrow: exact decimals, UTC timestamps, types that do not depend on the values."""

import asyncio
import io
import random
import subprocess
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from db import arrow, times
from db.pool import Database
from db.queries import version
from db.queries.exports import MinutesExport
from db.queries.history_export import COLUMNS, ExportFormat, ExportShape
from db.rows import Source
from tests.conftest import ROOT
from tests.db.test_digests import run_verb
from tests.graph.conftest import Api
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

CLIENT_PYTHON = ROOT / "tests" / "clients" / "python" / ".venv" / "bin" / "python"
FORMATS = ("parquet", "arrow")


def read_table(content: bytes, file_format: str) -> pa.Table:
    if file_format == "parquet":
        return parquet.read_table(io.BytesIO(content))
    return pa.ipc.open_stream(io.BytesIO(content)).read_all()


async def download(api: Api, query: str, status: int = 200) -> bytes:
    async with api.session.get(f"{api.url}/export?ticker=btc_usd&{query}") as response:
        body = await response.read()
        assert response.status == status, body
        return body


@pytest.fixture
async def prices(db: Database) -> None:
    """Prices over three slices of an export, one of them with all digits that a price can have."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "123456789012345.000000000000000001", at_s=1.25)])
    await store(db, [row("btc_usd", START_TS + 60, "7", at_s=None, source=Source.IMPORT)])
    await store(db, [row("btc_usd", START_TS + day * times.DAY, f"{day}.5") for day in (20, 40)])
    await store_ranges(db, [range_row("btc_usd", START_TS + 60)])


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("file_format", FORMATS)
async def test_values_are_exact_and_typed(api: Api, file_format: str) -> None:
    table = read_table(await download(api, f"format={file_format}"), file_format)
    assert table.column_names == ["ticker", "time", "price", "observed_at", "source", "original_source"]
    assert table.schema.field("price").type == pa.decimal128(38, 18)
    assert table.schema.field("time").type == table.schema.field("observed_at").type == pa.timestamp("us", tz="UTC")
    rows = table.to_pylist()
    assert rows[0]["price"] == Decimal("123456789012345.000000000000000001")
    assert [found["time"].timestamp() for found in rows] == [START_TS, START_TS + 60] + [
        START_TS + day * times.DAY for day in (20, 40)
    ]
    assert rows[0]["observed_at"].timestamp() == START_TS + 1.25
    assert (rows[1]["observed_at"], rows[1]["original_source"], rows[1]["source"]) == (None, None, "IMPORT")


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("file_format", FORMATS)
async def test_types_do_not_depend_on_the_window(api: Api, file_format: str) -> None:
    columns = ",".join(COLUMNS)
    schemas = {
        str(
            read_table(
                await download(api, f"format={file_format}&columns={columns}{window}"), file_format
            ).schema.remove_metadata()
        )
        for window in ("", f"&from={START_TS + 60}&to={START_TS + 120}", "&from=2030-01-01")
    }
    assert len(schemas) == 1
    table = read_table(await download(api, f"format={file_format}&columns={columns}"), file_format)
    csv_lines = (await download(api, f"columns={columns}")).decode().splitlines()
    assert table.num_rows == len(csv_lines) - 1
    second = table.to_pylist()[1]
    assert (second["high"], second["ticks"], second["longest_silence_s"], second["ts"]) == (110, 60, 1.0, START_TS + 60)
    assert table.to_pylist()[0]["high"] is None


@pytest.mark.usefixtures("prices")
async def test_a_file_is_the_same_as_of_a_version(api: Api, db: Database) -> None:
    query = f"format=parquet&as_of={await version.current(db)}"
    before = await download(api, query)
    await store(db, [row("btc_usd", START_TS + 120)])
    assert await download(api, query) == before
    async with api.session.get(
        f"{api.url}/export?ticker=btc_usd&{query}", headers={"Want-Repr-Digest": "sha-256=1"}
    ) as response:
        assert sha256(await response.read()).digest() == sha256(before).digest()
        assert response.headers["Repr-Digest"].startswith("sha-256=:")
        assert response.headers["Content-Type"] == "application/vnd.apache.parquet"


@pytest.mark.usefixtures("prices")
async def test_without_pyarrow_the_response_says_what_to_install(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "is_available", lambda: False)
    assert b"pip install -r requirements-arrow.lock" in await download(api, "format=parquet", 406)
    assert (await download(api, "format=csv")).startswith(b"ticker,")


@pytest.mark.usefixtures("prices")
async def test_a_head_request_reads_nothing(api: Api) -> None:
    for query in ("format=parquet", "digest=true"):
        async with api.session.head(f"{api.url}/export?ticker=btc_usd&{query}") as response:
            assert (response.status, await response.read()) == (200, b"")


async def test_a_last_line_with_the_digest_is_refused(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    assert b"Want-Repr-Digest" in await download(api, "format=arrow&digest=true", 422)


@pytest.mark.usefixtures("prices")
async def test_the_command_writes_the_same_file(api: Api, dsn: str, tmp_path: Path) -> None:
    for file_format in FORMATS:
        file = tmp_path / f"prices.{file_format}"
        run_verb(dsn, "export", "btc_usd", "--format", file_format, "--output", str(file))
        assert file.read_bytes() == await download(api, f"format={file_format}")


def test_memory_holds_one_part_of_a_file() -> None:
    encoder = arrow.ArrowEncoder(MinutesExport(ExportShape(ExportFormat.PARQUET, ("ticker", "ts", "price")), ["btc_usd"]))
    chance = random.Random(1)  # noqa: S311  samples
    lines = "".join(f"btc_usd,{60 * n},{chance.random():.12f}\n" for n in range(20_000)).encode()
    parts = [encoder.encode(lines) for _ in range(5)] + [encoder.finish()]
    sizes = [len(part) for part in parts[:5]]
    assert min(sizes) > 0.9 * max(sizes) > 50_000, "each part is written at once"
    assert len(parts[5]) < 10_000
    assert parquet.read_table(io.BytesIO(b"".join(parts))).num_rows == 100_000


@pytest.mark.slow
@pytest.mark.usefixtures("prices")
@pytest.mark.skipif(not CLIENT_PYTHON.exists(), reason="the clients of Python are not installed")
async def test_polars_reads_the_file(api: Api, tmp_path: Path) -> None:
    program = (
        "import io, sys, urllib.request\n"
        "import polars as pl\n"
        "frame = pl.read_parquet(io.BytesIO(urllib.request.urlopen(sys.argv[1]).read()))\n"
        "print(frame.schema['price'], frame.schema['time'], frame['price'].sum(), len(frame))\n"
    )
    url = f"{api.url}/export?ticker=btc_usd&format=parquet&from={START_TS + 60}"
    (tmp_path / "read.py").write_text(program)

    process = await asyncio.create_subprocess_exec(
        str(CLIENT_PYTHON), str(tmp_path / "read.py"), url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out.decode().strip().startswith("Decimal(precision=38, scale=18) Datetime(time_unit='us', time_zone='UTC') 68."), err
