"""Fixtures that run the API in a real uvicorn on a free port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import graphql
import pytest
import uvicorn
from starlette.types import ASGIApp

from db import times
from db.pool import Database
from db.queries import ticks, version
from graph.engine.live_events import LiveEvents
from graph.engine.live_ticks import LiveTicks
from graph.http.application import application
from graph.http.protocol import BoundedHttp, BoundedWebSocket
from graph.schema.context import Resources
from graph.settings import Settings
from tests.sample_data import START_TS
from tests.wait import wait_until


@dataclass(frozen=True)
class Api:
    """A running API with an HTTP client session."""

    url: str
    session: aiohttp.ClientSession
    live: LiveEvents | None = None
    """The subscription events of the API, where it runs in this process."""
    ticks: LiveTicks | None = None
    """The ticks that it has received."""

    async def execute(self, query: str, **variables: Any) -> dict[str, Any]:
        """Returns the response body of a query."""
        async with self.session.post(f"{self.url}/graphql", json={"query": query, "variables": variables}) as response:
            body: dict[str, Any] = await response.json()
            return body

    async def data(self, query: str, **variables: Any) -> dict[str, Any]:
        """Returns the data of a response that must have no errors."""
        body = await self.execute(query, **variables)
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    async def error(self, query: str, **variables: Any) -> tuple[str, str]:
        """Returns code and message of a response that must have one error."""
        body = await self.execute(query, **variables)
        (error,) = body["errors"]
        return error["extensions"]["code"], error["message"]


class _Server(uvicorn.Server):
    """Uvicorn inside a test. If no client is connected it stops immediately, without uvicorn's pauses."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield  # the signal handlers of pytest stay

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(10):  # lets the event loop process connections that clients closed
            await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        await self.lifespan.shutdown()


LONG_TIMEOUT_S = 60.0
"""Timeout of statements and requests that a test blocks on purpose. It is long, so that a stalled machine fails no test."""


def run_api(settings: Settings) -> contextlib.AbstractAsyncContextManager[Api]:
    """Runs the API on a free port, with a long statement timeout."""
    return run_app(application(settings, statement_timeout_s=LONG_TIMEOUT_S))


@contextlib.asynccontextmanager
async def run_app(app: ASGIApp) -> AsyncIterator[Api]:
    """Runs an ASGI application on a free port."""
    server = _Server(
        uvicorn.Config(
            app,
            port=0,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=3_600,  # a slow test must not reuse a connection that the server is closing
            proxy_headers=False,
            http=BoundedHttp,
            ws=BoundedWebSocket,
            ws_per_message_deflate=False,
        )
    )
    server_task = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as session:
            resources: Resources | None = getattr(getattr(app, "state", None), "resources", None)
            live, live_ticks = (None, None) if resources is None else (resources.live_events, resources.live_ticks)
            yield Api(f"http://127.0.0.1:{port}", session, live, live_ticks)
    finally:
        server.stop()
        await server_task


@pytest.fixture(autouse=True)
def _wait_for_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives health checks more time, so that a slow machine fails no test."""
    monkeypatch.setattr("graph.http.health.DATABASE_TIMEOUT_S", LONG_TIMEOUT_S)


@pytest.fixture
async def api(dsn: str) -> AsyncIterator[Api]:
    async with run_api(Settings(database_url=dsn, request_timeout_s=LONG_TIMEOUT_S)) as running_api:
        await wait_until_listening(running_api)
        yield running_api


async def wait_until_listening(api: Api) -> None:
    """Waits until the API receives notifications. Earlier ticks would be lost, because nothing stores them."""
    assert api.live is not None
    commits = api.live._commits  # noqa: SLF001  no interface needs it
    await wait_until(lambda: commits.version() is not None)


async def until_notified(api: Api, db: Database) -> None:
    """Waits until the API knows of all commits so far. Until then, it may answer a repeated request from its cache."""
    assert api.ticks is not None
    received, marker = api.ticks, f"marker_{uuid4().hex[:12]}"
    # Notifications arrive in the order of commits, so a tick that is sent now arrives after theirs.
    await ticks.notify_ticks(db, {marker: (START_TS * 1_000, Decimal(1))})
    await wait_until(lambda: received.extremes(marker, times.FIRST, times.END) is not None)


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the clock of the rate limit, so that no budget refills, however slow the machine is."""
    monkeypatch.setattr("graph.engine.rate_limit.time", SimpleNamespace(monotonic=lambda: 1_000.0))


@pytest.fixture
def work_log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the work of the API for its responses, in order: `validation`, and each SQL statement."""
    entries: list[str] = []

    def record_validation(*args: Any) -> Any:
        entries.append("validation")
        return graphql.validate(*args)

    monkeypatch.setattr("graph.schema.executable.validate", record_validation)
    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        monkeypatch.setattr(Database, name, _with_recording(entries, getattr(Database, name)))
    return entries


def _with_recording(entries: list[str], method: Callable[..., Any]) -> Callable[..., Any]:
    async def run_and_record(self: Database, statement: str, *args: Any) -> Any:
        if statement not in (version.HISTORY, version.FORK):  # polled in the background, for no response
            entries.append(statement)
        return await method(self, statement, *args)

    return run_and_record
