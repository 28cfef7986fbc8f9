"""The pool speaks of its troubles in the package's own errors, and recovers by itself."""

import asyncio

import asyncpg
import pytest

from db.errors import DatabaseUnavailableError, StatementTimeoutError
from db.pool import Database, open_database
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
