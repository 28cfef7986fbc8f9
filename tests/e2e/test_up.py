"""`make up`: from nothing to prices, and to nothing again, however it ends."""

import asyncio
import os
import re
import shutil
import signal
import socket
from typing import Any

import aiohttp
import pytest

from ingest.simulator.server import Simulator
from tests.e2e.conftest import Run, Start, free_port
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

OLDEST = '{ prices(ticker: "btc_usd", order: OLDEST_FIRST, first: 1) { nodes { ts price observedAt } } }'
LATEST = '{ latest(ticker: "btc_usd") { price ts observedAt } }'


async def _ask(run: Run, query: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{run.url}/graphql", json={"query": query}) as response,
    ):
        data: dict[str, Any] = (await response.json())["data"]
        return data


async def _until_prices(run: Run) -> None:
    def told() -> bool:
        return set(re.findall(r"^  (\w+) +[\d.]+  ....-..-..T..:..:..Z", run.said, re.MULTILINE)) == {"btc_usd", "eth_usd"}

    await until(told, otherwise=lambda: run.said)


async def test_up_tells_where_things_are_and_the_price_is_what_the_exchange_served(up: Start, simulator: Simulator) -> None:
    async with up() as run:
        await _until_prices(run)
        for line in (
            f"GraphiQL   {run.url}/graphql",
            f"GraphQL    {run.url}/graphql",
            "PostgreSQL psql postgresql://",
            "data  ",
        ):
            assert line in run.said, run.said
        latest = (await _ask(run, LATEST))["latest"]
        assert latest["price"] in {one.price for one in simulator.served if one.ticker == "btc_usd"}
        oldest = await _ask(run, OLDEST)
        assert oldest["prices"]["nodes"]
        assert "Traceback" not in run.said

        os.kill(run.pid_of("graph serve"), signal.SIGKILL)
        await until(lambda: run.said.count("Uvicorn running") == 2, otherwise=lambda: run.said)
        assert await _ask(run, OLDEST) == oldest, "a dead process is started again"
        os.kill(run.pid_of("ingest work"), signal.SIGTERM)
        await until(lambda: run.said.count("Worker process is ready") == 2, otherwise=lambda: run.said)

        run.process.send_signal(signal.SIGTERM)
        await run.until_gone()
        assert "Traceback" not in run.said, run.said
    async with up() as run:
        await _until_prices(run)
        assert await _ask(run, OLDEST) == oldest, "data survives a restart"
        run.ctrl_c()
        await run.until_gone()
        assert "Traceback" not in run.said, run.said


@pytest.mark.slow
async def test_killed_from_above_it_leaves_no_process_and_starts_again_by_itself(up: Start) -> None:
    async with up() as run:
        await _until_prices(run)
        run.process.send_signal(signal.SIGKILL)
        async with up() as again:
            await run.until_gone()
            await _until_prices(again)
            os.kill(again.pid_of("db with-servers"), signal.SIGKILL)
            await again.until_gone()


async def test_what_is_in_the_way_is_one_line_that_names_the_setting(up: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with up(port=port) as run:
            assert await run.process.wait() != 0
            assert (
                f"PORT={port} on HOST=127.0.0.1 cannot be used: Address already in use. Set PORT or HOST to another value.\n"
                in run.said
            )
            assert "Traceback" not in run.said
    async with up(TICKERS="btc_usd,Not A Name") as run:
        assert await run.process.wait() != 0
        assert "TICKERS: " in run.said
        assert "Traceback" not in run.said
    async with up() as first:
        await first.until_said("Tickgraph is up")
        async with up(port=free_port()) as second:
            assert await second.process.wait() != 0
            assert "is in use by process" in second.said
            assert "DATA_DIR=" in second.said
            assert "Traceback" not in second.said
        assert (await _ask(first, "{ tickers { name } }"))["tickers"], "the first one goes on"


async def test_without_an_exchange_it_says_so_and_stays(up: Start) -> None:
    async with up(DERIBIT_RPC_URL="http://127.0.0.1:1/api/v2") as run:
        await run.until_said("no connection to DERIBIT_RPC_URL=http://127.0.0.1:1/api/v2")
        await run.until_said("Tickgraph is up")
        assert (await _ask(run, LATEST))["latest"] is None
        assert "Traceback" not in run.said, run.said


async def test_demo_needs_no_network_and_keeps_data_of_its_own_and_tells_the_same_where_reading_needs_a_key(up: Start) -> None:
    async with up("demo", DERIBIT_RPC_URL="http://127.0.0.1:1", API_KEYS="0" * 64) as run:
        await _until_prices(run)
        assert "Traceback" not in run.said
        assert "/data/demo\n" in run.said
        run.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(run.process.wait(), PATIENCE_S)
        await run.until_gone()
