"""Other people's servers: PostgreSQL with TLS, by its socket, two of them, and behind a real PgBouncer."""

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
from graph.settings import Settings
from tests.e2e.conftest import certify, free_port
from tests.e2e.test_verbs import run
from tests.graph.conftest import serving
from tests.graph.test_live import PRICES, listening
from tests.stored import MINUTE, row, store, track
from tests.waiting import until

PGBOUNCER = shutil.which("pgbouncer") or (shutil.which("pgbouncer", path="/usr/sbin"))


@contextlib.contextmanager
def _pgbouncer(dsn: str, mode: str, *settings: str) -> Iterator[tuple[str, Path]]:
    """A real PgBouncer before the database: its address, and its folder."""
    assert PGBOUNCER is not None
    parts, port = urlsplit(dsn), free_port()
    with tempfile.TemporaryDirectory() as name:  # in a place where its own user gets to, for it does not run as root
        folder = Path(name)
        folder.chmod(0o755)
        for line in settings:
            if "server.crt" in line:
                certify(folder, "server")
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port} user={parts.username} password={parts.password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\n"
            "default_pool_size = 40\nmax_client_conn = 100\nunix_socket_dir =\n" + "\n".join(settings).replace("FOLDER", name)
        )
        command = [PGBOUNCER, *(["-u", "nobody"] if os.geteuid() == 0 else []), str(configuration)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  our own words
        try:
            yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}", folder
        finally:
            process.terminate()
            process.wait()


TLS = ("client_tls_sslmode = require", "client_tls_key_file = FOLDER/server.key", "client_tls_cert_file = FOLDER/server.crt")


async def _until_it_answers(dsn: str) -> None:
    async with open_database(dsn, application_name="tests", max_connections=1) as db:

        async def answers() -> bool:
            with contextlib.suppress(DatabaseUnavailableError):
                return bool(await db.fetchval("SELECT 1"))
            return False

        await until(answers)


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
async def test_an_address_of_a_provider_works_for_every_client(dsn: str, db: Database, tmp_path: Path, parameters: str) -> None:
    """The driver and Alembic get what they understand. Without TLS nobody is let in."""
    with _pgbouncer(dsn, "session", *TLS) as (address, folder):
        url = f"{address.replace('postgresql://', 'postgresql+asyncpg://')}?{parameters.format(folder=folder)}"
        await _until_it_answers(url)
        with pytest.raises(DatabaseUnavailableError, match=r"SSL|TLS"):
            await connect(f"{address}?sslmode=disable")
        await track(db, "btc_usd")
        for words in (
            ("db", "migrate"),
            ("ingest", "check"),
            ("db", "export", "btc_usd"),
        ):
            status, _, said = await run(tmp_path, *words, DATABASE_URL=url)
            assert status == 0, said
            if words[1] == "check":
                for name in ("channel_binding", "pgbouncer", "keepalives_idle"):
                    assert (f"{name} is ignored" in said) is (f"{name}=" in parameters), said


async def test_postgresqls_own_programs_get_what_they_understand(dsn: str, tmp_path: Path) -> None:
    url = f"{dsn}?connect_timeout=10&keepalives_idle=30&channel_binding=prefer&pgbouncer=true&search_path=public"
    status, out, said = await run(tmp_path, "db", "psql", "--", "-qAtc", "SHOW search_path", DATABASE_URL=url)
    assert (status, out) == (0, "public\n"), said
    status, _, said = await run(tmp_path, "db", "backup", "--output", str(tmp_path / "b.dump"), DATABASE_URL=url)
    assert status == 0, said


async def test_what_cannot_work_is_told_by_check_and_is_no_mistake_of_ours(tmp_path: Path, dsn: str) -> None:
    url = f"{dsn}?sslmode=verify-full&sslrootcert=/nowhere/ca.crt"
    for package in ("ingest", "graph"):
        status, _, said = await run(tmp_path, package, "check", DATABASE_URL=url, PORT=str(free_port()))
        assert (status, "sslrootcert=/nowhere/ca.crt: no such file" in said) == (1, True), said
    for wrong in (url, f"{dsn}?sslmode=require", f"{dsn}?options=-c%20nonsense%3D1"):
        async with serving(Settings(database_url=wrong)) as api:
            assert (await api.error("{ tickers { name } }"))[0] == "UNAVAILABLE", wrong
        for words in (("graph", "latest"), ("db", "migrate"), ("ingest", "gaps")):
            status, out, said = await run(tmp_path, *words, DATABASE_URL=wrong)
            assert (status, out, said.count("\n")) == (1, "", 1), said
            assert "None" not in said
            assert "Traceback" not in said


async def test_of_two_hosts_the_one_that_can_be_written_is_taken(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    host = urlsplit(dsn).netloc.rpartition("@")[2]
    two = dsn.replace(host, f"127.0.0.1:{free_port()},{host}") + "?target_session_attrs=read-write"
    async with open_database(two, application_name="tests") as through:
        assert await through.fetchval("SELECT count(*) FROM ticker") == 1


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_behind_a_pooler_everything_is_stored_read_and_heard(
    dsn: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with _pgbouncer(dsn, mode) as (pooled, _):
        settings = Settings(database_url=pooled, database_listen_url=dsn, answer_cache_mb=0)
        await _until_it_answers(pooled)
        async with open_database(pooled, application_name="tests", statement_timeout_s=5) as through, serving(settings) as api:
            await track(through, "btc_usd")
            async with listening(api, PRICES.replace("priceAdded", 'priceAdded(after: "0")')) as listener:
                for number in range(20):
                    await store(through, [row("btc_usd", MINUTE + 60 * number)])
                assert len(await listener.events(20)) == 20
            asked = [
                api.data(f'{{ range(ticker: "btc_usd", from: {MINUTE}, to: {MINUTE + 1_200}) {{ ts }} }}') for _ in range(50)
            ]
            assert {len(one["range"]) for one in await asyncio.gather(*asked)} == {20}
        assert "points to a pooler" in caplog.text
        assert "ALTER ROLE … SET idle_in_transaction_session_timeout = '10s'" in caplog.text


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
async def test_a_pooler_that_passes_no_notifications_on_is_said(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Else subscriptions would be silent, as in a quiet market."""
    with _pgbouncer(dsn, "transaction") as (pooled, _):
        async with serving(Settings(database_url=pooled)):
            await until(lambda: "Set DATABASE_LISTEN_URL" in caplog.text)
