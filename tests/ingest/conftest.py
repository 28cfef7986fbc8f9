"""Fixtures: an exchange client connected to the test's own simulator, and an empty outbox."""

from collections.abc import AsyncIterator

import pytest

from ingest.deribit.client import Deribit, open_deribit
from ingest.jobs.reconcile import JOB_TIMEOUTS_S
from ingest.outbox import Outbox, open_outbox
from ingest.settings import Settings


@pytest.fixture
async def deribit(rpc_url: str) -> AsyncIterator[Deribit]:
    """A client that waits for each response, however slow the machine is."""
    async with open_deribit(Settings(deribit_rpc_url=rpc_url, http_timeout_seconds=50)) as client:
        yield client


@pytest.fixture
async def hasty_deribit(rpc_url: str) -> AsyncIterator[Deribit]:
    """A client for an exchange that does not respond: its calls time out after one second."""
    async with open_deribit(Settings(deribit_rpc_url=rpc_url, http_timeout_seconds=1)) as client:
        yield client


@pytest.fixture(autouse=True)
def _wait_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each job of a minute more time, so that a slow machine fails no test."""
    monkeypatch.setattr("ingest.jobs.reconcile.JOB_TIMEOUTS_S", dict.fromkeys(JOB_TIMEOUTS_S, 300.0))


@pytest.fixture
async def outbox(redis_url: str) -> AsyncIterator[Outbox]:
    async with open_outbox(redis_url, max_prices=10_000) as opened:
        yield opened
