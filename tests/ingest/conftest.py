"""Fixtures: an exchange client connected to the test's own simulator, and an empty outbox."""

from collections.abc import AsyncIterator

import pytest

from ingest.deribit.client import Deribit, open_deribit
from ingest.outbox import Outbox, open_outbox
from ingest.settings import Settings


@pytest.fixture
async def deribit(rpc_url: str) -> AsyncIterator[Deribit]:
    """A client whose calls time out after one second."""
    settings = Settings(deribit_rpc_url=rpc_url, http_timeout_seconds=1)
    async with open_deribit(settings) as client:
        yield client


@pytest.fixture
async def outbox(redis_url: str) -> AsyncIterator[Outbox]:
    async with open_outbox(redis_url, max_prices=10_000) as opened:
        yield opened
