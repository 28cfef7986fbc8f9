"""The exchange client against the test's own simulator."""

from collections.abc import AsyncIterator

import pytest

from ingest.deribit.client import Deribit, open_deribit
from ingest.settings import Settings


@pytest.fixture
async def deribit(rpc_url: str) -> AsyncIterator[Deribit]:
    """Impatient: a call that hangs ends after half a second."""
    settings = Settings(deribit_rpc_url=rpc_url, http_timeout_seconds=0.5)
    async with open_deribit(settings) as client:
        yield client
