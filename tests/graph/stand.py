"""One API process as strangers meet it, and what became of what they tried."""

import asyncio
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from yarl import URL

from tests.conftest import ROOT
from tests.e2e.conftest import free_port
from tests.graph.conftest import Api
from tests.graph.probes import INIT, Http, Probe, Raw, Socket
from tests.waiting import PATIENCE_S, until

LATEST = {"query": '{ latest(ticker: "btc_usd") { price } }'}
INSIDE = ("Traceback", "asyncpg", "SELECT ", "postgresql://", "site-packages", '.py"', "/home", "/root", "root:x:")


@dataclass
class Stand:
    """One API process, as `python -m graph serve` starts it, and what was seen of it."""

    url: str
    log: Path
    process: psutil.Process
    session: aiohttp.ClientSession
    memory_mb: float = 0.0
    answered: list[float] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    async def watch(self) -> None:
        """Asks for the latest price again and again, as a client of good will, and looks at the memory."""
        while True:
            began = time.perf_counter()
            try:
                async with self.session.post(f"{self.url}/graphql", json=LATEST) as response:
                    answer = await response.json()
                    if answer != {"data": {"latest": {"price": "100"}}}:
                        self.unanswered.append(str(answer))
            except (aiohttp.ClientError, TimeoutError) as error:
                self.unanswered.append(repr(error))
            self.answered.append(time.perf_counter() - began)
            self.memory_mb = max(self.memory_mb, self.process.memory_info().rss / 2**20)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def api_process(dsn: str, folder: Path, *, port: int | None = None, **settings: str) -> AsyncIterator[Stand]:
    """`python -m graph serve` over a database, with more settings."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    env = os.environ | {"DATABASE_URL": dsn, "PORT": str(port), "LOG_LEVEL": "ERROR", "REDIS_URL": ""} | settings
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "graph", "serve", cwd=ROOT, env=env, stdout=output, stderr=output
        )
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:

            async def answers() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/health") as response:
                        return response.status == 200
                return False

            await until(answers)
            yield Stand(url, log, psutil.Process(process.pid), session)
    finally:
        process.terminate()
        await process.wait()


async def outcome(stand: Stand, probe: Probe) -> str:
    """The error's code, `data`, an HTTP status, or `closed CODE`."""
    match probe:
        case Http():
            return await over_http(stand, probe)
        case Raw():
            return await _over_tcp(stand, probe)
        case Socket():
            return await _over_websocket(stand, probe)


async def over_http(stand: Stand | Api, probe: Http) -> str:
    """What became of a request; where it showed something of the inside, what."""
    url = URL(stand.url + probe.path, encoded=True)
    headers = {name: value for name, value in probe.headers.items() if value}
    try:
        async with stand.session.request(
            probe.method,
            url,
            data=None if probe.body is None else io.BytesIO(probe.body),
            headers=headers,
            skip_auto_headers=["Content-Type"],
            allow_redirects=False,
        ) as response:
            body = await response.text()
    except aiohttp.ClientConnectionError as error:  # it was refused while we were still sending
        return "PAYLOAD_TOO_LARGE" if len(probe.body or b"") > 10**6 else repr(error)
    found = [word for word in INSIDE if word in body]
    if found or response.status == 500:
        return f"{response.status}, showing {found}: {body[:300]}"
    return _meaning(body) or str(response.status)


def _meaning(body: str) -> str:
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return "data"
    if "errors" in answer:
        return str(answer["errors"][0]["extensions"]["code"])
    return "data" if "data" in answer else str(answer.get("code", ""))


async def _over_tcp(stand: Stand, probe: Raw) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(stand.url).port)
    try:
        for part in probe.parts:
            writer.write(part)
            await writer.drain()
        if probe.ends:
            writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        return line.split()[1].decode() if line else "reset"
    except OSError:
        return "reset"
    finally:
        writer.close()


async def _over_websocket(stand: Stand, probe: Socket) -> str:
    connecting = stand.session.ws_connect(
        f"{stand.url}/graphql", protocols=probe.protocols, headers=probe.headers, max_msg_size=0
    )
    try:
        async with connecting as socket:
            if probe.greeted:
                await socket.send_str(INIT)
                await socket.receive(timeout=PATIENCE_S)
            with contextlib.suppress(ConnectionError):
                for sent in probe.messages:
                    await (socket.send_str(sent) if isinstance(sent, str) else socket.send_bytes(sent))
            message = await socket.receive(timeout=PATIENCE_S)
            while message.type is aiohttp.WSMsgType.TEXT:
                answer = message.json()
                if answer["type"] == "error":
                    return str(answer["payload"][0]["extensions"]["code"])
                if answer["type"] == "pong":
                    return "pong"
                message = await socket.receive(timeout=PATIENCE_S)
            return f"closed {socket.close_code}"
    except aiohttp.WSServerHandshakeError as refused:
        return str(refused.status)
