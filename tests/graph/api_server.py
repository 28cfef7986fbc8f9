"""Runs one API process, sends probes to it, and names the outcome of each."""

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

from db.runtime.embedded import free_port
from tests.conftest import ROOT
from tests.graph.conftest import Api
from tests.graph.probes import INIT, HttpProbe, Probe, RawProbe, SocketProbe
from tests.wait import WAIT_TIMEOUT_S, wait_until

LATEST = {"query": '{ latest(ticker: "btc_usd") { price } }'}
INTERNAL_DETAILS = ("Traceback", "asyncpg", "SELECT ", "postgresql://", "site-packages", '.py"', "/home", "/root", "root:x:")


@dataclass
class ApiProcess:
    """One API process that `python -m graph serve` started, with measurements of it."""

    url: str
    log: Path
    process: psutil.Process
    session: aiohttp.ClientSession
    peak_memory_mb: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def watch(self) -> None:
        """Requests the latest price in a loop, as a normal client does, and records latency, failures and peak memory."""
        while True:
            started_at = time.perf_counter()
            try:
                async with self.session.post(f"{self.url}/graphql", json=LATEST) as response:
                    result = await response.json()
                    if result != {"data": {"latest": {"price": "100"}}}:
                        self.failures.append(str(result))
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(repr(error))
            self.latencies_s.append(time.perf_counter() - started_at)
            self.peak_memory_mb = max(self.peak_memory_mb, self.process.memory_info().rss / 2**20)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def run_api_process(dsn: str, folder: Path, *, port: int | None = None, **settings: str) -> AsyncIterator[ApiProcess]:
    """Runs `python -m graph serve` on a database, with additional settings."""
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

            async def is_healthy() -> bool:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{url}/health") as response:
                        return response.status == 200
                return False

            await wait_until(is_healthy)
            yield ApiProcess(url, log, psutil.Process(process.pid), session)
    finally:
        process.terminate()
        await process.wait()


async def send_probe(api: ApiProcess, probe: Probe) -> str:
    """Sends a probe. Returns the error's code, `data`, an HTTP status, or `closed CODE`."""
    match probe:
        case HttpProbe():
            return await send_http_probe(api, probe)
        case RawProbe():
            return await _send_raw_probe(api, probe)
        case SocketProbe():
            return await _send_socket_probe(api, probe)


async def send_http_probe(api: ApiProcess | Api, probe: HttpProbe) -> str:
    """Returns the outcome of a request. For status 500 or exposed internal details, returns status, details and body."""
    url = URL(api.url + probe.path, encoded=True)
    headers = {name: value for name, value in probe.headers.items() if value}
    try:
        async with api.session.request(
            probe.method,
            url,
            data=None if probe.body is None else io.BytesIO(probe.body),
            headers=headers,
            skip_auto_headers=["Content-Type"],
            allow_redirects=False,
        ) as response:
            body = await response.text()
    except aiohttp.ClientConnectionError as error:  # the server rejected the request while the client was still sending it
        return "PAYLOAD_TOO_LARGE" if len(probe.body or b"") > 10**6 else repr(error)
    exposed = [detail for detail in INTERNAL_DETAILS if detail in body]
    if exposed or response.status == 500:
        return f"{response.status}, showing {exposed}: {body[:300]}"
    return _classify_body(body) or str(response.status)


def _classify_body(body: str) -> str:
    try:
        result: Any = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(result, dict):
        return "data"
    if "errors" in result:
        return str(result["errors"][0]["extensions"]["code"])
    return "data" if "data" in result else str(result.get("code", ""))


async def _send_raw_probe(api: ApiProcess, probe: RawProbe) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(api.url).port)
    try:
        for part in probe.parts:
            writer.write(part)
            await writer.drain()
        if probe.sends_eof:
            writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), WAIT_TIMEOUT_S)
        return line.split()[1].decode() if line else "reset"
    except OSError:
        return "reset"
    finally:
        writer.close()


async def _send_socket_probe(api: ApiProcess, probe: SocketProbe) -> str:
    connection = api.session.ws_connect(f"{api.url}/graphql", protocols=probe.protocols, headers=probe.headers, max_msg_size=0)
    try:
        async with connection as socket:
            if probe.sends_init:
                await socket.send_str(INIT)
                await socket.receive(timeout=WAIT_TIMEOUT_S)
            with contextlib.suppress(ConnectionError):
                for outgoing in probe.messages:
                    await (socket.send_str(outgoing) if isinstance(outgoing, str) else socket.send_bytes(outgoing))
            message = await socket.receive(timeout=WAIT_TIMEOUT_S)
            while message.type is aiohttp.WSMsgType.TEXT:
                result = message.json()
                if result["type"] == "error":
                    return str(result["payload"][0]["extensions"]["code"])
                if result["type"] == "pong":
                    return "pong"
                message = await socket.receive(timeout=WAIT_TIMEOUT_S)
            return f"closed {socket.close_code}"
    except aiohttp.WSServerHandshakeError as error:
        return str(error.status)
