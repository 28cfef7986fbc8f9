"""The API as clients meet it: a real uvicorn on a port of its own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import graphql
import pytest
import uvicorn
from starlette.types import ASGIApp

from db.pool import Database
from db.queries import version
from graph.engine.live_events import LiveEvents
from graph.http.application import application
from graph.http.protocol import BoundedHttp, BoundedWebSocket
from graph.schema.context import Resources
from graph.settings import Settings
from tests.waiting import until

Execute = Callable[..., Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Api:
    """A running API and a client of it."""

    url: str
    session: aiohttp.ClientSession
    live: LiveEvents | None = None
    """What it tells subscribers with, where it runs in this process."""

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The whole answer to a query."""
        async with self.session.post(f"{self.url}/graphql", json={"query": query, "variables": variables}) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def data(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer without errors."""
        answer = await self.ask(query, **variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    async def error(self, query: str, **variables: Any) -> tuple[str, str]:
        """Code and message of an answer with one error."""
        answer = await self.ask(query, **variables)
        (error,) = answer["errors"]
        return error["extensions"]["code"], error["message"]


class _Server(uvicorn.Server):
    """Uvicorn inside a test. Where no client is connected it stops at once, without uvicorn's pauses."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield  # pytest keeps its own

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(10):  # turns of the loop in which it hears that clients closed their connections
            await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        await self.lifespan.shutdown()


STATEMENT_TIMEOUT_S = 60.0
"""So long that a stalled machine does not end a statement that a test makes wait."""


def serving(settings: Settings) -> contextlib.AbstractAsyncContextManager[Api]:
    """The API of the settings on a free port."""
    return serving_app(application(settings, statement_timeout_s=STATEMENT_TIMEOUT_S))


@contextlib.asynccontextmanager
async def serving_app(app: ASGIApp) -> AsyncIterator[Api]:
    """An application on a free port."""
    server = _Server(
        uvicorn.Config(
            app,
            port=0,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            proxy_headers=False,
            http=BoundedHttp,
            ws=BoundedWebSocket,
            ws_per_message_deflate=False,
        )
    )
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as session:
            resources: Resources | None = getattr(getattr(app, "state", None), "resources", None)
            yield Api(f"http://127.0.0.1:{port}", session, resources.live if resources is not None else None)
    finally:
        server.stop()
        await running


@pytest.fixture
async def api(dsn: str) -> AsyncIterator[Api]:
    async with serving(Settings(database_url=dsn, request_timeout_s=STATEMENT_TIMEOUT_S)) as running:
        yield running


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the API did for its answers, in order: `validation`, and each SQL statement."""
    done: list[str] = []

    def validating(*args: Any) -> Any:
        done.append("validation")
        return graphql.validate(*args)

    monkeypatch.setattr("graph.schema.executable.validate", validating)
    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        monkeypatch.setattr(Database, name, _noting(done, getattr(Database, name)))
    return done


def _noting(done: list[str], method: Callable[..., Any]) -> Callable[..., Any]:
    async def run(self: Database, statement: str, *args: Any) -> Any:
        if statement not in (version.HISTORY, version.FORK):  # asked all the time, for no answer
            done.append(statement)
        return await method(self, statement, *args)

    return run
