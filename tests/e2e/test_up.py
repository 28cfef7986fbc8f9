"""`make up` starts everything from nothing and leaves no process, however it ends."""

import asyncio
import os
import re
import shutil
import signal
import socket
from typing import Any

import aiohttp
import pytest

from db.runtime.embedded import free_port
from ingest.simulator.server import Simulator
from tests.e2e.conftest import MakeProcess, RunMake
from tests.wait import WAIT_TIMEOUT_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")]

OLDEST = '{ prices(ticker: "btc_usd", order: OLDEST_FIRST, first: 1) { nodes { ts price observedAt } } }'
LATEST = '{ latest(ticker: "btc_usd") { price ts observedAt } }'


async def _execute(run: MakeProcess, query: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{run.url}/graphql", json={"query": query}) as response,
    ):
        data: dict[str, Any] = (await response.json())["data"]
        return data


async def _wait_for_prices(run: MakeProcess) -> None:
    def has_prices() -> bool:
        return set(re.findall(r"^  (\w+) +[\d.]+  ....-..-..T..:..:..Z", run.output, re.MULTILINE)) == {"btc_usd", "eth_usd"}

    await wait_until(has_prices, describe_state=lambda: run.output)


async def test_up_prints_its_urls_and_serves_the_price_of_the_exchange(run_make: RunMake, simulator: Simulator) -> None:
    async with run_make() as run:
        await _wait_for_prices(run)
        for line in (
            f"GraphiQL   {run.url}/graphql",
            f"GraphQL    {run.url}/graphql",
            "PostgreSQL psql postgresql://",
            "data  ",
        ):
            assert line in run.output, run.output
        latest = (await _execute(run, LATEST))["latest"]
        assert latest["price"] in {one.price for one in simulator.served if one.ticker == "btc_usd"}
        oldest = await _execute(run, OLDEST)
        assert oldest["prices"]["nodes"]
        assert "Traceback" not in run.output

        os.kill(run.pid_of("graph serve"), signal.SIGKILL)
        await wait_until(lambda: run.output.count("Uvicorn running") == 2, describe_state=lambda: run.output)
        assert await _execute(run, OLDEST) == oldest, "a dead process is restarted"
        os.kill(run.pid_of("ingest work"), signal.SIGTERM)
        await wait_until(lambda: run.output.count("Worker process is ready") == 2, describe_state=lambda: run.output)

        run.process.send_signal(signal.SIGTERM)
        await run.wait_until_ended()
        assert "Traceback" not in run.output, run.output
    async with run_make() as run:
        await _wait_for_prices(run)
        assert await _execute(run, OLDEST) == oldest, "data survives a restart"
        run.ctrl_c()
        await run.wait_until_ended()
        assert "Traceback" not in run.output, run.output


@pytest.mark.slow
async def test_after_a_kill_no_process_is_left_and_the_next_start_succeeds(run_make: RunMake) -> None:
    async with run_make() as run:
        await _wait_for_prices(run)
        run.process.send_signal(signal.SIGKILL)
        await run.wait_until_ended()  # until then, the data folder is in use
        async with run_make() as second_run:
            await _wait_for_prices(second_run)
            os.kill(second_run.pid_of("db with-servers"), signal.SIGKILL)
            await second_run.wait_until_ended()


async def test_a_conflict_is_reported_in_one_line_that_names_the_setting(run_make: RunMake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        async with run_make(port=port) as run:
            assert await run.process.wait() != 0
            assert (
                f"PORT={port} on HOST=127.0.0.1 cannot be used: Address already in use. Set PORT or HOST to another value.\n"
                in run.output
            )
            assert "Traceback" not in run.output
    async with run_make(TICKERS="btc_usd,Not A Name") as run:
        assert await run.process.wait() != 0
        assert "TICKERS: " in run.output
        assert "Traceback" not in run.output
    async with run_make() as first:
        await first.wait_for_output("Tickgraph is up")
        async with run_make(port=free_port()) as second:
            assert await second.process.wait() != 0
            assert "is in use by process" in second.output
            assert "DATA_DIR=" in second.output
            assert "Traceback" not in second.output
        assert (await _execute(first, "{ tickers { name } }"))["tickers"], "the first instance keeps running"


async def test_without_an_exchange_up_reports_it_and_keeps_running(run_make: RunMake) -> None:
    async with run_make(DERIBIT_RPC_URL="http://127.0.0.1:1/api/v2") as run:
        await run.wait_for_output("no connection to DERIBIT_RPC_URL=http://127.0.0.1:1/api/v2")
        await run.wait_for_output("Tickgraph is up")
        assert (await _execute(run, LATEST))["latest"] is None
        assert "Traceback" not in run.output, run.output


async def test_the_demo_needs_no_network_uses_its_own_data_and_works_with_api_keys(run_make: RunMake) -> None:
    async with run_make("demo", DERIBIT_RPC_URL="http://127.0.0.1:1", API_KEYS="0" * 64) as run:
        await _wait_for_prices(run)
        assert "Traceback" not in run.output
        assert "/data/demo\n" in run.output
        run.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(run.process.wait(), WAIT_TIMEOUT_S)
        await run.wait_until_ended()
