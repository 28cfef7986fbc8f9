"""The proxy configurations of docs/operations.md, run by a real nginx and a real Caddy."""

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from db.pool import Database
from db.runtime.embedded import free_port
from graph.settings import Settings
from tests.conftest import ROOT
from tests.e2e.conftest import create_certificate
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import PRICES, open_event_stream, subscribe
from tests.sample_data import START_TS, row, store, track
from tests.wait import wait_until

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CADDY = shutil.which("caddy")


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL)
    return str(block)


def _nginx(folder: Path, port: int, upstream: str) -> list[str]:
    assert NGINX is not None
    block = _block("nginx").replace("/etc/ssl/", f"{folder}/").replace("listen 443", f"listen 127.0.0.1:{port}")
    block = block.replace("127.0.0.1:8000", upstream).replace("prices.example.com", "127.0.0.1")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{block}\n}}\n"
    )
    return [NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def _caddy(folder: Path, port: int, upstream: str) -> list[str]:
    assert CADDY is not None
    block = _block("caddy").replace(
        "prices.example.com {", f"https://127.0.0.1:{port} {{\n tls {folder}/prices.crt {folder}/prices.key"
    )
    block = block.replace("127.0.0.1:8000", upstream)
    (folder / "Caddyfile").write_text(f"{{\n admin off\n auto_https off\n}}\n{block}")
    return [CADDY, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@contextlib.contextmanager
def _proxy(name: str, folder: Path, api: Api) -> Iterator[str]:
    port, upstream = free_port(), api.url.removeprefix("http://")
    create_certificate(folder, "prices")
    command = (_nginx if name == "nginx" else _caddy)(folder, port, upstream)
    with (folder / "proxy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOME": str(folder)})  # noqa: S603  ours
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed")),
        pytest.param("caddy", marks=pytest.mark.skipif(CADDY is None, reason="Caddy is not installed")),
    ],
)
async def test_queries_and_subscriptions_work_through_the_documented_proxy(
    dsn: str, db: Database, tmp_path: Path, name: str
) -> None:
    await track(db, "btc_usd")
    async with run_api(Settings(database_url=dsn, trusted_proxies=("127.0.0.1",))) as api:
        with _proxy(name, tmp_path, api) as url:
            context = ssl.create_default_context(cafile=str(tmp_path / "prices.crt"))
            connector = aiohttp.TCPConnector(ssl=context)
            async with aiohttp.ClientSession(connector=connector, headers={"Origin": url}) as session:

                async def is_available() -> bool:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"{url}/health") as response:
                            return response.status == 200
                    return False

                await wait_until(is_available, describe_state=(tmp_path / "proxy.log").read_text)
                proxied_api = Api(url, session)
                assert await proxied_api.data("{ tickers { name } }") == {"tickers": [{"name": "btc_usd"}]}
                after = PRICES.replace("priceAdded", 'priceAdded(after: "0")')
                async with subscribe(proxied_api, after) as listener, open_event_stream(proxied_api, after) as stream:
                    await store(db, [row("btc_usd", START_TS)])
                    (event,) = await listener.events(1)
                    assert event["ts"] == START_TS
                    assert json.loads((await stream.event())["data"])["data"]["priceAdded"]["ts"] == START_TS


@pytest.mark.parametrize(("trusted", "status"), [(("127.0.0.1",), 101), ((), 403)])
async def test_the_forwarded_host_is_accepted_from_trusted_proxies_only(
    dsn: str, trusted: tuple[str, ...], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Host": "inside:8000", "X-Forwarded-Host": "prices.example.com", "Origin": "https://prices.example.com"}
    async with run_api(Settings(database_url=dsn, trusted_proxies=trusted)) as api:
        connecting = api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",), headers=headers)
        if status == 101:
            async with connecting as socket:
                await socket.send_json({"type": "connection_init"})
                assert (await socket.receive_json())["type"] == "connection_ack"
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await connecting
            assert raised.value.status == status
            assert "Add the origin to CORS_ORIGINS" in caplog.text
