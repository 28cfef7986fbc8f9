"""External servers: PostgreSQL with TLS, on two hosts, and behind a real PgBouncer."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from db.errors import DatabaseUnavailableError
from db.pool import Database, connect, open_database
from db.runtime.embedded import free_port
from graph.settings import Settings
from tests.e2e.conftest import create_certificate, run_verb
from tests.graph.conftest import run_api
from tests.graph.subscriptions import PRICES, subscribe
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow

PGBOUNCER = shutil.which("pgbouncer") or (shutil.which("pgbouncer", path="/usr/sbin"))


@contextlib.contextmanager
def _pgbouncer(dsn: str, mode: str, *settings: str) -> Iterator[tuple[str, Path]]:
    """Runs a real PgBouncer in front of the database. Yields its URL and its folder."""
    assert PGBOUNCER is not None
    parts, port = urlsplit(dsn), free_port()
    with tempfile.TemporaryDirectory() as name:  # a folder that PgBouncer's unprivileged user can read
        folder = Path(name)
        folder.chmod(0o755)
        for line in settings:
            if "server.crt" in line:
                create_certificate(folder, "server")
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port} user={parts.username} password={parts.password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\n"
            "default_pool_size = 40\nmax_client_conn = 100\nunix_socket_dir =\n" + "\n".join(settings).replace("FOLDER", name)
        )
        command = [PGBOUNCER, *(["-u", "nobody"] if os.geteuid() == 0 else []), str(configuration)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  our own command
        try:
            yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}", folder
        finally:
            process.terminate()
            process.wait()


TLS = ("client_tls_sslmode = require", "client_tls_key_file = FOLDER/server.key", "client_tls_cert_file = FOLDER/server.crt")


async def _wait_until_available(dsn: str) -> None:
    async with open_database(dsn, application_name="tests", max_connections=1) as db:

        async def is_available() -> bool:
            with contextlib.suppress(DatabaseUnavailableError):
                return bool(await db.fetchval("SELECT 1"))
            return False

        await wait_until(is_available)


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize(
    "parameters",
    [
        "ssl=require",
        "sslmode=require&channel_binding=require",
        "sslmode=verify-full&sslrootcert={folder}/server.crt",
        "sslmode=require&pgbouncer=true&connect_timeout=10&keepalives_idle=30",
    ],
)
async def test_the_url_of_a_provider_works_for_every_client(dsn: str, db: Database, tmp_path: Path, parameters: str) -> None:
    """The driver and Alembic get the parameters they support. PgBouncer rejects connections without TLS."""
    with _pgbouncer(dsn, "session", *TLS) as (address, folder):
        url = f"{address.replace('postgresql://', 'postgresql+asyncpg://')}?{parameters.format(folder=folder)}"
        await _wait_until_available(url)
        with pytest.raises(DatabaseUnavailableError, match=r"SSL|TLS"):
            await connect(f"{address}?sslmode=disable")
        await track(db, "btc_usd")
        for arguments in (
            ("db", "migrate"),
            ("ingest", "check"),
            ("db", "export", "btc_usd"),
        ):
            status, _, err = await run_verb(tmp_path, *arguments, DATABASE_URL=url)
            assert status == 0, err
            if arguments[1] == "check":
                for name in ("channel_binding", "pgbouncer", "keepalives_idle"):
                    assert (f"{name} is not passed to the driver" in err) is (f"{name}=" in parameters), err


async def test_postgresql_programs_get_the_parameters_they_support(dsn: str, tmp_path: Path) -> None:
    url = f"{dsn}?connect_timeout=10&keepalives_idle=30&channel_binding=prefer&pgbouncer=true&search_path=public"
    status, out, err = await run_verb(tmp_path, "db", "psql", "--", "-qAtc", "SHOW search_path", DATABASE_URL=url)
    assert (status, out) == (0, "public\n"), err
    status, _, err = await run_verb(tmp_path, "db", "backup", "--output", str(tmp_path / "b.dump"), DATABASE_URL=url)
    assert status == 0, err


async def test_an_unusable_url_is_reported_by_check_and_is_no_internal_error(tmp_path: Path, dsn: str) -> None:
    url = f"{dsn}?sslmode=verify-full&sslrootcert=/nowhere/ca.crt"
    for package in ("ingest", "graph"):
        status, _, err = await run_verb(tmp_path, package, "check", DATABASE_URL=url, PORT=str(free_port()))
        assert (status, "sslrootcert=/nowhere/ca.crt: no such file" in err) == (1, True), err
    for unusable_url in (url, f"{dsn}?sslmode=require", f"{dsn}?options=-c%20nonsense%3D1"):
        async with run_api(Settings(database_url=unusable_url)) as api:
            assert (await api.error("{ tickers { name } }"))[0] == "UNAVAILABLE", unusable_url
        for arguments in (("graph", "latest"), ("db", "migrate"), ("ingest", "gaps")):
            status, out, err = await run_verb(tmp_path, *arguments, DATABASE_URL=unusable_url)
            assert (status, out, err.count("\n")) == (1, "", 1), err
            assert "None" not in err
            assert "Traceback" not in err


async def test_the_writable_one_of_two_hosts_is_used(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    host = urlsplit(dsn).netloc.rpartition("@")[2]
    two_host_dsn = dsn.replace(host, f"127.0.0.1:{free_port()},{host}") + "?target_session_attrs=read-write"
    async with open_database(two_host_dsn, application_name="tests") as client_db:
        assert await client_db.fetchval("SELECT count(*) FROM ticker") == 1


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_behind_a_pooler_prices_are_stored_read_and_delivered(
    dsn: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with _pgbouncer(dsn, mode) as (pooler_url, _):
        settings = Settings(database_url=pooler_url, database_listen_url=dsn, answer_cache_mb=0)
        await _wait_until_available(pooler_url)
        async with (
            open_database(pooler_url, application_name="tests", statement_timeout_s=WAIT_TIMEOUT_S) as client_db,
            run_api(settings) as api,
        ):
            await track(client_db, "btc_usd")
            async with subscribe(api, PRICES.replace("priceAdded", 'priceAdded(after: "0")')) as listener:
                for number in range(20):
                    await store(client_db, [row("btc_usd", START_TS + 60 * number)])
                assert len(await listener.events(20)) == 20
            queries = [
                api.data(f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 1_200}) {{ ts }} }}')
                for _ in range(50)
            ]
            assert {len(one["range"]) for one in await asyncio.gather(*queries)} == {20}
        assert "points to a pooler" in caplog.text
        assert "ALTER ROLE … SET idle_in_transaction_session_timeout = '10s'" in caplog.text


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("others", [0, 6])
async def test_a_pooler_that_drops_notifications_is_reported(dsn: str, caplog: pytest.LogCaptureFixture, others: int) -> None:
    """Otherwise subscriptions would be silent, as in a quiet market. While others use the pool, sessions change at random."""
    with _pgbouncer(dsn, "transaction") as (pooler_url, _):

        async def use_the_pool() -> None:
            async with open_database(pooler_url, application_name="tests", max_connections=1) as db:
                while True:
                    await db.fetchval("SELECT pg_sleep(0.002)")

        await _wait_until_available(pooler_url)
        tasks = [asyncio.create_task(use_the_pool()) for _ in range(others)]
        async with run_api(Settings(database_url=pooler_url)):
            await wait_until(lambda: "Set DATABASE_LISTEN_URL" in caplog.text)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
