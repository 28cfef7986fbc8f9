"""The tools for agents, through the client of the official SDK."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import orjson
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from db.pool import Database
from graph.settings import Settings
from tests.conftest import ROOT
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

WINDOW = {"ticker": "btc_usd", "start": "2024-01-15T11:40:00Z", "end": str(START_TS + 600)}


@asynccontextmanager
async def _agent(url: str, *options: str) -> AsyncIterator[ClientSession]:
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "graph", "mcp", "--url", url, *options], cwd=ROOT)
    async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as session:
        await session.initialize()
        yield session


async def _call(session: ClientSession, tool: str, **arguments: Any) -> Any:
    result = await session.call_tool(tool, arguments)
    (content,) = result.content
    assert content.type == "text"
    if result.is_error:
        return f"error: {content.text}"
    return orjson.loads(content.text)


@pytest.fixture
async def agent(api: Api, db: Database) -> AsyncIterator[ClientSession]:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i, f"6824{i}.5") for i in range(8)])
    async with _agent(api.url) as session:
        yield session


async def test_each_tool_returns_what_the_api_returns(agent: ClientSession, api: Api) -> None:
    tools = (await agent.list_tools()).tools
    assert [tool.name for tool in tools] == ["tickers", "latest", "range", "candles", "coverage", "touched"]
    assert all(tool.description and tool.annotations and tool.annotations.read_only_hint for tool in tools)
    window = f'ticker: "btc_usd", from: {START_TS}, to: {START_TS + 600}'
    assert [one["name"] for one in await _call(agent, "tickers")] == ["btc_usd", "eth_usd"]
    (newest,) = await _call(agent, "latest", tickers=["btc_usd"])
    assert newest == (await api.data('{ latest(ticker: "btc_usd") { ticker ts price observedAt source } }'))["latest"]
    assert await _call(agent, "range", **WINDOW) == (await api.data(f"{{ series({window}) {{ ts price }} }}"))["series"]
    assert (await _call(agent, "range", **WINDOW, max_points=4))["ts"] == [START_TS, START_TS + 420]
    found = await _call(agent, "candles", **WINDOW, interval="FIVE_MINUTES")
    assert [one["close"] for one in found] == ["68244.5", "68247.5"]
    found = await _call(agent, "coverage", **WINDOW)
    assert (found["stored"], found["gaps"]["nodes"]) == (8, [])
    found = await _call(agent, "touched", **WINDOW, price="68243")
    assert (found["state"], found["ts"]) == ("NOT_KNOWN", START_TS + 180)  # its minute has no ticks


async def test_an_agent_is_told_what_is_wrong(agent: ClientSession) -> None:
    assert "nobody_usd" in await _call(agent, "latest", tickers=["nobody_usd"])
    assert "is not a valid time" in await _call(agent, "range", ticker="btc_usd", start="yesterday")
    assert "IANA" in await _call(agent, "candles", **WINDOW, interval="ONE_DAY", time_zone="Moon")
    assert "max_points" in await _call(agent, "range", **WINDOW, max_points=1_000_000)
    year = {"ticker": "btc_usd", "interval": "ONE_MINUTE", "start": "2020-01-01", "end": "2021-01-01"}
    assert "maximum is 10000" in await _call(agent, "candles", **year)
    assert [one["name"] for one in await _call(agent, "tickers")] == ["btc_usd", "eth_usd"]  # the session goes on


@pytest.mark.slow
async def test_an_api_that_needs_a_key_gets_it(dsn: str) -> None:
    key = "k" * 40
    async with run_api(Settings(database_url=dsn, api_keys=(sha256(key.encode()).hexdigest(),))) as api:
        async with _agent(api.url, "--key", key) as session:
            assert await _call(session, "tickers") == []
        async with _agent(api.url) as session:
            assert "key" in await _call(session, "tickers")
    async with _agent(api.url) as session:
        assert "Cannot connect" in await _call(session, "tickers")
