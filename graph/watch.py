"""Shows each stored price, or each tick, in the terminal, over the public subscriptions: `python -m graph watch`."""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from db import times
from db.runtime import embedded_lookup
from graph.settings import Settings

PRICE_SUBSCRIPTION: Final = """
subscription ($tickers: [String!], $after: ID) {
  priceAdded(tickers: $tickers, after: $after) { id ticker ts price source }
}
"""
TICK_SUBSCRIPTION: Final = """
subscription ($tickers: [String!]) {
  tickUpdated(tickers: $tickers) { ticker at price }
}
"""
TICKERS_QUERY: Final = "query { tickers { name tracked latest { id ts price } } }"
TICKER_QUERY: Final = """
query ($ticker: String!, $day: UnixTime!) {
  prices(ticker: $ticker, first: 30) { nodes { price } }
  dayStart: prices(ticker: $ticker, from: $day, order: OLDEST_FIRST, first: 1) { nodes { price } }
  coverage(ticker: $ticker, from: $day) { missing }
}
"""
BLOCKS: Final = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH: Final = 30
RETRY_DELAYS_S: Final = (0.5, 1, 2, 5)
STALE_AFTER_S: Final = 180
REFRESH_INTERVAL_S: Final = 300


class WatchError(Exception):
    """Raised when the API returns an error; contains the API's message."""


def sparkline(prices: Sequence[float]) -> str:
    """Returns a line of block characters, one for each price."""
    low, high = min(prices, default=0.0), max(prices, default=0.0)
    span = (high - low) or 1.0
    return "".join(BLOCKS[int((price - low) / span * (len(BLOCKS) - 1))] for price in prices)


@dataclass
class TickerRow:
    """The data of one ticker in the table."""

    ts: int | None = None
    price: str = ""
    day_start_price: float | None = None
    missing: int | None = None  # minutes of the last 24 hours
    sparkline_prices: deque[float] = field(default_factory=lambda: deque(maxlen=SPARKLINE_WIDTH))

    def add(self, ts: int, price: str) -> None:
        """Adds a stored price. Ignores a price that is not newer than the last one."""
        if self.ts is None or ts > self.ts:
            self.ts, self.price = ts, price
            self.sparkline_prices.append(float(price))


def parse_base_url(url: str) -> str:
    """Returns the base URL of an API. The scheme and a trailing `/` or `/graphql` are optional in `url`."""
    url = url.strip().rstrip("/").removesuffix("/graphql").rstrip("/")
    return url if "://" in url else f"http://{url}"


class WatchClient:
    """A client of the API's queries and subscription."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self._session = session
        self._url = f"{parse_base_url(url)}/graphql"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.state = "connecting"

    async def execute(self, query: str, **variables: Any) -> Any:
        """Executes a query. Returns its data.

        Raises WatchError if the API returns an error, aiohttp.ClientError if it does not respond.
        """
        body = {"query": query, "variables": variables}
        async with self._session.post(self._url, json=body, headers=self._headers) as response:
            result = await response.json(content_type=None)
        if not isinstance(result, dict) or not {"data", "errors"} & result.keys():
            raise WatchError(f"{self._url} is not a Tickgraph API (HTTP {response.status}). Check --url")
        if "errors" in result:
            raise WatchError(result["errors"][0]["message"])
        return result["data"]

    def prices(self, tickers: Sequence[str] | None, after: str | None) -> AsyncIterator[dict[str, Any]]:
        """Yields each stored price. After a lost connection, reconnects and resumes after the last price. Raises WatchError."""
        return self._events(PRICE_SUBSCRIPTION, {"tickers": tickers, "after": after})

    def ticks(self, tickers: Sequence[str] | None) -> AsyncIterator[dict[str, Any]]:
        """Yields the newest ticks. Reconnects after a lost connection; ticks have no resume. Raises WatchError."""
        return self._events(TICK_SUBSCRIPTION, {"tickers": tickers})

    async def _events(self, subscription: str, variables: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        attempt = 0
        while True:
            try:
                async with aclosing(self._stream_events(subscription, variables)) as events:
                    async for event in events:
                        self.state, attempt = "live", 0
                        if "after" in variables:
                            variables = variables | {"after": event["id"]}
                        yield event
                self.state = "connecting"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.state = f"offline: {error or type(error).__name__}"
            await asyncio.sleep(RETRY_DELAYS_S[min(attempt, len(RETRY_DELAYS_S) - 1)])
            attempt += 1

    async def _stream_events(self, subscription: str, variables: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        body = {"query": subscription, "variables": variables}
        headers = self._headers | {"Accept": "text/event-stream"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=30)  # the API sends a keepalive within 12 s
        async with self._session.post(self._url, json=body, headers=headers, timeout=timeout) as response:
            if response.status >= 500:  # noqa: PLR2004  a server error may be temporary
                raise aiohttp.ClientError(f"HTTP {response.status}")
            if response.content_type != "text/event-stream":
                result = await response.json(content_type=None)
                if not isinstance(result, dict) or "errors" not in result:
                    raise WatchError(f"{self._url} is not a Tickgraph API (HTTP {response.status}). Check --url")
                raise WatchError(result["errors"][0]["message"])
            self.state = "live"
            async for line in response.content:
                if line.startswith(b"data: "):
                    result = orjson.loads(line[6:])
                    if "errors" in result:
                        raise WatchError(result["errors"][0]["message"])
                    (event,) = result["data"].values()
                    yield event


async def print_lines(events: AsyncIterator[dict[str, Any]], *, as_json: bool) -> None:
    """Prints each price or tick as a JSON line, or as a line of text."""
    async for event in events:
        if as_json:
            line = orjson.dumps(event).decode()
        else:
            at = event["at"] if "at" in event else times.iso(event["ts"])
            line = f"{at}  {event['ticker']:<20}{event['price']:>16}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


async def show_table(client: WatchClient, tickers: Sequence[str]) -> None:
    """Shows a table and updates it with each price."""
    all_tickers = (await client.execute(TICKERS_QUERY))["tickers"]
    selected = (
        [ticker for ticker in all_tickers if ticker["name"] in tickers]
        if tickers
        else [ticker for ticker in all_tickers if ticker["tracked"]]
    )
    ticker_rows = {name: TickerRow() for name in tickers or [ticker["name"] for ticker in selected]}
    for name, ticker_row in ticker_rows.items():
        await _load_last_day(client, name, ticker_row)
    for ticker in selected:
        if ticker["latest"] is not None:
            ticker_rows[ticker["name"]].ts, ticker_rows[ticker["name"]].price = (
                ticker["latest"]["ts"],
                ticker["latest"]["price"],
            )
    after = max((int(ticker["latest"]["id"]) for ticker in selected if ticker["latest"]), default=None)
    with Live(_table(ticker_rows, client.state), console=Console(), refresh_per_second=4) as live:

        async def refresh_table() -> None:
            read_at = time.monotonic()
            while True:
                live.update(_table(ticker_rows, client.state))
                await asyncio.sleep(0.5)
                if time.monotonic() - read_at > REFRESH_INTERVAL_S:
                    read_at = time.monotonic()
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, WatchError):
                        for name, ticker_row in ticker_rows.items():
                            await _load_last_day(client, name, ticker_row)

        refresh_task = asyncio.create_task(refresh_table())
        try:
            async for event in client.prices(tickers or None, None if after is None else str(after)):
                ticker_rows.setdefault(event["ticker"], TickerRow()).add(event["ts"], event["price"])
        finally:
            refresh_task.cancel()


async def _load_last_day(client: WatchClient, name: str, ticker_row: TickerRow) -> None:
    data = await client.execute(TICKER_QUERY, ticker=name, day=int(time.time()) - 86_400)
    ticker_row.sparkline_prices.clear()
    ticker_row.sparkline_prices.extend(float(node["price"]) for node in data["prices"]["nodes"][::-1])
    ticker_row.day_start_price = next((float(node["price"]) for node in data["dayStart"]["nodes"]), None)
    ticker_row.missing = data["coverage"]["missing"]


def _table(ticker_rows: dict[str, TickerRow], state: str) -> Table:
    table = Table(caption=state, caption_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("ticker", style="bold", no_wrap=True)
    table.add_column("price", justify="right", no_wrap=True)
    table.add_column("24 h", justify="right", no_wrap=True)
    table.add_column("last prices", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("missing, 24 h", justify="right", no_wrap=True)
    for name, ticker_row in ticker_rows.items():
        age = None if ticker_row.ts is None else int(time.time()) - ticker_row.ts
        change = Text("")
        if ticker_row.day_start_price and ticker_row.price:
            percent = 100 * (float(ticker_row.price) / ticker_row.day_start_price - 1)
            change = Text(f"{percent:+.2f} %", style="green" if percent > 0 else "red" if percent < 0 else "")
        table.add_row(
            name,
            ticker_row.price or "no price yet",
            change,
            sparkline(ticker_row.sparkline_prices),
            Text("" if age is None else f"{age} s", style="yellow" if age is not None and age > STALE_AFTER_S else ""),
            Text(f"{ticker_row.missing or 0} min", style="yellow" if ticker_row.missing else "dim"),
        )
    return table


def default_url() -> str:
    """Returns the URL of the API of a running `make up`, or else of this machine and PORT."""
    settings = Settings.read()
    return embedded_lookup.api_url(settings) or settings.url


def run(options: argparse.Namespace) -> int:
    """`watch`."""
    try:
        return asyncio.run(watch(options.url or default_url(), options))
    except KeyboardInterrupt:
        return 0


async def watch(url: str, options: argparse.Namespace) -> int:
    """Shows prices or ticks until it is interrupted or the API returns an error. Returns an exit status."""
    async with aiohttp.ClientSession() as session:
        client = WatchClient(session, url, options.key)
        try:
            if sys.stdout.isatty() and not options.json and not options.ticks and options.after is None:
                await show_table(client, options.tickers)
            else:
                if not options.json:
                    await client.execute(TICKERS_QUERY)  # fails at once without an API; print_lines would retry
                if sys.stdout.isatty():
                    sys.stderr.write(f"waiting for the next {'tick' if options.ticks else 'price'}\n")
                tickers = options.tickers or None
                events = client.ticks(tickers) if options.ticks else client.prices(tickers, options.after)
                await print_lines(events, as_json=options.json)
        except WatchError as error:
            sys.stderr.write(f"{error}\n")
        except aiohttp.ClientError as error:
            sys.stderr.write(f"{url}: {error}. Is the API running?\n")
    return 1
