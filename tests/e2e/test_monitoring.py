"""Monitoring, by a real Prometheus that scrapes the real product: every expression finds something, every alert fires."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from db.pool import Database
from db.queries import gaps, write_lock
from db.queues import Actor, Queue
from db.tables import Reason
from ingest.outbox import Outbox, open_outbox
from ingest.simulator.server import Simulator
from tests.conftest import ROOT, Servers
from tests.e2e.conftest import free_port
from tests.graph.conftest import Api
from tests.graph.stand import Stand, api_process
from tests.graph.test_live import listening
from tests.stored import prices_locked, row, store, track
from tests.waiting import until

MONITORING = ROOT / "monitoring"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]


def dashboards() -> dict[str, list[str]]:
    """The expressions of each dashboard, with an interval in the place of Grafana's."""
    return {
        path.stem: [
            target["expr"].replace("$__rate_interval", "1m")
            for panel in json.loads(path.read_text())["panels"]
            for target in panel["targets"]
        ]
        for path in (MONITORING / "grafana" / "dashboards").glob("*.json")
    }


def alerts() -> dict[str, str]:
    """The expression of each alert."""
    text = (MONITORING / "alerts.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (?:\|\n +)?(.+)\n", text)
    assert len(found) == text.count("- alert: ")
    return dict(found)


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            answer = await response.json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def firing(self) -> set[str]:
        """The names of the alerts that fire, or are about to."""
        async with self.session.get(f"{self.url}/api/v1/alerts") as response:
            return {one["labels"]["alertname"] for one in (await response.json())["data"]["alerts"]}


@contextlib.asynccontextmanager
async def prometheus(folder: Path, api_port: int, worker_port: int) -> AsyncIterator[Prometheus]:
    """Prometheus with the product's own configuration, but for where things are, and faster."""
    port = free_port()
    config = (MONITORING / "prometheus.yml").read_text()
    config = config.replace("api:9100", f"127.0.0.1:{api_port}").replace("worker:9101", f"127.0.0.1:{worker_port}")
    config = config.replace("_interval: 15s", "_interval: 1s").replace("alertmanager:9093", "127.0.0.1:9")
    (folder / "prometheus.yml").write_text(config)
    # So that an alert is there as soon as its cause is.
    (folder / "alerts.yml").write_text(re.sub(r"\n +for: \w+", "", (MONITORING / "alerts.yml").read_text()))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
        stderr=asyncio.subprocess.DEVNULL,  # no Alertmanager listens
    )
    try:
        async with aiohttp.ClientSession() as session:
            running = Prometheus(f"http://127.0.0.1:{port}", session)

            async def answers() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    return len(await running.ask("up == 1")) == 2
                return False

            await until(answers)
            yield running
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def _worker(dsn: str, redis_url: str, rpc_url: str, port: int) -> AsyncIterator[None]:
    env = {
        "DATABASE_URL": dsn,
        "REDIS_URL": redis_url,
        "DERIBIT_RPC_URL": rpc_url,
        "WORKER_METRICS_PORT": str(port),
        "TICKERS": "btc_usd,eth_usd,no_such",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ingest", "work"), cwd=ROOT, env=os.environ | env, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_the_files_are_what_prometheus_takes(tmp_path: Path) -> None:
    shutil.copytree(MONITORING, tmp_path / "m")
    process = await asyncio.create_subprocess_exec(
        "promtool", "check", "config", str(tmp_path / "m" / "prometheus.yml"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


def test_every_alert_has_its_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)
    assert sections == list(alerts())
    for name in sections:
        assert f"runbook: docs/runbook.md#{name.lower()}" in (MONITORING / "alerts.yml").read_text()
        section = RUNBOOK.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert "**Look**" in section, name
        assert "**Do**" in section, name


@contextlib.asynccontextmanager
async def _asked(api: Api) -> AsyncIterator[None]:
    """A client that asks again and again."""

    async def ask() -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await api.ask('query Latest { latest(ticker: "btc_usd") { price } }')
                await api.ask('query Some { prices(ticker: "btc_usd") { edges { cursor } } }')
                await api.ask("query Refused { nothing }")
            await asyncio.sleep(0.2)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def test_every_expression_of_the_dashboards_finds_something(
    dsn: str, redis_url: str, rpc_url: str, tmp_path: Path
) -> None:
    api_port, worker_port = free_port(), free_port()
    async with (
        api_process(dsn, tmp_path, API_METRICS_PORT=str(api_port)) as stand,
        _worker(dsn, redis_url, rpc_url, worker_port),
        prometheus(tmp_path, api_port, worker_port) as watching,
        listening(Api(stand.url, stand.session), "subscription { priceAdded { id } }"),
        _asked(Api(stand.url, stand.session)),
    ):
        for name, expressions in dashboards().items():
            for expression in expressions:

                async def finds(expression: str = expression) -> bool:
                    return bool(await watching.ask(expression))

                await until(finds, otherwise=partial("{}: {}".format, name, expression))


@dataclass
class Scene:
    """The product, watched, whose alerts are made to fire."""

    stand: Stand
    watching: Prometheus
    outbox: Outbox
    broker: RedisBroker
    worker: contextlib.AsyncExitStack
    fired: set[str] = field(default_factory=set)

    @property
    def api(self) -> Api:
        return Api(self.stand.url, self.stand.session)

    def send(self, queue: Queue, actor: Actor) -> None:
        """Sends what the scheduler sends."""
        kwargs = {"minute": int(time.time()) // 60 * 60}
        self.broker.enqueue(dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs=kwargs, options={}))

    async def fires(self, *names: str) -> None:
        """Waits until the alerts fire."""
        left = set(names)

        async def do() -> bool:
            left.difference_update(await self.watching.firing())
            return not left

        await until(do, otherwise=lambda: f"{left} did not fire", patience_s=60)
        self.fired.update(names)


@contextlib.asynccontextmanager
async def _scene(dsn: str, redis_url: str, rpc_url: str, folder: Path, **settings: Any) -> AsyncIterator[Scene]:
    api_port, worker_port = free_port(), free_port()
    broker = RedisBroker(url=redis_url)  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
    async with (
        api_process(dsn, folder, API_METRICS_PORT=str(api_port), ANSWER_CACHE_MB="0", **settings) as stand,
        contextlib.AsyncExitStack() as worker,
        open_outbox(redis_url, 1_000) as outbox,
    ):
        await worker.enter_async_context(_worker(dsn, redis_url, rpc_url, worker_port))
        async with prometheus(folder, api_port, worker_port) as watching:
            yield Scene(stand, watching, outbox, broker, worker)


OF_PRICES = {
    "ExchangeFails",
    "PriceStale",
    "CollectingStands",
    "GapsStayOpen",
    "ClockIsWrong",
    "PricesComeLate",
    "TickerUnknown",
    "JobFails",
    "HorizonInFuture",
}
OF_SERVICE = {
    "PricesWait",
    "AnswersFail",
    "AnswersAreSlow",
    "EventsComeLate",
    "EventsUnread",
    "MistakeOfOurs",
    "ProcessGone",
    "ReplicaBehind",
    "Saturated",
}


def test_every_alert_is_made_to_fire() -> None:
    assert set(alerts()) == OF_PRICES | OF_SERVICE


async def test_alerts_of_prices_fire_by_their_causes(
    dsn: str, db: Database, redis_url: str, rpc_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now - 3 * 86_400)
    await store(db, [row("btc_usd", now - 600)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", now - 2 * 86_400): Reason.TIMEOUT})
    # Deribit answers 503 to everything, and a minute is missing since two days.
    simulator.fail("http_503")
    async with _scene(dsn, redis_url, rpc_url, tmp_path) as scene:
        await scene.fires("ExchangeFails", "PriceStale", "CollectingStands", "GapsStayOpen")
        # It is there again, and its clock is three seconds ahead of ours; prices of long ago waited.
        simulator.clear_faults()
        simulator.clock.set(offset_s=3)
        await scene.outbox.put([row("btc_usd", now - 60 * minute) for minute in range(20, 40)])
        scene.send(Queue.COLLECT, Actor.COLLECT)
        await until(lambda: db.fetchval("SELECT count(*) > 1 FROM price"))
        scene.send(Queue.RECONCILE, Actor.RECONCILE)
        await scene.fires("ClockIsWrong", "PricesComeLate", "TickerUnknown")
        # A clock was wrong a year ago, and a table of ours is not what it was.
        await db.execute("UPDATE ticker SET horizon = $1", (now + 365 * 86_400) // 60 * 60)
        await db.execute("ALTER TABLE milestone RENAME COLUMN at TO renamed")
        scene.send(Queue.RECONCILE, Actor.RECONCILE)
        await scene.fires("HorizonInFuture", "JobFails")
    assert scene.fired == OF_PRICES


async def test_alerts_of_the_service_fire_by_their_causes(
    dsn: str, db: Database, redis_url: str, rpc_url: str, servers: Servers, tmp_path: Path
) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now)
    gone = f"postgresql://127.0.0.1:{free_port()}/gone"
    async with _scene(dsn, redis_url, rpc_url, tmp_path, DATABASE_READ_URL=gone) as scene:
        api = scene.api
        async with _asked(api):
            await until(lambda: db.fetchval("SELECT count(*) > 0 FROM price"))
            # PostgreSQL lets nobody in.
            await scene.outbox.put([row("btc_usd", now - 60 * 50)])
            async with _away(servers.dsn, dsn):
                scene.send(Queue.RECONCILE, Actor.RECONCILE)
                await scene.fires("PricesWait", "AnswersFail")
        # It is slow.
        async with listening(api, "subscription { priceAdded(after: 0) { id } }") as listener:
            await listener.events(1)  # it has begun
            async with prices_locked(dsn):
                await db.execute("SELECT pg_notify('tickgraph', '')")
                asked = [asyncio.create_task(api.ask('{ latest(ticker: "btc_usd") { price } }')) for _ in range(40)]
                await asyncio.sleep(3)  # so slow that it is an alert
        await asyncio.gather(*asked)
        await scene.fires("AnswersAreSlow", "EventsComeLate", "ReplicaBehind", "Saturated")
        # The API meets what nobody thought of.
        async with listening(api, "subscription { priceAdded(after: 0) { id } }") as listener:
            await listener.events(1)
            await db.execute("ALTER TABLE price RENAME COLUMN observed_at TO seen_at")
            await db.execute("SELECT pg_notify('tickgraph', '')")
            for _ in range(3):
                assert (await api.error('{ latest(ticker: "btc_usd") { observedAt } }'))[0] == "INTERNAL_SERVER_ERROR"
                await asyncio.sleep(1.1)  # longer than Prometheus takes to look again: the first one begins a series
            await scene.fires("MistakeOfOurs", "EventsUnread")
        await scene.worker.aclose()
        await scene.fires("ProcessGone")
    assert scene.fired == OF_SERVICE


@contextlib.asynccontextmanager
async def _away(admin_dsn: str, dsn: str) -> AsyncIterator[None]:
    """A database that lets nobody in, and has thrown out who was."""
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
