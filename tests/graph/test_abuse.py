"""Sends every probe to one API process: each has its expected outcome, and no other client is affected."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from db.pool import Database
from tests.graph.api_server import ApiProcess, run_api_process, send_http_probe, send_probe
from tests.graph.conftest import Api
from tests.graph.probes import BODIES, DOCUMENTS, PROBES, HttpProbe
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S

MAX_MEMORY_MB = 200


@pytest.fixture
async def server(dsn: str, db: Database, tmp_path: Path) -> AsyncIterator[ApiProcess]:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    async with run_api_process(dsn, tmp_path, REQUEST_TIMEOUT_S="2") as process:
        yield process


async def test_every_probe_has_its_expected_outcome_and_affects_no_other_client(server: ApiProcess) -> None:
    watch_task = asyncio.create_task(server.watch())
    mismatches: dict[str, str] = {}
    for name, probe in PROBES.items():
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            actual = await send_probe(server, probe)
        if actual not in probe.expected.split("|"):
            mismatches[name] = f"{actual[:200]} instead of {probe.expected}"
        if watch_task.done():
            break
    watch_task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch_task
    assert mismatches == {}
    assert len(PROBES) >= 120
    assert server.log.read_text() == "", "client errors are not logged as errors of the server"
    assert server.failures == []
    assert len(server.latencies_s) > len(PROBES) / 4, "the well-behaved client was slowed down"
    assert server.peak_memory_mb < MAX_MEMORY_MB
    print(
        f"{len(PROBES)} probes, {server.peak_memory_mb:.0f} MB, {len(server.latencies_s)} responses, "
        f"slowest {max(server.latencies_s):.2f} s"
    )


async def test_rejected_requests_run_no_sql(api: Api, db: Database, work_log: list[str]) -> None:
    await track(db, "btc_usd")
    codes = set()
    for name, probe in (DOCUMENTS | BODIES).items():
        assert isinstance(probe, HttpProbe)
        work_log.clear()
        code = await send_http_probe(api, probe)
        codes.add(code)
        if code in ("GRAPHQL_PARSE_FAILED", "QUERY_TOO_COMPLEX", "BAD_REQUEST", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"):
            assert work_log == [], f"{name}: {code}"
        elif code in ("GRAPHQL_VALIDATION_FAILED", "RANGE_TOO_LARGE", "BAD_USER_INPUT"):
            assert set(work_log) <= {"validation"}, f"{name}: {code}"
    assert len(codes) > 8
