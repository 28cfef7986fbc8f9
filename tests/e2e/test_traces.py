"""A collector receives traces from a client's request to its SQL, and from the scheduler to the SQL of the minute."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from db.pool import Database
from tests.conftest import ROOT
from tests.graph.api_server import run_api_process
from tests.graph.conftest import Api
from tests.sample_data import START_TS, row, store, track
from tests.wait import wait_until

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Span:
    """A span and the service that sent it."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent_id: bytes
    statement: str


@dataclass
class Collector:
    """Receives spans by OTLP over HTTP."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        """Handles `POST /v1/traces`: stores the spans."""
        export_request = ExportTraceServiceRequest.FromString(await request.read())
        for resource_spans in export_request.resource_spans:
            service = {one.key: one.value.string_value for one in resource_spans.resource.attributes}["service.name"]
            for otlp_span in [span for scope in resource_spans.scope_spans for span in scope.spans]:
                attributes = {attribute.key: attribute.value.string_value for attribute in otlp_span.attributes}
                found = Span(
                    service,
                    otlp_span.name,
                    otlp_span.trace_id,
                    otlp_span.span_id,
                    otlp_span.parent_span_id,
                    " ".join(attributes.get("db.statement", "").split()),
                )
                self.spans.append(found)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")

    def path(self, span: Span) -> list[str]:
        """Returns the names of the spans from the root of the trace to this one."""
        spans_by_id = {one.id: one for one in self.spans if one.trace == span.trace}
        names = [f"{span.service}: {span.name}"]
        while span.parent_id:
            if span.parent_id not in spans_by_id:
                return []  # the parent has not been received yet
            span = spans_by_id[span.parent_id]
            names.insert(0, f"{span.service}: {span.name}")
        return names

    def paths(self, statement: str) -> list[list[str]]:
        """Returns the path of each span whose SQL contains the text."""
        return [self.path(span) for span in self.spans if statement in span.statement]

    @property
    def env(self) -> dict[str, Any]:
        """The settings of a process that exports its spans to this collector when it ends."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "600000"}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@contextlib.asynccontextmanager
async def _run_ingest(env: dict[str, str], *arguments: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ingest", *arguments, cwd=ROOT, env=os.environ | env)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_a_request_is_traced_to_its_sql(dsn: str, db: Database, tmp_path: Path, collector: Collector) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    async with run_api_process(dsn, tmp_path, **collector.env) as stand:
        api = Api(stand.url, stand.session)
        await api.data('query Newest { latest(ticker: "btc_usd") { price } tickers { name } }')
    expected_path = ["tickgraph api: POST /graphql", "tickgraph api: Query.latest", "tickgraph api: SELECT"]
    assert expected_path in collector.paths("FROM price WHERE price.ticker = names.ticker")
    assert not collector.paths("pg_notify"), "periodic queries of the process are not traced"


async def test_a_minute_is_traced_from_the_scheduler_to_its_sql(
    dsn: str, db: Database, redis_url: str, rpc_url: str, collector: Collector
) -> None:
    env = {"DATABASE_URL": dsn, "REDIS_URL": redis_url, "DERIBIT_RPC_URL": rpc_url, "LOG_LEVEL": "ERROR", **collector.env}
    collect_path = ["tickgraph scheduler: send collect", "tickgraph worker: collect"]
    async with _run_ingest(env, "schedule"), _run_ingest(env, "work"):
        # Waits for the second minute: in the minute of its start, the worker sends itself the messages.
        await wait_until(lambda: db.fetchval("SELECT count(DISTINCT ts) > 1 FROM price"), timeout_s=200)
    fetch_paths = [
        collector.path(span) for span in collector.spans if span.service == "tickgraph worker" and span.name == "GET"
    ]
    assert [*collect_path, "tickgraph worker: GET"] in fetch_paths
    assert any(path[:2] == collect_path for path in collector.paths("INSERT INTO price"))


async def test_a_fetch_request_is_traced_into_the_worker(
    dsn: str, db: Database, redis_url: str, rpc_url: str, tmp_path: Path, collector: Collector
) -> None:
    env: dict[str, Any] = {"REDIS_URL": redis_url, "DERIBIT_RPC_URL": rpc_url, **collector.env}
    await track(db, "btc_usd")
    async with run_api_process(dsn, tmp_path, **env) as stand:
        receipt = await Api(stand.url, stand.session).data("mutation { fetchPrices { queued } }")
        assert receipt == {"fetchPrices": {"queued": True}}
        async with _run_ingest({"DATABASE_URL": dsn, "LOG_LEVEL": "ERROR", **env}, "work"):
            await wait_until(lambda: db.fetchval("SELECT count(*) > 0 FROM price"))
    expected_path = ["tickgraph api: POST /graphql", "tickgraph api: Mutation.fetchPrices", "tickgraph worker: collect"]
    assert any(collector.path(span)[:3] == expected_path for span in collector.spans)


async def test_without_tracing_settings_opentelemetry_is_not_loaded() -> None:
    # Only its API may be loaded: redis-py imports it.
    modules = "{'opentelemetry.instrumentation', 'opentelemetry.sdk.trace'}"
    program = f"import sys, graph.app, ingest.actors; print(sorted({modules} & set(sys.modules)))"
    env = os.environ | {"DATABASE_URL": "postgresql://a/b", "REDIS_URL": "redis://a"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
