"""The role and the views for dashboards, and the queries of the dashboard, as this role."""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from db import times
from db.pool import Database
from db.queries import gaps, write_lock
from db.rows import Reason
from tests.conftest import ROOT
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

pytestmark = pytest.mark.slow

DASHBOARD = json.loads((ROOT / "monitoring" / "grafana" / "dashboards" / "history.json").read_text())


def _run(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "db", "reader", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"DATABASE_URL": dsn, "PATH": "/usr/bin:/bin"},
    )


def run_verb(dsn: str, *arguments: str) -> str:
    """Runs `python -m db reader`. Returns its output."""
    done = _run(dsn, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def reader(dsn: str, db: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the role that `python -m db reader` creates, to a database with an hour of prices and a gap."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n, str(100 + n)) for n in range(60) if n not in (10, 11)])
    await store_ranges(db, [range_row("btc_usd", START_TS)])
    async with write_lock.write_transaction(db) as connection:
        reasons = {("btc_usd", START_TS + 60 * n): Reason.TIMEOUT for n in (10, 11)}
        await gaps.detect_gaps(connection, {"btc_usd": (START_TS, START_TS + 3_600)}, reasons)
    role = f"reader_{uuid.uuid4().hex[:8]}"  # roles belong to the server, which other tests use too
    run_verb(dsn, "--name", role)
    output = run_verb(dsn, "--name", role)  # again: sets another password
    password = re.search(r"password (\S+)", output)
    assert password is not None
    parts = urlsplit(dsn)
    address = urlunsplit(parts._replace(netloc=f"{role}:{password[1]}@{parts.hostname}:{parts.port}"))
    connection = await asyncpg.connect(address)
    yield connection
    await connection.close()
    assert "is dropped" in run_verb(dsn, "--name", role, "--drop")


async def test_the_role_reads_the_views_and_nothing_else(reader: asyncpg.Connection) -> None:
    price = await reader.fetchrow("SELECT * FROM v_price WHERE ticker = 'btc_usd' AND ts = $1", START_TS)
    assert price is not None
    assert (price["price"], price["high"], price["low"], price["time"].timestamp()) == (100, 110, 90, START_TS)
    candle = await reader.fetchrow("SELECT * FROM v_candle WHERE interval = '1d'")
    assert candle is not None
    assert (candle["high"], candle["low"], candle["count"], candle["expected"], candle["complete"]) == (
        159,
        90,
        58,
        1440,
        False,
    )
    (gap,) = await reader.fetch("SELECT * FROM v_gap")
    assert (gap["ts"], gap["minutes"], gap["reason"], gap["state"]) == (START_TS + 600, 2, "timeout", "OPEN")
    await reader.execute("SET default_transaction_read_only = off")  # any role may do that
    for statement in (
        "SELECT * FROM price",
        "SELECT * FROM ticker",
        "INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', 0, 1, 'LIVE')",
        "UPDATE v_candle SET count = 1",
        "DELETE FROM v_candle",
        "CREATE TABLE mine (a int)",
        "SELECT begin_epoch('mine')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)


async def test_a_role_of_somebody_else_is_not_changed(dsn: str) -> None:
    owner = urlsplit(dsn).username or ""
    for arguments in (("--name", owner), ("--name", owner, "--drop"), ("--name", "nobody", "--drop")):
        done = _run(dsn, *arguments)
        assert done.returncode == 1
        assert "created" in done.stderr or "did not create it" in done.stderr


def _statements() -> list[str]:
    found = [target["rawSql"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    found += [annotation["target"]["rawSql"] for annotation in DASHBOARD["annotations"]["list"]]
    return [*found, *[one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]]


async def test_every_query_of_the_dashboard_returns_rows(reader: asyncpg.Connection) -> None:
    statements = _statements()
    assert len(statements) >= 6
    for statement in statements:
        for interval in ("1h", "1d"):
            sql = statement.replace("$ticker", "btc_usd").replace("$interval", interval)
            sql = sql.replace("$__unixEpochFilter(ts)", f"ts >= {START_TS - times.DAY} AND ts <= {START_TS + times.DAY}")
            sql = sql.replace("$__timeTo()", f"'{times.iso(START_TS + times.DAY)}'")
            assert "$" not in sql, sql
            rows = await reader.fetch(sql)
            assert rows, sql
            assert "time" in rows[0] or "ticker" in rows[0]


async def test_the_dashboard_reads_minutes_by_index(reader: asyncpg.Connection) -> None:
    await reader.execute("SET enable_seqscan = off")
    plan = await reader.fetch(
        f"EXPLAIN SELECT * FROM v_price WHERE ticker = 'btc_usd' AND ts >= {START_TS} AND ts < {START_TS + 60}"  # noqa: S608  constants
    )
    assert "ts >=" in next(line for (line,) in plan if "Index Cond" in line)
