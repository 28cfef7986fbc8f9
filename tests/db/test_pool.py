"""The pool raises the package's own errors and recovers from lost connections."""

import asyncio
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from db.errors import DatabaseError, DatabaseUnavailableError, PoolExhaustedError, StatementTimeoutError
from db.pool import Database, open_database
from db.queries import tickers, write_lock
from db.runtime import embedded
from tests.conftest import Servers
from tests.wait import WAIT_TIMEOUT_S


async def test_a_statement_that_exceeds_its_timeout_raises_a_timeout_error(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.pool.COMMAND_TIMEOUT_GRACE_S", WAIT_TIMEOUT_S)  # PostgreSQL ends the statement, not the client
    async with open_database(dsn, application_name="tests", statement_timeout_s=1) as db:
        with pytest.raises(StatementTimeoutError):
            await db.fetchval("SELECT pg_sleep(5)")
        assert await db.fetchval("SELECT 1") == 1


async def test_an_unreachable_server_is_unavailable() -> None:
    async with open_database("postgresql://user@127.0.0.1:1/none", application_name="tests") as db:
        with pytest.raises(DatabaseUnavailableError):
            await db.fetch("SELECT 1")


async def test_a_pool_recovers_after_its_connections_were_terminated(servers: Servers, dsn: str, db: Database) -> None:
    assert await db.fetchval("SELECT 1") == 1
    admin = await asyncpg.connect(servers.dsn)
    try:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tests'")
    finally:
        await admin.close()
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while True:
            try:
                assert await db.fetchval("SELECT 2") == 2
                break
            except DatabaseUnavailableError:
                continue


async def test_sessions_have_a_name_and_their_settings(db: Database) -> None:
    names = ["application_name", "jit", "plan_cache_mode"]
    found = await db.fetch("SELECT current_setting(name) AS value FROM unnest($1::text[]) AS name", names)
    assert [record["value"] for record in found] == ["tests", "off", "force_generic_plan"]


async def test_a_server_that_stops_responding_is_unavailable(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path, durable=False) as server:
        async with open_database(server.url, application_name="tests", statement_timeout_s=2) as db:
            assert await db.fetchval("SELECT 1") == 1
            backend = await db.fetchval("SELECT pg_backend_pid()")
            os.kill(backend, signal.SIGSTOP)
            try:
                with pytest.raises(DatabaseUnavailableError):
                    await asyncio.wait_for(db.fetchval("SELECT 2"), WAIT_TIMEOUT_S)
            finally:
                os.kill(backend, signal.SIGCONT)
            assert await db.fetchval("SELECT 3") == 3


async def test_the_error_of_a_database_without_tables_names_the_migrate_command(empty_dsn: str) -> None:
    async with open_database(empty_dsn, application_name="tests") as db:
        with pytest.raises(DatabaseUnavailableError, match="run `python -m db migrate`"):
            await tickers.list_tickers(db, 0)


async def test_a_connection_opened_while_the_server_was_read_only_is_not_reused(dsn: str) -> None:
    name = urlsplit(dsn).path[1:]
    admin = await asyncpg.connect(dsn)
    try:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with open_database(dsn, application_name="tests", max_connections=1) as db:
            with pytest.raises(DatabaseUnavailableError, match="read-only"):
                await db.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            await db.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
    finally:
        await admin.close()


async def test_an_exhausted_pool_is_not_reported_as_an_unavailable_database(dsn: str) -> None:
    async with open_database(dsn, application_name="tests", max_connections=1) as db, db.transaction():
        with pytest.raises(PoolExhaustedError):
            await db.fetchval("SELECT 1")


async def test_an_invalid_call_is_not_reported_as_an_unavailable_database(db: Database) -> None:
    with pytest.raises(DatabaseError) as raised:
        await db.fetchval("SELECT $1::bigint", 1, 2)
    assert not isinstance(raised.value, DatabaseUnavailableError)


async def test_a_writer_paused_inside_its_transaction_loses_the_lock(dsn: str, db: Database) -> None:
    """Simulates a stopped process or a lost host: the session is silent while its socket stays open."""
    async with open_database(dsn, application_name="paused") as paused_db:
        await db.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
        transaction = paused_db.transaction()
        connection = await transaction.__aenter__()
        await connection.execute(write_lock.ACQUIRE_WRITER_LOCK)
        holder = await write_lock.lock_holder(db)
        assert holder is not None
        assert (holder["application"], holder["state"]) == ("paused", "idle in transaction")
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '300ms'")  # 10 s in the product
        async with write_lock.write_transaction(db) as second_connection:
            await second_connection.execute("SELECT 1")
        assert await write_lock.lock_holder(db) is None
        with pytest.raises(DatabaseUnavailableError):
            await transaction.__aexit__(None, None, None)


async def test_every_session_has_timeouts_that_free_the_lock_of_a_vanished_client(db: Database) -> None:
    for name in ("idle_in_transaction_session_timeout", "tcp_user_timeout", "tcp_keepalives_idle"):
        assert await db.fetchval(f"SELECT current_setting('{name}')") not in ("0", ""), name


async def test_an_error_of_the_caller_inside_a_transaction_is_not_translated(db: Database) -> None:
    async def fail() -> None:
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
            raise FileNotFoundError("a file of the caller")

    with pytest.raises(FileNotFoundError):
        await fail()
    assert not await db.fetchval("SELECT count(*) FROM ticker"), "the transaction is rolled back"


async def test_a_connection_lost_inside_a_transaction_raises_unavailable_and_is_replaced(servers: Servers, dsn: str) -> None:
    async def lose(db: Database) -> None:
        async with db.transaction() as connection:
            await connection.execute("SELECT 1")
            admin = await asyncpg.connect(servers.dsn)
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lost'")
            await admin.close()
            await connection.execute("SELECT 2")

    async with open_database(dsn, application_name="lost", max_connections=1) as db:
        with pytest.raises(DatabaseUnavailableError):
            await lose(db)
        assert await db.fetchval("SELECT 3") == 3


async def test_a_cancellation_is_propagated_at_any_point(dsn: str) -> None:
    """Otherwise a canceled task continues, and the code that waits for its end waits forever."""
    async with open_database(dsn, application_name="tests", max_connections=1) as db:
        cancelled = 0
        for loop_iterations in range(60):
            await db.fetchval("SELECT 1")  # opens the connection
            task = asyncio.create_task(db.fetchval("SELECT 1"))
            for _ in range(loop_iterations):
                await asyncio.sleep(0)
            task.cancel()
            found: list[object] = await asyncio.gather(task, return_exceptions=True)
            assert found == [1] or isinstance(found[0], asyncio.CancelledError), (loop_iterations, found)
            cancelled += found != [1]
        assert cancelled
        assert await db.fetchval("SELECT 2") == 2
