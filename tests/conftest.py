"""Fixtures with real servers: PostgreSQL and Valkey start once per session. Each test has its own migrated database and its own
simulated exchange over HTTP.
"""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
import redis

from db import migrate, settings
from db.pool import Database, open_database
from db.runtime import embedded
from graph.settings import Settings as GraphSettings
from ingest.settings import Settings as IngestSettings
from ingest.simulator.server import Simulator, serve
from tests.wait import WAIT_TIMEOUT_S

# A slow machine fails no example. The base is the current profile, because Hypothesis has one for CI.
hypothesis.settings.register_profile("tests", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("tests")

# A shell starts background jobs with SIGINT ignored; the processes of the tests must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
TEMPLATE = "template_tickgraph"

ALLOWED_SKIP_REASONS = {
    "real prices are not available": "real data is stored next to a developer's checkout, not in it",
    "recorded responses are not available": "real data is stored next to a developer's checkout, not in it",
    "Chromium is not installed": "only root can install it",
    "Node.js is not installed": "only root can install it",
    "the clients of Python are not installed": "PyPI may be unreachable",
    "the clients of Node.js are not installed": "npm's registry may be unreachable",
    "Prometheus is not installed": "only root can install it",
    "Docker is not available": "Docker in Docker is rarely allowed",
    "PgBouncer is not installed": "only root can install it",
    "nginx is not installed": "only root can install it",
    "Caddy is not installed": "only root can install it",
    "openssl is not installed": "only root can install it",
    "make is not installed": "the test image does not contain it",
}
"""Allowed skip reasons, each with its cause. Where CI=true, a skip for any other reason fails."""


def _fail_unlisted_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in ALLOWED_SKIP_REASONS:
            report.outcome = "failed"
            report.longrepr = f"The skip reason is not in ALLOWED_SKIP_REASONS: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_unlisted_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_unlisted_skip(report)
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _ignore_outside_settings() -> Iterator[None]:
    """Removes the settings of a developer's environment and .env file, so that they change no test."""
    names = {name.upper() for model in (IngestSettings, GraphSettings) for name in model.model_fields}
    with pytest.MonkeyPatch.context() as patch:
        for name in names & set(os.environ):
            patch.delenv(name)
        patch.setitem(settings.Settings.model_config, "env_file", None)
        patch.setitem(IngestSettings.model_config, "env_file", None)
        patch.setitem(GraphSettings.model_config, "env_file", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _wait_for_connections() -> Iterator[None]:
    """Gives PostgreSQL more time to accept a connection, so that a slow machine fails no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("db.connection_url.CONNECT_TIMEOUT_S", WAIT_TIMEOUT_S)
        yield


@dataclass(frozen=True)
class Servers:
    """The servers of the session. `dsn` is the DSN of an empty database; TEMPLATE names a migrated database."""

    dsn: str
    redis_url: str

    def dsn_of(self, database: str) -> str:
        """Returns the DSN of another database on the same server."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    with (
        embedded.postgres(folder / "postgres", durable=False) as postgres,
        embedded.valkey(folder / "valkey") as valkey,
    ):
        yield Servers(postgres.url, valkey.url)


@pytest.fixture(scope="session")
async def template(servers: Servers) -> str:
    admin = await asyncpg.connect(servers.dsn)
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    return TEMPLATE


@pytest.fixture(scope="session")
def migrated_template(servers: Servers, template: str) -> str:
    migrate.upgrade(servers.dsn_of(template))
    return template


async def _create_database(servers: Servers, template: str) -> str:
    """Creates a copy of the template. Returns its name."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(servers.dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await admin.close()
    return name


async def _drop_database(servers: Servers, name: str) -> None:
    admin = await asyncpg.connect(servers.dsn)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def clone(servers: Servers, template: str) -> AsyncIterator[str]:
    """Yields the DSN of a new database, a copy of the template, and drops the database at the end."""
    name = await _create_database(servers, template)
    yield servers.dsn_of(name)
    await _drop_database(servers, name)


# A fingerprint of the schema: the row version (xmin) or the oid of each catalog row, which ALTER and CREATE change.
SCHEMA_FINGERPRINT = """
SELECT md5(string_agg(version, ' ' ORDER BY version)) FROM (
    SELECT 'a' || attrelid || '.' || attnum || '.' || xmin FROM pg_attribute WHERE attrelid >= 16384
      AND attrelid IN (SELECT oid FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'p'))
    UNION ALL SELECT 'c' || oid || relname FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'v', 'm', 'p', 'S', 'i')
    UNION ALL SELECT 'p' || oid || '.' || xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 't' || oid || '.' || xmin FROM pg_trigger
    UNION ALL SELECT 'k' || oid || '.' || xmin FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT 'n' || oid || '.' || xmin FROM pg_namespace WHERE oid >= 16384
    UNION ALL SELECT 's' || setdatabase || setconfig::text FROM pg_db_role_setting
) AS object (version)
"""
END_SESSIONS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
SEQUENCES = "SELECT schemaname || '.' || sequencename AS name, last_value, start_value FROM pg_sequences"


class Databases:
    """Migrated databases. A database whose schema is unchanged is emptied and reused, which is faster than a clone."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._clean: list[str] = []
        self._schema = self._reset = ""

    async def record_template(self, template: str) -> None:
        """Records the schema and the rows of the template."""
        connection = await asyncpg.connect(self._servers.dsn_of(template))
        self._schema = await connection.fetchval(SCHEMA_FINGERPRINT)
        tables = [name for (name,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        statements = ["SET session_replication_role = replica", f"TRUNCATE {', '.join(tables)}"]
        for table in tables:
            rows = await connection.fetchval(f"SELECT json_agg(found)::text FROM {table} AS found")  # noqa: S608  names from pg_tables
            if rows is not None:
                row_set = f"json_populate_recordset(NULL::{table}, $json${rows}$json$)"
                statements.append(f"INSERT INTO {table} SELECT * FROM {row_set}")  # noqa: S608
        for name, last, start in await connection.fetch(SEQUENCES):
            statements.append(f"SELECT setval('{name}', {last or start}, {last is not None})")
        self._reset = "; ".join(statements)
        await connection.close()

    async def acquire(self) -> str:
        """Returns the name of a database that contains only the rows of the migrations."""
        if self._clean:
            return self._clean.pop()
        return await _create_database(self._servers, TEMPLATE)

    async def release(self, name: str) -> None:
        """Ends the sessions of the database and empties it. Drops it if the test changed its schema or its settings."""
        connection = await asyncpg.connect(self._servers.dsn_of(name))
        await connection.execute(END_SESSIONS)
        is_clean = await connection.fetchval(SCHEMA_FINGERPRINT) == self._schema
        if is_clean:
            await connection.execute(self._reset)
            self._clean.append(name)
        await connection.close()
        if not is_clean:
            await _drop_database(self._servers, name)


@pytest.fixture(scope="session")
async def databases(servers: Servers, migrated_template: str) -> Databases:
    result = Databases(servers)
    await result.record_template(migrated_template)
    return result


@pytest.fixture
async def dsn(servers: Servers, databases: Databases) -> AsyncIterator[str]:
    """The DSN of a migrated database that only this test uses."""
    name = await databases.acquire()
    yield servers.dsn_of(name)
    await databases.release(name)


@pytest.fixture
async def empty_dsn(servers: Servers) -> AsyncIterator[str]:
    """The DSN of a database without tables."""
    async for address in clone(servers, "template0"):
        yield address


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with open_database(dsn, application_name="tests") as database:
        yield database


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """The URL of Redis, after all its keys are deleted."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    return servers.redis_url


@pytest.fixture
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture
async def rpc_url(simulator: Simulator) -> AsyncIterator[str]:
    """DERIBIT_RPC_URL of the simulated exchange of this test."""
    async with serve(simulator) as url:
        yield url
