"""Everything of `probes`, against one API process: each is refused as it should be, and nobody else notices."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from db.pool import Database
from tests.graph.conftest import Api
from tests.graph.probes import BODIES, DOCUMENTS, PROBES, Http
from tests.graph.stand import Stand, api_process, outcome, over_http
from tests.stored import MINUTE, row, store, track
from tests.waiting import PATIENCE_S

MEMORY_MOST_MB = 200


@pytest.fixture
async def stand(dsn: str, db: Database, tmp_path: Path) -> AsyncIterator[Stand]:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE)])
    async with api_process(dsn, tmp_path, REQUEST_TIMEOUT_S="2") as running:
        yield running


async def test_nothing_that_strangers_try_does_more_than_it_should(stand: Stand) -> None:
    watching = asyncio.create_task(stand.watch())
    wrong: dict[str, str] = {}
    for name, probe in PROBES.items():
        async with asyncio.timeout(PATIENCE_S):
            found = await outcome(stand, probe)
        if found not in probe.wanted.split("|"):
            wrong[name] = f"{found[:200]} instead of {probe.wanted}"
        if watching.done():
            break
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert wrong == {}
    assert len(PROBES) >= 120
    assert stand.log.read_text() == "", "a stranger's mistakes are no errors of ours"
    assert stand.unanswered == []
    assert len(stand.answered) > len(PROBES) / 4, "the client of good will was kept waiting"
    assert stand.memory_mb < MEMORY_MOST_MB
    print(f"{len(PROBES)} probes, {stand.memory_mb:.0f} MB, {len(stand.answered)} answers, at most {max(stand.answered):.2f} s")


async def test_what_is_refused_is_refused_before_the_work_it_would_make(api: Api, db: Database, ran: list[str]) -> None:
    await track(db, "btc_usd")
    seen = set()
    for name, probe in (DOCUMENTS | BODIES).items():
        assert isinstance(probe, Http)
        ran.clear()
        code = await over_http(api, probe)
        seen.add(code)
        if code in ("GRAPHQL_PARSE_FAILED", "QUERY_TOO_COMPLEX", "BAD_REQUEST", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"):
            assert ran == [], f"{name}: {code}"
        elif code in ("GRAPHQL_VALIDATION_FAILED", "RANGE_TOO_LARGE", "BAD_USER_INPUT"):
            assert set(ran) <= {"validation"}, f"{name}: {code}"
    assert len(seen) > 8
