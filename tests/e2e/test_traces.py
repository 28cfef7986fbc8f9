"""Traces, as a collector gets them: one from a client's question to the SQL, one from the scheduler to the SQL of what came."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from db.pool import Database
from tests.conftest import ROOT
from tests.graph.conftest import Api
from tests.graph.stand import api_process
from tests.stored import MINUTE, row, store, track
from tests.waiting import until

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Span:
    """A span, by which service it was told."""

    service: str
    name: str
    trace: bytes
    id: bytes
    above: bytes
    statement: str


@dataclass
class Collector:
    """Takes spans by OTLP over HTTP."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in sent.resource_spans:
            service = {one.key: one.value.string_value for one in of_resource.resource.attributes}["service.name"]
            for one in [span for scope in of_resource.scope_spans for span in scope.spans]:
                said = {attribute.key: attribute.value.string_value for attribute in one.attributes}
                found = Span(
                    service,
                    one.name,
                    one.trace_id,
                    one.span_id,
                    one.parent_span_id,
                    " ".join(said.get("db.statement", "").split()),
                )
                self.spans.append(found)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")

    def path(self, span: Span) -> list[str]:
        """The names from the first span of a trace to this one."""
        above = {one.id: one for one in self.spans if one.trace == span.trace}
        names = [f"{span.service}: {span.name}"]
        while span.above:
            if span.above not in above:
                return []  # not told yet
            span = above[span.above]
            names.insert(0, f"{span.service}: {span.name}")
        return names

    def paths(self, statement: str) -> list[list[str]]:
        """Those of the SQL that has the words in it."""
        return [self.path(span) for span in self.spans if statement in span.statement]

    @property
    def env(self) -> dict[str, Any]:
        """What makes a process send its spans here: when it ends, at the latest."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "600000"}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@contextlib.asynccontextmanager
async def _running(env: dict[str, str], *words: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ingest", *words, cwd=ROOT, env=os.environ | env)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def test_a_question_is_traced_to_its_sql(dsn: str, db: Database, tmp_path: Path, collector: Collector) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE)])
    async with api_process(dsn, tmp_path, **collector.env) as stand:
        api = Api(stand.url, stand.session)
        await api.data('query Newest { latest(ticker: "btc_usd") { price } tickers { name } }')
    asked = ["tickgraph api: POST /graphql", "tickgraph api: Query.latest", "tickgraph api: SELECT"]
    assert asked in collector.paths("FROM price WHERE ticker = $1")
    assert not collector.paths("pg_notify"), "what the process asks all the time is no trace"


async def test_a_minute_is_traced_from_the_scheduler_to_its_sql(
    dsn: str, db: Database, redis_url: str, rpc_url: str, tmp_path: Path, collector: Collector
) -> None:
    env = {"DATABASE_URL": dsn, "REDIS_URL": redis_url, "DERIBIT_RPC_URL": rpc_url, "LOG_LEVEL": "ERROR", **collector.env}
    async with _running(env, "schedule"), _running(env, "work"):
        # Not by the worker's own first messages, which are of the minute in which it starts.
        started = int(time.time()) // 60 * 60
        await until(lambda: db.fetchval("SELECT count(*) > 0 FROM price WHERE ts > $1", started), patience_s=100)
    collected = ["tickgraph scheduler: send collect", "tickgraph worker: collect"]
    asked = [collector.path(span) for span in collector.spans if span.service == "tickgraph worker" and span.name == "GET"]
    assert [*collected, "tickgraph worker: GET"] in asked
    assert any(path[:2] == collected for path in collector.paths("INSERT INTO price"))


async def test_a_wish_is_traced_into_the_worker(
    dsn: str, db: Database, redis_url: str, rpc_url: str, tmp_path: Path, collector: Collector
) -> None:
    env: dict[str, Any] = {"REDIS_URL": redis_url, "DERIBIT_RPC_URL": rpc_url, **collector.env}
    await track(db, "btc_usd")
    async with api_process(dsn, tmp_path, **env) as stand:
        receipt = await Api(stand.url, stand.session).data("mutation { fetchPrices { queued } }")
        assert receipt == {"fetchPrices": {"queued": True}}
        async with _running({"DATABASE_URL": dsn, "LOG_LEVEL": "ERROR", **env}, "work"):
            await until(lambda: db.fetchval("SELECT count(*) > 0 FROM price"))
    wished = ["tickgraph api: POST /graphql", "tickgraph api: Mutation.fetchPrices", "tickgraph worker: collect"]
    assert any(collector.path(span)[:3] == wished for span in collector.spans)


async def test_without_a_word_of_it_nothing_of_opentelemetry_is_loaded() -> None:
    # Its interface alone may be: redis-py looks for it.
    heavy = "{'opentelemetry.instrumentation', 'opentelemetry.sdk.trace'}"
    look = f"import sys, graph.app, ingest.actors; print(sorted({heavy} & set(sys.modules)))"
    env = os.environ | {"DATABASE_URL": "postgresql://a/b", "REDIS_URL": "redis://a"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", look), cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
