"""The simulated exchange, controlled over HTTP while it runs."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from ingest.simulator import market
from ingest.simulator.faults import FAULTS
from ingest.simulator.server import Simulator
from ingest.simulator.stream import STREAM_FAULTS
from tests.sample_data import START_TS


@pytest.mark.parametrize("window", list(market.STEPS_S))
def test_a_chart_is_averages_at_its_steps_and_ends_now(window: str) -> None:
    points = market.chart("btc_usd", window, START_TS + 7)
    step_ms = market.STEPS_S[window] * 1000
    assert {b[0] - a[0] for a, b in pairwise(points)} == {step_ms}
    assert points[-1][0] + step_ms <= (START_TS + 7) * 1000 < points[-1][0] + 2 * step_ms
    assert points[0][0] >= (START_TS + 7 - market.REACH_S[window]) * 1000


async def test_the_simulator_is_controlled_over_http(rpc_url: str, simulator: Simulator) -> None:
    root = rpc_url.removesuffix("/api/v2")
    async with aiohttp.ClientSession() as session:
        await session.put(f"{root}/control/clock", json={"at": START_TS, "stands": True})
        await session.post(f"{root}/control/faults", json={"name": "http_503", "index": "btc_usd", "times": 1})
        async with session.get(f"{rpc_url}/public/get_index_price?index_name=btc_usd") as response:
            assert response.status == 503
        async with session.get(f"{rpc_url}/public/get_index_price?index_name=btc_usd") as response:
            payload = await response.json()
        assert payload["usOut"] == START_TS * 10**6
        assert str(payload["result"]["index_price"]) == str(market.price("btc_usd", START_TS))
        async with session.get(f"{root}/control/served") as response:
            assert [one["us_out"] for one in await response.json()] == [START_TS * 10**6]
        async with session.post(f"{root}/control/faults", json={"name": "earthquake"}) as response:
            assert response.status == 400
            assert "use one of" in await response.text()
        async with session.get(f"{root}/control") as response:
            assert (await response.json())["known_faults"] == sorted([*FAULTS, *STREAM_FAULTS])


@pytest.mark.parametrize(
    ("call", "check"),
    [
        ("get_time", lambda result: result == START_TS * 1000),
        ("status", lambda result: result == {"locked": "false"}),
        ("get_index_price_names", lambda result: "btc_usd" in result),
        ("get_supported_index_names", lambda result: "btc_usd" in result),
        ("get_delivery_prices?index_name=btc_usd&count=3", lambda result: len(result["data"]) == 3),
        ("get_index_chart_data?index_name=btc_usd&range=1h", lambda result: len(result) == 600),
    ],
)
async def test_each_method_responds_with_the_real_envelope(
    rpc_url: str, simulator: Simulator, call: str, check: Callable[[Any], bool]
) -> None:
    simulator.clock.set(at=START_TS, stands=True)
    async with aiohttp.ClientSession() as session, session.get(f"{rpc_url}/public/{call}") as response:
        payload = await response.json()
    assert {"jsonrpc", "result", "usIn", "usOut", "usDiff", "testnet"} == set(payload)
    assert check(payload["result"])
