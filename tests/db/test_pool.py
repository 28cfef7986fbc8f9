"""The pool speaks of its troubles in the package's own errors, and recovers by itself."""

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest

from db import embedded
from db.errors import DatabaseUnavailableError, StatementTimeoutError
from db.pool import Database, open_database
from db.queries import tickers
from tests.conftest import Servers


async def test_a_statement_over_its_time_is_a_timeout(dsn: str) -> None:
    async with open_database(dsn, application_name="tests", statement_timeout_s=0.05) as db:
        with pytest.raises(StatementTimeoutError):
            await db.fetchval("SELECT pg_sleep(5)")
        assert await db.fetchval("SELECT 1") == 1


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with open_database("postgresql://nobody@127.0.0.1:1/none", application_name="tests") as db:
        with pytest.raises(DatabaseUnavailableError):
            await db.fetch("SELECT 1")


async def test_a_pool_recovers_after_its_connections_were_ended(servers: Servers, dsn: str, db: Database) -> None:
    assert await db.fetchval("SELECT 1") == 1
    admin = await asyncpg.connect(servers.dsn)
    try:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tests'")
    finally:
        await admin.close()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await db.fetchval("SELECT 2") == 2
                break
            except DatabaseUnavailableError:
                continue


async def test_sessions_have_a_name_and_no_jit(db: Database) -> None:
    assert await db.fetchval("SELECT current_setting('application_name') || ' ' || current_setting('jit')") == "tests off"


async def test_a_server_that_says_nothing_any_more_is_unavailable(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path, durable=False) as server:
        async with open_database(server.url, application_name="tests", statement_timeout_s=0.2) as db:
            assert await db.fetchval("SELECT 1") == 1
            backend = await db.fetchval("SELECT pg_backend_pid()")
            os.kill(backend, signal.SIGSTOP)
            try:
                with pytest.raises(DatabaseUnavailableError):
                    await asyncio.wait_for(db.fetchval("SELECT 2"), 5)
            finally:
                os.kill(backend, signal.SIGCONT)
            assert await db.fetchval("SELECT 3") == 3


async def test_a_database_without_tables_says_what_to_run(empty_dsn: str) -> None:
    async with open_database(empty_dsn, application_name="tests") as db:
        with pytest.raises(DatabaseUnavailableError, match="run `python -m db migrate`"):
            await tickers.every(db, 0)
