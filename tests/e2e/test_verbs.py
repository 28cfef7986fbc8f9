"""The verbs of `python -m db`, `ingest` and `graph`, as a user runs them."""

import asyncio
import json
import os
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from db import migrate, times
from db.pool import Database
from db.queries.ticks import notify_ticks
from db.runtime import embedded
from db.runtime.embedded import free_port
from graph.settings import Settings
from graph.watch import parse_base_url, sparkline
from tests.conftest import ROOT, Servers
from tests.e2e.conftest import run_verb
from tests.graph.api_server import run_api_process
from tests.graph.conftest import run_api
from tests.sample_data import START_TS, minutes, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow  # each test starts processes


@pytest.mark.parametrize("package", ["db", "ingest", "graph"])
async def test_help_shows_examples(tmp_path: Path, package: str) -> None:
    status, out, _ = await run_verb(tmp_path, package, "--help")
    assert status == 0
    assert f"  python -m {package} " in out.partition("examples:")[2]


async def test_collect_prints_the_prices_and_latest_shows_them(tmp_path: Path, dsn: str, rpc_url: str) -> None:
    status, out, err = await run_verb(tmp_path, "ingest", "collect", DATABASE_URL=dsn, DERIBIT_RPC_URL=rpc_url)
    assert status == 0, err
    tickers = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert set(tickers) == {"btc_usd", "eth_usd"}
    status, out, err = await run_verb(tmp_path, "graph", "latest", DATABASE_URL=dsn)
    assert {line.split()[0]: line.split()[1] for line in out.splitlines()} == tickers, err


async def test_a_failed_collect_prints_the_reason_and_exits_with_1(tmp_path: Path, dsn: str) -> None:
    env = {"DATABASE_URL": dsn, "DERIBIT_RPC_URL": "http://127.0.0.1:1", "HTTP_MAX_RETRIES": "0"}
    status, out, _ = await run_verb(tmp_path, "ingest", "collect", **env)
    assert status == 1
    assert "no connection to DERIBIT_RPC_URL=http://127.0.0.1:1" in out


async def test_an_invalid_minute_is_rejected(tmp_path: Path, dsn: str) -> None:
    status, _, err = await run_verb(tmp_path, "ingest", "collect", "--minute", "noon", DATABASE_URL=dsn)
    assert status == 2
    assert "'noon' is not a valid time. Use UNIX seconds" in err


async def test_latest_lists_the_tracked_tickers_if_a_ticker_is_unknown(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    status, _, err = await run_verb(tmp_path, "graph", "latest", "btc_uds", DATABASE_URL=dsn)
    assert (status, err) == (1, "Unknown ticker: btc_uds. Did you mean btc_usd? Tracked tickers: btc_usd\n")


async def test_psql_connects_to_the_configured_database(tmp_path: Path, dsn: str) -> None:
    status, out, err = await run_verb(tmp_path, "db", "psql", "--", "-qAtc", "SELECT 6 * 7", DATABASE_URL=dsn)
    assert (status, out) == (0, "42\n"), err
    status, _, err = await run_verb(tmp_path, "db", "psql")
    assert status == 1
    assert err.startswith("DATABASE_URL is not set, and no embedded server runs in DATA_DIR=")


async def test_stop_ends_the_process_that_uses_the_data_dir(tmp_path: Path) -> None:
    status, _, err = await run_verb(tmp_path, "db", "stop")
    assert status == 0
    assert "no process uses DATA_DIR" in err
    running = asyncio.create_task(run_verb(tmp_path, "db", "with-servers", "--", "sh", "-c", "touch up; exec sleep 3600"))
    await wait_until((tmp_path / "up").exists)
    for arguments in (
        ("db", "psql", "--", "-c", "SELECT 1"),
        ("graph", "latest"),
        ("db", "migrate"),
        ("alembic", "-c", str(ROOT / "alembic.ini"), "downgrade", "-1"),
    ):
        status, _, err = await run_verb(tmp_path, *arguments)
        assert status == 0, err
    assert "Running downgrade" in err
    status, _, err = await run_verb(tmp_path, "db", "stop")
    assert (status, err) == (0, f"stopped the process that used {tmp_path / 'data'}\n")
    assert (await running)[0] != 0


@pytest.mark.parametrize("arguments", [("ingest", "healthy"), ("ingest", "healthy", "--worker"), ("graph", "healthy")])
async def test_health_commands_fail_without_a_running_service(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, _, err = await run_verb(tmp_path, *arguments, REDIS_URL="redis://127.0.0.1:1", PORT="1")
    assert status == 1
    assert err.count("\n") == 1


async def test_an_exported_file_can_be_imported(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * number, f"{number + 1}.5") for number in range(100)])
    arguments = ("db", "export", "btc_usd", "--from", str(START_TS + 600), "--format", "jsonl")
    status, out, err = await run_verb(tmp_path, *arguments, DATABASE_URL=dsn)
    assert (status, len(out.splitlines()), err) == (0, 90, "")
    file = tmp_path / "btc.csv"
    status, out, err = await run_verb(tmp_path, "db", "export", "btc_usd", "--output", str(file), DATABASE_URL=dsn)
    assert (status, out) == (0, "")
    assert err == f"{file}: minutes from 2024-01-15T11:40:00Z to 2024-01-15T13:20:00Z\n"
    import_arguments = ("ingest", "import", str(file), "--ticker", "btc_usd", "--dry-run")
    assert (await run_verb(tmp_path, *import_arguments, DATABASE_URL=dsn))[0] == 0


async def test_a_failed_export_prints_the_reason(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    status, _, err = await run_verb(tmp_path, "db", "export", "nobody_usd", DATABASE_URL=dsn)
    assert (status, err) == (1, "nobody_usd is not a known ticker. `python -m ingest status` lists the known tickers\n")
    status, _, err = await run_verb(tmp_path, "db", "export", "btc_usd", "--output", "/nowhere/a.csv", DATABASE_URL=dsn)
    assert (status, err) == (1, "/nowhere/a.csv cannot be written: No such file or directory\n")


async def test_candles_are_verified(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    assert await run_verb(tmp_path, "db", "verify-candles", DATABASE_URL=dsn) == (0, "btc_usd: 0 candles differ\n", "")
    await db.execute("UPDATE candle SET high = high + 1 WHERE span = 3600")
    status, out, _ = await run_verb(tmp_path, "db", "verify-candles", "btc_usd", DATABASE_URL=dsn)
    assert (status, out.splitlines()[0]) == (1, "btc_usd: the hour candle of 2024-01-15T11:00:00Z differs from its minutes")
    await db.execute("UPDATE ticker SET horizon = $1", START_TS)
    expected = "btc_usd: 0 candles differ; checked from 2024-01-16T00:00:00Z on\n"
    assert await run_verb(tmp_path, "db", "verify-candles", DATABASE_URL=dsn) == (0, expected, ""), (
        "only full days are compared"
    )


async def test_watch_prints_stored_prices_and_reconnects(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "1")])
    port = free_port()
    arguments = ("-m", "graph", "watch", "btc_usd", "--json", "--after", "0", "--url", f"http://127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        for number in (1, 2):
            async with run_api_process(dsn, tmp_path, port=port):
                event = json.loads(await asyncio.wait_for(process.stdout.readline(), WAIT_TIMEOUT_S))
            assert event | {"id": ""} == {
                "id": "",
                "ticker": "btc_usd",
                "ts": START_TS + 60 * (number - 1),
                "price": str(number),
                "source": "LIVE",
            }
            await store(db, [row("btc_usd", START_TS + 60 * number, str(number + 1))])
    finally:
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), WAIT_TIMEOUT_S) == 0


async def test_watch_prints_ticks(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    async with run_api_process(dsn, tmp_path) as stand:
        arguments = ("-m", "graph", "watch", "btc_usd", "--json", "--ticks", "--url", stand.url)
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            line = asyncio.ensure_future(asyncio.wait_for(process.stdout.readline(), WAIT_TIMEOUT_S))
            while not line.done():  # a tick before the subscription is not delivered
                await notify_ticks(db, {"btc_usd": (START_TS * 1_000 + 123, Decimal("65000.5"))})
                await asyncio.wait({line}, timeout=0.2)
            assert json.loads(line.result()) == {"ticker": "btc_usd", "at": "2024-01-15T11:40:00.123000Z", "price": "65000.5"}
        finally:
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), WAIT_TIMEOUT_S) == 0


async def test_watch_reports_an_unknown_ticker_and_an_unreachable_api(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    async with run_api_process(dsn, tmp_path) as stand:
        for arguments in (("nobody_usd",), ("nobody_usd", "--json")):
            status, _, err = await run_verb(tmp_path, "graph", "watch", *arguments, "--url", stand.url)
            assert (status, err) == (1, "Unknown ticker: nobody_usd. Tracked tickers: btc_usd\n")
    status, _, err = await run_verb(tmp_path, "graph", "watch", "--url", "http://127.0.0.1:9")
    assert (status, err.endswith("Is the API running?\n")) == (1, True)


def test_a_sparkline_scales_with_its_prices() -> None:
    assert sparkline([1, 2, 3, 8]) == "▁▂▃█"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([]) == ""


WRAPPER = """#!/bin/sh
printf '%s\\n' "$0" "$@" >> {record}
exec {program} "$@"
"""


async def test_no_password_is_on_a_command_line(tmp_path: Path, servers: Servers, dsn: str, empty_dsn: str) -> None:
    """Every local user can read command lines. Wrappers in PATH record the arguments of PostgreSQL's programs."""
    record, folder = tmp_path / "record", tmp_path / "bin"
    folder.mkdir()
    for name in ("psql", "pg_dump", "pg_restore"):
        program = folder / name
        program.write_text(WRAPPER.format(record=record, program=embedded.postgres_program(name)))
        program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    password = str(urlsplit(dsn).password)
    user, _, host = dsn.removeprefix("postgresql://").partition("@")
    dsn_with_password_parameter = f"postgresql://{user.partition(':')[0]}@{host}?password={password}"
    for number, address in enumerate((dsn, dsn_with_password_parameter)):
        file = tmp_path / f"{number}.dump"
        for arguments, url in (
            (("backup", "--output", str(file)), address),
            (("psql", "--", "-qAtc", "SELECT 1"), address),
        ):
            status, _, err = await run_verb(tmp_path, "db", *arguments, DATABASE_URL=url, PATH=path)
            assert status == 0, err
    status, _, err = await run_verb(tmp_path, "db", "restore", str(tmp_path / "0.dump"), DATABASE_URL=empty_dsn, PATH=path)
    assert status == 0, err
    recorded = record.read_text()
    assert {Path(line).name for line in recorded.splitlines() if line.startswith(str(folder))} == {
        "psql",
        "pg_dump",
        "pg_restore",
    }
    assert password not in recorded


async def test_forget_moves_the_horizon_and_resets_a_future_one(tmp_path: Path, dsn: str, redis_url: str, db: Database) -> None:
    today = int(time.time()) // 86_400 * 86_400
    first, horizon = today - 40 * 86_400, today - 10 * 86_400
    await track(db, "btc_usd", since=first)
    await store(db, [row("btc_usd", ts) for ts in range(first, today, 3_600)])
    arguments = ("db", "forget", "--before", str(horizon))
    status, out, err = await run_verb(tmp_path, *arguments, DATABASE_URL=dsn)
    assert (status, out) == (1, f"btc_usd: minutes before {times.iso(horizon)}, 30 days\n")
    assert "add --yes" in err
    assert len(await minutes(db, "btc_usd")) == 40 * 24, "without --yes, nothing is deleted"
    status, out, err = await run_verb(tmp_path, *arguments, "--yes", DATABASE_URL=dsn)
    assert (status, "720 rows of minutes and gaps were deleted" in out) == (0, True), err
    assert min(await minutes(db, "btc_usd")) == horizon

    ahead = today + 400 * 86_400
    await db.execute("UPDATE ticker SET horizon = $1", ahead)
    warning = (
        f"the horizon of btc_usd is {times.iso(ahead)}, in the future: a clock was wrong; run `python -m db forget --reset`"
    )
    status, out, _ = await run_verb(tmp_path, "ingest", "status", DATABASE_URL=dsn, REDIS_URL=redis_url)
    assert (status, warning in out) == (1, True), out
    async with run_api(Settings(database_url=dsn)) as api, api.session.get(f"{api.url}/health") as response:
        body = await response.json()
        assert (response.status, body["status"]) == (200, "degraded")
        assert "python -m db forget --reset" in body["warnings"][0]
    status, out, _ = await run_verb(tmp_path, "db", "forget", "--reset", DATABASE_URL=dsn)
    assert (status, out.splitlines()[0]) == (0, f"btc_usd: prices are now expected from {times.iso(horizon)}")
    _, out, _ = await run_verb(tmp_path, "ingest", "status", DATABASE_URL=dsn, REDIS_URL=redis_url)
    assert "in the future" not in out


DESCRIPTOR_PROGRAM = """
import resource
from graph.http.application import increase_descriptor_limit
from graph.settings import Settings

resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))
increase_descriptor_limit(Settings(max_sockets=1_000, max_in_flight=100))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("hard", "raised"), [(4_000, 1_200), (800, 800)])
async def test_the_descriptor_limit_is_raised_or_a_warning_is_printed(tmp_path: Path, hard: int, raised: int) -> None:
    program = tmp_path / "limited.py"
    program.write_text(DESCRIPTOR_PROGRAM.format(hard=hard))
    status, out, err = await run_verb(tmp_path, "limited")
    assert (status, int(out)) == (0, raised), err
    assert ("Raise `ulimit -n` or lower MAX_SOCKETS" in err) is (raised < 1_200)


async def test_views_provide_the_tables_of_older_trackers(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    for _ in range(2):
        status, out, err = await run_verb(tmp_path, "db", "views", DATABASE_URL=dsn)
        assert (status, out) == (0, "price_ticks and price_records are views of price\n"), err
    tick = await db.fetchrow("SELECT ticker, ts, price FROM price_ticks")
    record = await db.fetchrow("SELECT ticker, price, extract(epoch FROM created_at)::int AS ts FROM price_records")
    assert tick is not None
    assert record is not None
    assert dict(tick) == dict(record) == {"ticker": "btc_usd", "ts": START_TS, "price": Decimal("68241.5")}
    assert (await run_verb(tmp_path, "db", "views", "--drop", DATABASE_URL=dsn))[0] == 0


@pytest.mark.parametrize("arguments", [("ingest", "gaps", "--ticker", "nope"), ("ingest", "backfill", "--ticker", "nope")])
async def test_an_unknown_ticker_is_reported(tmp_path: Path, dsn: str, arguments: tuple[str, ...]) -> None:
    status, out, err = await run_verb(tmp_path, *arguments, DATABASE_URL=dsn)
    assert (status, out, err) == (1, "", "nope is unknown: `python -m ingest status` lists the known tickers\n")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/graphql", " http://127.0.0.1:8000"]
)
def test_the_url_to_watch_is_accepted_in_common_forms(url: str) -> None:
    assert parse_base_url(url) == "http://127.0.0.1:8000"


OLD_SETTINGS = """
CELERY_BROKER_URL=redis://r:6379/3
BASE_URL=https://www.deribit.com/api/v2/public
TIMEOUT=7
LOG_LEVEL=critical
FETCH_INTERVAL=60
API_VERSION=v1
TICKER=btc_usd
TICKERS=
"""


async def test_settings_of_older_trackers_are_adopted_or_reported(tmp_path: Path, dsn: str) -> None:
    (tmp_path / ".env").write_text(OLD_SETTINGS)
    status, _, err = await run_verb(tmp_path, "ingest", "check", DATABASE_URL=dsn)
    assert status == 0
    for line in (
        "FETCH_INTERVAL has no effect: prices are collected every minute",
        "API_VERSION has no effect: each path is served with and without /v1",
        "TICKER is not a setting. Did you mean TICKERS?",
        "TICKERS is empty, so it is ignored",
        "BASE_URL is read as DERIBIT_RPC_URL",
        "TIMEOUT is read as HTTP_TIMEOUT_SECONDS",
    ):
        assert line in err, err
    assert "LOG_LEVEL" not in err
    assert err.endswith("The settings are valid.\n")
    (tmp_path / ".env").write_bytes("TICKERS=btc_usd # für\n".encode("latin-1"))
    status, _, err = await run_verb(tmp_path, "ingest", "check", DATABASE_URL=dsn)
    assert (status, err.count("\n"), ".env is not UTF-8" in err) == (1, 1, True), err


async def test_a_verb_run_with_the_demo_uses_the_exchange_of_the_demo(tmp_path: Path, rpc_url: str) -> None:
    """Otherwise real prices would mix with simulated ones."""
    demo = tmp_path / "data" / "demo"
    with embedded.postgres(demo / "postgres", durable=False) as server:
        await asyncio.to_thread(migrate.upgrade, server.url)
        (demo / "exchange").write_text(rpc_url)
        status, out, err = await run_verb(tmp_path, "ingest", "collect", DERIBIT_RPC_URL="http://127.0.0.1:1/api/v2")
    assert status == 0, err
    assert {line.split()[0] for line in out.splitlines()} == {"btc_usd", "eth_usd"}
