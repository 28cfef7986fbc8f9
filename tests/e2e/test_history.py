"""Runs the verbs import, gaps, backfill, rejects and status as an operator does."""

import asyncio
import gzip
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from db import times
from db.pool import Database
from db.queries import gaps, write_lock
from db.rows import Reason
from ingest.outbox import Outbox, Report, open_outbox
from ingest.simulator.server import Simulator
from tests.conftest import ROOT, Servers
from tests.sample_data import START_TS, minutes, row, store, track

pytestmark = pytest.mark.slow  # each test starts processes


@pytest.fixture
def env(dsn: str, redis_url: str, rpc_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "REDIS_URL": redis_url,
        "DERIBIT_RPC_URL": rpc_url,
        "DATA_DIR": str(tmp_path),
        "COLUMNS": "160",
    }


@pytest.fixture
async def outbox(redis_url: str) -> AsyncIterator[Outbox]:
    async with open_outbox(redis_url, max_prices=1_000) as opened:
        yield opened


async def _ingest(env: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Returns exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ingest", *arguments),
        cwd=env["DATA_DIR"],
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_second_import_of_a_file_stores_nothing_new(env: dict[str, str], db: Database, tmp_path: Path) -> None:
    file = tmp_path / "history.csv.gz"
    lines = [f"{START_TS + 60 * i};{100 + i}.50" for i in range(500)]
    file.write_bytes(gzip.compress("\n".join(["time;close", *lines, "soon;1", lines[0]]).encode()))
    status, out, err = await _ingest(env, "import", str(file), "--ticker", "btc_usd", "--rejects", str(tmp_path / "bad.csv"))
    assert status == 1, err
    assert "CSV, delimiter ';', a header: time from 'time' in s, price from 'close'" in out.replace("\n", " ")
    assert "500 stored, 0 existing, 1 duplicate, 1 rejected" in out
    assert "line 502: 'soon' is not a valid time" in err
    assert (tmp_path / "bad.csv").read_text().splitlines()[1].startswith("502,soon,1,")
    assert len(await minutes(db, "btc_usd")) == 500
    _, out, _ = await _ingest(env, "import", str(file), "--ticker", "btc_usd")
    assert "0 stored, 500 existing, 1 duplicate, 1 rejected" in out


async def test_a_dry_run_shows_the_rows_and_stores_nothing(env: dict[str, str], db: Database, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("".join(f'{{"ts": {START_TS + 60 * i}, "price": 1.5}}\n' for i in range(20)))
    status, out, _ = await _ingest(env, "import", str(file), "--ticker", "btc_usd", "--dry-run")
    assert (status, await db.fetchval("SELECT count(*) FROM price")) == (0, 0)
    assert f"line 1: {START_TS} 1.5" in out
    assert "20 would be stored" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "--ticker", "btc_usd"], "name a FILE, or --from-dsn and --table; not both"),
        (["import", "nowhere.csv", "--ticker", "btc_usd"], "nowhere.csv: No such file or directory"),
        (["import", "x.csv", "--ticker", "B TC"], "is not an index name"),
        (["gaps", "--from", "yesterday"], "is not a valid time. Use UNIX seconds"),
    ],
)
async def test_an_invalid_argument_is_reported_in_one_line(env: dict[str, str], arguments: list[str], message: str) -> None:
    status, _, err = await _ingest(env, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


async def test_the_rows_before_the_damage_of_an_archive_are_imported(env: dict[str, str], db: Database, tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"{START_TS + 60 * i},{i + 1}\n" for i in range(40_000)).encode())
    (tmp_path / "half.csv.gz").write_bytes(whole[: len(whole) // 2])
    status, _, err = await _ingest(env, "import", "half.csv.gz", "--ticker", "btc_usd")
    assert status == 1
    assert "truncated or damaged" in err
    assert len(await minutes(db, "btc_usd")) >= 10_000


async def test_a_table_of_an_older_tracker_is_read_from_its_database(
    env: dict[str, str], db: Database, servers: Servers, empty_dsn: str
) -> None:
    old_connection = await asyncpg.connect(empty_dsn)
    await old_connection.execute("CREATE TABLE price_ticks (id serial, ticker text, ts bigint, price numeric)")
    await old_connection.execute("CREATE TABLE price_records (ticker text, price double precision, created_at timestamptz)")
    ticks = (
        "INSERT INTO price_ticks (ticker, ts, price) SELECT $1, $2::bigint + 60 * i, 68241.50 + i FROM generate_series(0, 9) i"
    )
    for ticker in ("btc_usd", "eth_usd"):
        await old_connection.execute(ticks, ticker, START_TS)
    await old_connection.execute(
        "INSERT INTO price_records VALUES ('btc_usd', 68000.5, to_timestamp($1::bigint + 0.25))", START_TS + 6000
    )
    await old_connection.close()
    status, out, err = await _ingest(env, "import", "--from-dsn", empty_dsn, "--ticker", "btc_usd")
    assert (status, "10 stored" in out) == (0, True), err
    arguments = ["--table", "price_records", "--ticker", "btc_usd"]
    status, out, err = await _ingest(env, "import", "--from-dsn", empty_dsn, *arguments)
    assert (status, "1 stored" in out) == (0, True), err
    assert await minutes(db, "btc_usd") == [*range(START_TS, START_TS + 600, 60), START_TS + 6000]
    newest = await db.fetchrow("SELECT price, observed_at FROM price ORDER BY ts DESC LIMIT 1")
    assert newest is not None
    assert (str(newest["price"]), newest["observed_at"]) == ("68000.5", (START_TS + 6000) * 10**6 + 250_000)
    status, _, err = await _ingest(env, "import", "--from-dsn", empty_dsn, "--table", "nothing", "--ticker", "btc_usd")
    assert (status, err) == (2, "nothing: the table does not exist in that database\n")


async def test_gaps_are_listed_detected_and_filled_manually(env: dict[str, str], db: Database, simulator: Simulator) -> None:
    now = times.minute_of(time.time())
    await track(db, "btc_usd", since=now - 600)
    await store(db, [row("btc_usd", now - 600), row("btc_usd", now - 300)])
    _, out, _ = await _ingest(env, "gaps")
    assert out == "no gaps\n"
    _, out, _ = await _ingest(env, "gaps", "--check", "--open")
    lines = [line.split() for line in out.splitlines()[1:]]
    assert [(line[0], line[1], int(line[3]), line[4], line[5]) for line in lines][:1] == [
        ("btc_usd", times.iso(now - 540), 4, "not_collected", "open")
    ]
    _, out, err = await _ingest(env, "backfill", "--ticker", "btc_usd", "--to", str(now - 300))
    assert out.split() == ["btc_usd", "4", "filled", "0", "remaining", "0", "unrecoverable"], err
    _, out, _ = await _ingest(env, "gaps")
    assert "filled" in out.splitlines()[1]


async def test_rejected_prices_are_listed_with_their_reason(env: dict[str, str], db: Database) -> None:
    assert (await _ingest(env, "rejects"))[1] == "no rejected prices\n"
    await db.execute("INSERT INTO reject (ticker, ts, entry, reason) VALUES ('btc_usd', $1, '{}', 'no price')", START_TS)
    assert "btc_usd 2024-01-15T11:40:00Z: no price\n  {}\n" in (await _ingest(env, "rejects"))[1]


async def test_status_reports_tickers_gaps_outbox_and_clock(env: dict[str, str], db: Database, outbox: Outbox) -> None:
    now = times.minute_of(time.time())
    await track(db, "btc_usd", "eth_usd", since=now - 600)
    await store(db, [row("btc_usd", now), row("eth_usd", now - 600)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("eth_usd", now - 540): Reason.TIMEOUT, ("eth_usd", now - 480): Reason.TIMEOUT})
        await gaps.mark_unrecoverable(connection, "eth_usd", [now - 480])
    await outbox.put([row("eth_usd", now - 120)])
    await outbox.write_report(Report(0.0125, {"eth_usd": "2024-01-15T11:40:00Z no response in time"}))
    status, out, _ = await _ingest(env, "status")
    assert status == 1, "eth_usd is stale"
    assert "1 of 500,000 prices queued" in out
    assert "0.013 s ahead of Deribit's" in out or "0.012 s ahead of Deribit's" in out
    ticker_line = next(line for line in out.splitlines() if line.strip().startswith("eth_usd"))
    assert "stale" in ticker_line
    assert "last error of eth_usd: 2024-01-15T11:40:00Z no response in time" in out
    status, out, _ = await _ingest(env, "status", "--json")
    found = json.loads(out)
    assert (found["ok"], found["outbox"], found["workers"]) == (False, 1, 0)
    assert found["not_collected"] == []
    assert [(one["ticker"], one["stale"], one["gaps_open"], one["gaps_given_up"]) for one in found["tickers"]] == [
        ("btc_usd", False, 0, 0),
        ("eth_usd", True, 1, 1),
    ]


async def test_status_fails_for_a_ticker_that_is_not_collected(env: dict[str, str], db: Database) -> None:
    now = times.minute_of(time.time())
    await track(db, "btc_usd", since=now)
    await store(db, [row("btc_usd", now)])
    env = env | {"STREAM": "false"}
    assert (await _ingest(env | {"TICKERS": "btc_usd"}, "status"))[0] == 0
    status, out, _ = await _ingest(env | {"TICKERS": "btc_usd,xpr_usd"}, "status")
    assert (status, "xpr_usd is in TICKERS but not collected: see the log" in out) == (1, True), out


async def test_output_to_a_pipe_is_not_truncated(env: dict[str, str], db: Database) -> None:
    now = times.minute_of(time.time())
    await track(db, "btc_usd", since=now - 600)
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", now - 540): Reason.TIMEOUT})
    out = (await _ingest(env | {"COLUMNS": "40"}, "gaps"))[1]
    assert times.iso(now - 540) in out
    assert "…" not in out


async def test_status_names_the_unavailable_server_and_shows_the_rest(
    env: dict[str, str], db: Database, servers: Servers
) -> None:
    await track(db, "btc_usd", since=times.minute_of(time.time()))
    status, out, _ = await _ingest(env | {"REDIS_URL": "redis://127.0.0.1:1/0"}, "status")
    assert status == 1
    assert "unavailable" in next(line for line in out.splitlines() if line.strip().startswith("Redis"))
    assert "btc_usd" in out
    status, out, _ = await _ingest(env | {"DATABASE_URL": servers.dsn_of("nowhere")}, "status")
    assert status == 1
    assert "is unavailable" in next(line for line in out.splitlines() if line.strip().startswith("PostgreSQL"))
    assert "prices queued" in out
