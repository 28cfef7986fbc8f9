"""Real servers for every test: PostgreSQL and Valkey started once a session, a database cloned from a migrated template
for each test, and a simulated exchange over HTTP.
"""

import os
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import redis

from db import embedded, migrate, settings
from db.pool import Database, open_database
from graph.settings import Settings as GraphSettings
from ingest.settings import Settings as IngestSettings
from ingest.simulator.server import Simulator, serving

ROOT = Path(__file__).parent.parent
TEMPLATE = "template_tickgraph"

MAY_BE_ABSENT = {
    "real prices are not here": "real data lies beside a developer's checkout, not in it",
    "recorded answers are not here": "real data lies beside a developer's checkout, not in it",
    "Chromium is not installed": "only root can install it",
    "Node.js is not installed": "only root can install it",
    "the clients of Node.js are not installed": "npm's registry may be out of reach",
    "Prometheus is not installed": "only root can install it",
    "Docker is not here": "an engine in an engine is seldom allowed",
    "PgBouncer is not installed": "only root can install it",
    "nginx is not installed": "only root can install it",
    "Caddy is not installed": "only root can install it",
    "openssl is not installed": "only root can install it",
    "make is not installed": "the image of the tests has none",
}
"""The reasons for which a test may be skipped where CI=true; any other one fails."""


def _fail_unlisted_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in MAY_BE_ABSENT:
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that is not on the list MAY_BE_ABSENT: {reason}"


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
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's environment and .env file change no test."""
    names = {name.upper() for model in (IngestSettings, GraphSettings) for name in model.model_fields}
    with pytest.MonkeyPatch.context() as patch:
        for name in names & set(os.environ):
            patch.delenv(name)
        patch.setitem(settings.Settings.model_config, "env_file", None)
        patch.setitem(IngestSettings.model_config, "env_file", None)
        patch.setitem(GraphSettings.model_config, "env_file", None)
        yield


@dataclass(frozen=True)
class Servers:
    """The servers of the session; `dsn` is an empty database, TEMPLATE beside it a migrated one."""

    dsn: str
    redis_url: str

    def dsn_of(self, database: str) -> str:
        """The address of another database of the server."""
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
def migrated(servers: Servers, template: str) -> str:
    migrate.upgrade(servers.dsn_of(template))
    return template


async def clone(servers: Servers, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(servers.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield servers.dsn_of(name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def dsn(servers: Servers, migrated: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async for address in clone(servers, migrated):
        yield address


@pytest.fixture
async def empty_dsn(servers: Servers) -> AsyncIterator[str]:
    """A database without any table."""
    async for address in clone(servers, "template0"):
        yield address


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with open_database(dsn, application_name="tests") as database:
        yield database


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    return servers.redis_url


@pytest.fixture
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture
async def rpc_url(simulator: Simulator) -> AsyncIterator[str]:
    """DERIBIT_RPC_URL of the test's own exchange."""
    async with serving(simulator) as url:
        yield url
