"""Our own command lines, as a person types them."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from db.pool import Database
from tests.conftest import ROOT
from tests.stored import MINUTE, row, store, track
from tests.waiting import until


async def _run(folder: Path, *words: str, **env: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), said.decode()


@pytest.mark.parametrize("package", ["db", "ingest", "graph"])
async def test_help_shows_examples(tmp_path: Path, package: str) -> None:
    status, out, _ = await _run(tmp_path, package, "--help")
    assert status == 0
    assert f"  python -m {package} " in out.partition("examples:")[2]


async def test_collect_says_what_came_and_latest_shows_it(tmp_path: Path, dsn: str, rpc_url: str) -> None:
    status, out, said = await _run(tmp_path, "ingest", "collect", DATABASE_URL=dsn, DERIBIT_RPC_URL=rpc_url)
    assert status == 0, said
    tickers = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert set(tickers) == {"btc_usd", "eth_usd"}
    status, out, said = await _run(tmp_path, "graph", "latest", DATABASE_URL=dsn)
    assert {line.split()[0]: line.split()[1] for line in out.splitlines()} == tickers, said


async def test_collect_tells_what_failed_by_its_status(tmp_path: Path, dsn: str) -> None:
    env = {"DATABASE_URL": dsn, "DERIBIT_RPC_URL": "http://127.0.0.1:1", "HTTP_MAX_RETRIES": "0"}
    status, out, _ = await _run(tmp_path, "ingest", "collect", **env)
    assert status == 1
    assert "no connection to DERIBIT_RPC_URL=http://127.0.0.1:1" in out


async def test_a_minute_that_is_none_is_refused(tmp_path: Path, dsn: str) -> None:
    status, _, said = await _run(tmp_path, "ingest", "collect", "--minute", "noon", DATABASE_URL=dsn)
    assert status == 2
    assert "'noon' is no time: write UNIX seconds" in said


async def test_latest_names_what_is_tracked_where_a_ticker_is_not_known(tmp_path: Path, dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE)])
    status, _, said = await _run(tmp_path, "graph", "latest", "btc_uds", DATABASE_URL=dsn)
    assert (status, said) == (1, "btc_uds is not known; did you mean btc_usd? Tracked are: btc_usd\n")


async def test_psql_reaches_the_database_that_is_set(tmp_path: Path, dsn: str) -> None:
    status, out, said = await _run(tmp_path, "db", "psql", "--", "-qAtc", "SELECT 6 * 7", DATABASE_URL=dsn)
    assert (status, out) == (0, "42\n"), said
    status, _, said = await _run(tmp_path, "db", "psql")
    assert status == 1
    assert said.startswith("DATABASE_URL is not set: set it to postgresql://")


async def test_stop_ends_what_runs_on_the_folder(tmp_path: Path) -> None:
    status, _, said = await _run(tmp_path, "db", "stop")
    assert status == 0
    assert "nothing runs" in said
    running = asyncio.create_task(_run(tmp_path, "db", "with-servers", "--", "sh", "-c", "touch up; exec sleep 60"))
    await until((tmp_path / "up").exists)
    for words in (("db", "psql", "--", "-c", "SELECT 1"), ("graph", "latest"), ("db", "migrate")):
        status, _, said = await _run(tmp_path, *words)
        assert status == 0, said
    status, _, said = await _run(tmp_path, "db", "stop")
    assert (status, said) == (0, f"stopped what ran in {tmp_path / 'data'}\n")
    assert (await running)[0] != 0


@pytest.mark.parametrize("words", [("ingest", "healthy"), ("ingest", "healthy", "--worker"), ("graph", "healthy")])
async def test_health_commands_fail_where_nothing_answers(tmp_path: Path, words: tuple[str, ...]) -> None:
    status, _, said = await _run(tmp_path, *words, REDIS_URL="redis://127.0.0.1:1", PORT="1")
    assert status == 1
    assert said.count("\n") == 1
