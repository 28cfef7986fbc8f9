"""A real Prometheus scrapes the product: every dashboard expression returns data, and every alert fires."""

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
from db.rows import Reason
from db.runtime.embedded import free_port
from ingest.outbox import Outbox, open_outbox
from ingest.simulator.server import Simulator
from tests.conftest import ROOT, Servers
from tests.graph.api_server import ApiProcess, run_api_process
from tests.graph.conftest import Api
from tests.graph.subscriptions import subscribe
from tests.sample_data import lock_price_table, row, store, track
from tests.wait import wait_until

MONITORING = ROOT / "monitoring"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]


def dashboard_expressions() -> dict[str, list[str]]:
    """Returns the expressions of each dashboard, with a fixed interval instead of Grafana's variable."""
    return {
        path.stem: [
            target["expr"].replace("$__rate_interval", "1m")
            for panel in json.loads(path.read_text())["panels"]
            for target in panel["targets"]
            if "expr" in target
        ]
        for path in (MONITORING / "grafana" / "dashboards").glob("*.json")
    }


def alert_expressions() -> dict[str, str]:
    """Returns the expression of each alert."""
    text = (MONITORING / "alerts.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (?:\|\n +)?(.+)\n", text)
    assert len(found) == text.count("- alert: ")
    return dict(found)


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str
    session: aiohttp.ClientSession

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the current result of an expression."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            body = await response.json()
        assert body["status"] == "success", (expression, body)
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    async def active_alerts(self) -> set[str]:
        """Returns the names of the alerts that are firing or pending."""
        async with self.session.get(f"{self.url}/api/v1/alerts") as response:
            return {one["labels"]["alertname"] for one in (await response.json())["data"]["alerts"]}


@contextlib.asynccontextmanager
async def run_prometheus(folder: Path, api_port: int, worker_port: int, stream_port: int) -> AsyncIterator[Prometheus]:
    """Runs Prometheus with the product's configuration, with other addresses and a shorter interval."""
    port = free_port()
    config = (MONITORING / "prometheus.yml").read_text()
    config = config.replace("api:9100", f"127.0.0.1:{api_port}").replace("worker:9101", f"127.0.0.1:{worker_port}")
    config = config.replace("stream:9102", f"127.0.0.1:{stream_port}")
    config = config.replace("_interval: 15s", "_interval: 1s").replace("alertmanager:9093", "127.0.0.1:9")
    (folder / "prometheus.yml").write_text(config)
    # An alert fires as soon as its cause exists.
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

            async def is_scraping() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    return len(await running.query("up == 1")) == 3
                return False

            await wait_until(is_scraping)
            yield running
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def _run_collector(dsn: str, redis_url: str, rpc_url: str, verb: str, port: int, **settings: str) -> AsyncIterator[None]:
    env = {
        "DATABASE_URL": dsn,
        "REDIS_URL": redis_url,
        "DERIBIT_RPC_URL": rpc_url,
        f"{'WORKER' if verb == 'work' else 'STREAM'}_METRICS_PORT": str(port),
        "TICKERS": "btc_usd,eth_usd,no_such",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ingest", verb), cwd=ROOT, env=os.environ | env, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    shutil.copytree(MONITORING, tmp_path / "m")
    process = await asyncio.create_subprocess_exec(
        "promtool", "check", "config", str(tmp_path / "m" / "prometheus.yml"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


def test_every_alert_has_a_runbook_section() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)
    assert sections == list(alert_expressions())
    for name in sections:
        assert f"runbook: docs/runbook.md#{name.lower()}" in (MONITORING / "alerts.yml").read_text()
        section = RUNBOOK.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert "**Look**" in section, name
        assert "**Do**" in section, name


@contextlib.asynccontextmanager
async def _send_queries(api: Api) -> AsyncIterator[None]:
    """Sends queries repeatedly while the block runs."""

    async def send_queries() -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await api.execute('query Latest { latest(ticker: "btc_usd") { price } }')
                await api.execute('query Some { prices(ticker: "btc_usd") { edges { cursor } } }')
                await api.execute("query Refused { nothing }")
            await asyncio.sleep(0.2)

    query_task = asyncio.create_task(send_queries())
    try:
        yield
    finally:
        query_task.cancel()
        await asyncio.wait([query_task])


async def test_every_dashboard_expression_returns_data(dsn: str, redis_url: str, rpc_url: str, tmp_path: Path) -> None:
    api_port, worker_port, stream_port = free_port(), free_port(), free_port()
    async with (
        run_api_process(dsn, tmp_path, API_METRICS_PORT=str(api_port)) as stand,
        _run_collector(dsn, redis_url, rpc_url, "work", worker_port),
        _run_collector(dsn, redis_url, rpc_url, "stream", stream_port),
        run_prometheus(tmp_path, api_port, worker_port, stream_port) as prometheus_server,
        subscribe(Api(stand.url, stand.session), "subscription { priceAdded { id } }"),
        _send_queries(Api(stand.url, stand.session)),
    ):
        for name, expressions in dashboard_expressions().items():
            for expression in expressions:

                async def has_data(expression: str = expression) -> bool:
                    return bool(await prometheus_server.query(expression))

                await wait_until(has_data, describe_state=partial("{}: {}".format, name, expression))


@dataclass
class MonitoredProduct:
    """The running product with its Prometheus, whose alerts the test triggers."""

    stand: ApiProcess
    prometheus_server: Prometheus
    outbox: Outbox
    broker: RedisBroker
    worker: contextlib.AsyncExitStack
    fired: set[str] = field(default_factory=set)

    @property
    def api(self) -> Api:
        return Api(self.stand.url, self.stand.session)

    def send(self, queue: Queue, actor: Actor) -> None:
        """Enqueues the message of an actor for the current minute, as the scheduler does."""
        kwargs = {"minute": int(time.time()) // 60 * 60}
        self.broker.enqueue(dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs=kwargs, options={}))

    async def wait_for_alerts(self, *names: str) -> None:
        """Waits until the alerts fire."""
        pending_alerts = set(names)

        async def all_fired() -> bool:
            pending_alerts.difference_update(await self.prometheus_server.active_alerts())
            return not pending_alerts

        await wait_until(all_fired, describe_state=lambda: f"{pending_alerts} did not fire")
        self.fired.update(names)

    async def wait_for_series(self, selector: str) -> None:
        """Waits until Prometheus has a value of a counter. Its first value only starts the series: `increase()` stays 0."""

        async def has_begun() -> bool:
            return bool(await self.prometheus_server.query(selector))

        await wait_until(has_begun)


@contextlib.asynccontextmanager
async def _monitored_product(
    dsn: str, redis_url: str, rpc_url: str, folder: Path, peers: str = "", **settings: Any
) -> AsyncIterator[MonitoredProduct]:
    api_port, worker_port, stream_port = free_port(), free_port(), free_port()
    broker = RedisBroker(url=redis_url)  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
    async with (
        run_api_process(dsn, folder, API_METRICS_PORT=str(api_port), ANSWER_CACHE_MB="0", **settings) as stand,
        _run_collector(dsn, redis_url, rpc_url, "stream", stream_port),
        contextlib.AsyncExitStack() as worker,
        open_outbox(redis_url, 1_000) as outbox,
    ):
        await worker.enter_async_context(_run_collector(dsn, redis_url, rpc_url, "work", worker_port, PEERS=peers))
        async with run_prometheus(folder, api_port, worker_port, stream_port) as prometheus_server:
            yield MonitoredProduct(stand, prometheus_server, outbox, broker, worker)


PRICE_ALERTS = {
    "ExchangeCallsFailing",
    "PriceStale",
    "CollectionStalled",
    "GapOpenTooLong",
    "ClockSkew",
    "PricesStoredLate",
    "UnknownTicker",
    "JobFailing",
    "HorizonInFuture",
    "StreamSilent",
    "DeliveryPriceDiffers",
    "PeerHasMinutes",
    "PeerPricesDiffer",
    "PeerNotCompared",
}
SERVICE_ALERTS = {
    "OutboxNotDraining",
    "RequestsFailing",
    "RequestsSlow",
    "EventsDelayed",
    "EventReadsFailing",
    "InternalServerErrors",
    "ProcessDown",
    "ReplicaLagging",
    "Saturated",
}


def test_every_alert_is_covered_by_a_test() -> None:
    assert set(alert_expressions()) == PRICE_ALERTS | SERVICE_ALERTS


async def test_price_alerts_fire_by_their_causes(
    dsn: str, db: Database, redis_url: str, rpc_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now - 3 * 86_400)
    await store(db, [row("btc_usd", now - 600)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", now - 2 * 86_400): Reason.TIMEOUT})
    # Deribit responds with 503 to every call. One gap has been open for two days.
    simulator.fail("http_503", method="get_index_price")
    simulator.fail("http_503")
    simulator.fail("stream_refused")
    await db.execute(
        "INSERT INTO delivery_price VALUES ('btc_usd', $1, 70000, 70010, 'RANGE')", (now - 28_800) // 86_400 * 86_400 + 28_800
    )
    peer = f"http://127.0.0.1:{free_port()}"  # it does not respond
    # Three days ago a peer had a minute that is missing here, and another price. It has not been compared since.
    await db.execute(
        "INSERT INTO peer_comparison VALUES ($2, $1, 'btc_usd', 1439, 0, 1, 1, 150, $1)",
        now // 86_400 * 86_400 - 3 * 86_400,
        peer,
    )
    async with _monitored_product(dsn, redis_url, rpc_url, tmp_path, peers=peer) as product:
        await product.wait_for_alerts(
            "ExchangeCallsFailing", "PriceStale", "CollectionStalled", "GapOpenTooLong", "StreamSilent"
        )
        # Deribit has recovered, its clock is three seconds ahead, and old prices are queued.
        simulator.clear_faults()
        simulator.clock.set(offset_s=3)
        await product.outbox.put([row("btc_usd", now - 60 * minute) for minute in range(20, 40)])
        product.send(Queue.COLLECT, Actor.COLLECT)
        await wait_until(lambda: db.fetchval("SELECT count(*) > 1 FROM price"))
        product.send(Queue.RECONCILE, Actor.RECONCILE)
        await product.wait_for_alerts("ClockSkew", "PricesStoredLate", "UnknownTicker", "DeliveryPriceDiffers")
        await product.wait_for_alerts("PeerHasMinutes", "PeerPricesDiffer", "PeerNotCompared")
        # A wrong clock moved the horizon into the future, and a column was renamed.
        await db.execute("UPDATE ticker SET horizon = $1", (now + 365 * 86_400) // 60 * 60)
        await db.execute("ALTER TABLE milestone RENAME COLUMN at TO renamed")
        product.send(Queue.RECONCILE, Actor.RECONCILE)
        await product.wait_for_alerts("HorizonInFuture", "JobFailing")
    assert product.fired == PRICE_ALERTS


async def test_service_alerts_fire_by_their_causes(
    dsn: str, db: Database, redis_url: str, rpc_url: str, servers: Servers, tmp_path: Path
) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now)
    unreachable_dsn = f"postgresql://127.0.0.1:{free_port()}/gone"
    async with _monitored_product(dsn, redis_url, rpc_url, tmp_path, DATABASE_READ_URL=unreachable_dsn) as product:
        api = product.api
        async with _send_queries(api):
            await wait_until(lambda: db.fetchval("SELECT count(*) > 0 FROM price"))
            # PostgreSQL accepts no connections.
            await product.outbox.put([row("btc_usd", now - 60 * 50)])
            async with _unavailable_database(servers.dsn, dsn):
                product.send(Queue.RECONCILE, Actor.RECONCILE)
                await product.wait_for_alerts("OutboxNotDraining", "RequestsFailing")
        # PostgreSQL is slow.
        async with subscribe(api, "subscription { priceAdded(after: 0) { id } }") as listener:
            await listener.events(1)  # the subscription has started
            async with lock_price_table(dsn):
                await db.execute("SELECT pg_notify('tickgraph', '')")
                # Different selections, because identical requests would share a statement.
                queries = [f'{{ latest(ticker: "btc_usd") {{ price{number}: price }} }}' for number in range(40)]
                query_tasks = [asyncio.create_task(api.execute(query)) for query in queries]
                await asyncio.sleep(3)  # slow enough for the alert
                await product.wait_for_alerts("Saturated")  # most wait for a connection until they are rejected
        await asyncio.gather(*query_tasks)
        await product.wait_for_alerts("RequestsSlow", "EventsDelayed", "ReplicaLagging")
        # The API meets an unexpected error.
        async with subscribe(api, "subscription { priceAdded(after: 0) { id } }") as listener:
            await listener.events(1)
            await db.execute("ALTER TABLE price RENAME COLUMN observed_at TO seen_at")
            await db.execute("SELECT pg_notify('tickgraph', '')")
            query = '{ latest(ticker: "btc_usd") { observedAt } }'
            assert (await api.error(query))[0] == "INTERNAL_SERVER_ERROR"
            await product.wait_for_series('tickgraph_rejected_requests_total{code="INTERNAL_SERVER_ERROR"}')
            assert (await api.error(query))[0] == "INTERNAL_SERVER_ERROR"
            await product.wait_for_alerts("InternalServerErrors", "EventReadsFailing")
        await product.worker.aclose()
        await product.wait_for_alerts("ProcessDown")
    assert product.fired == SERVICE_ALERTS


@contextlib.asynccontextmanager
async def _unavailable_database(admin_dsn: str, dsn: str) -> AsyncIterator[None]:
    """Makes a database reject connections, and terminates the existing ones, while the block runs."""
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
