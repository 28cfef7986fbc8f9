"""A Model Context Protocol server for agents, on standard input and output: `python -m graph mcp`.

Each tool sends one query to the API, whose limits, keys and messages apply. Only this module imports the package `mcp`.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import sys
from decimal import Decimal
from typing import Annotated, Any, Literal

import aiohttp
import orjson
from pydantic import Field

from db.queries.candles import Interval
from graph.watch import WatchClient, WatchError, default_url

INSTRUCTIONS = """Deribit's index prices, one per minute, from an archive that states what it lacks. Prices are decimal strings.
Times are UNIX seconds, or ISO 8601 in requests (UTC without an offset). A missing minute is missing: never interpolate it."""

TICKERS = "{ tickers { name tracked since latest { ts price } stale } }"
LATEST = "query ($tickers: [String!]) { latestPrices(tickers: $tickers) { ticker ts price observedAt source } }"
RANGE = """query ($ticker: String!, $from: UnixTime!, $to: UnixTime, $most: Int!) {
  series(ticker: $ticker, from: $from, to: $to, maxPoints: $most) { ts price } }"""
CANDLES = """query ($ticker: String!, $interval: Interval!, $from: UnixTime!, $to: UnixTime, $zone: String!) {
  candles(ticker: $ticker, interval: $interval, from: $from, to: $to, timeZone: $zone, includeOpen: true) {
    ts end open high low close twap count expected complete } }"""
COVERAGE = """query ($ticker: String!, $from: UnixTime!, $to: UnixTime) {
  coverage(ticker: $ticker, from: $from, to: $to) {
    from to expected stored missing live backfilled imported gaps(first: 100) { nodes { from to minutes reason state } } } }"""
TOUCHED = """query ($ticker: String!, $price: Decimal!, $from: UnixTime!, $to: UnixTime) {
  touched(ticker: $ticker, price: $price, from: $from, to: $to) { state ts start unwatched until } }"""

Ticker = Annotated[str, Field(description="Deribit index name, like btc_usd")]
Start = Annotated[str, Field(description="start of the window, inclusive: ISO 8601 or UNIX seconds")]
End = Annotated[str | None, Field(description="end of the window, exclusive; default: now")]


class Tools:
    """The tools of the server. Each raises ToolError with the API's message."""

    def __init__(self, client: WatchClient) -> None:
        self._client = client

    async def tickers(self) -> str:
        """List all tickers: whether each is collected now, its newest price, and whether that is stale."""
        return await self._read(TICKERS)

    async def latest(self, tickers: Annotated[list[str] | None, Field(description="default: all tracked ones")] = None) -> str:
        """Return the newest price of each ticker."""
        return await self._read(LATEST, tickers=tickers)

    async def range(
        self, ticker: Ticker, start: Start, end: End = None, max_points: Annotated[int, Field(ge=4, le=2_000)] = 500
    ) -> str:
        """Return the prices of a window; if it has more than max_points, the lowest and highest of equal parts of it."""
        return await self._read(RANGE, ticker=ticker, **{"from": start, "to": end, "most": max_points})

    async def candles(
        self,
        ticker: Ticker,
        interval: Literal[tuple(Interval.__members__)],  # type: ignore[valid-type]  # the names of the enum
        start: Start,
        end: End = None,
        time_zone: Annotated[str, Field(description="IANA name; days, weeks and months begin in it")] = "UTC",
    ) -> str:
        """Return open, high, low, close and mean of each interval of a window, and how many of its minutes are stored."""
        window = {"from": start, "to": end}
        return await self._read(CANDLES, ticker=ticker, interval=interval, zone=time_zone, **window)

    async def coverage(self, ticker: Ticker, start: Start, end: End = None) -> str:
        """Return how many minutes of a window are stored, and its gaps with their reasons."""
        return await self._read(COVERAGE, ticker=ticker, **{"from": start, "to": end})

    async def touched(self, ticker: Ticker, price: Decimal, start: Start, end: End = None) -> str:
        """Return when the index first reached a price in a window of at most 366 days, and whether that is certain."""
        return await self._read(TOUCHED, ticker=ticker, price=f"{price:f}", **{"from": start, "to": end})

    async def _read(self, query: str, **variables: Any) -> str:
        from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415  optional, and large

        try:
            data = await self._client.execute(query, **variables)
        except (WatchError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ToolError(str(error) or type(error).__name__) from error  # other exceptions are hidden from the agent
        (result,) = data.values()
        return orjson.dumps(result).decode()


async def serve(url: str, key: str | None) -> None:
    """Serves the tools until standard input ends."""
    from mcp.server.mcpserver import MCPServer  # noqa: PLC0415  optional, and large
    from mcp.types import ToolAnnotations  # noqa: PLC0415

    server = MCPServer("tickgraph", instructions=INSTRUCTIONS)
    async with aiohttp.ClientSession() as session:
        tools = Tools(WatchClient(session, url, key))
        for tool in (tools.tickers, tools.latest, tools.range, tools.candles, tools.coverage, tools.touched):
            server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False), structured_output=False)(tool)
        await server.run_stdio_async()


def run(options: argparse.Namespace) -> int:
    """`mcp`."""
    if importlib.util.find_spec("mcp") is None:
        sys.stderr.write("the package mcp is not installed. Run: pip install --require-hashes -r requirements-mcp.lock\n")
        return 1
    url = options.url or default_url()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(url, options.key))
    return 0
