"""Prices in a terminal as they are stored, over the public subscription: `python -m graph watch`."""

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

ADDED: Final = """
subscription ($tickers: [String!], $after: ID) {
  priceAdded(tickers: $tickers, after: $after) { id ticker ts price source }
}
"""
NOW: Final = "query { tickers { name tracked latest { id ts price } } }"
OF_ONE: Final = """
query ($ticker: String!, $day: UnixTime!) {
  prices(ticker: $ticker, first: 60) { nodes { price } }
  before: prices(ticker: $ticker, from: $day, order: OLDEST_FIRST, first: 1) { nodes { price } }
  coverage(ticker: $ticker, from: $day) { missing }
}
"""
BLOCKS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 30
AGAIN_S: Final = (0.5, 1, 2, 5)
STALE_S: Final = 180
READ_AGAIN_S: Final = 300


class WatchError(Exception):
    """Raised when the API refused, with what it said."""


def sparkline(prices: Sequence[float]) -> str:
    """A line of blocks, as many as there are prices."""
    low, high = min(prices, default=0.0), max(prices, default=0.0)
    span = (high - low) or 1.0
    return "".join(BLOCKS[int((price - low) / span * (len(BLOCKS) - 1))] for price in prices)


@dataclass
class Seen:
    """What is known of a ticker."""

    ts: int | None = None
    price: str = ""
    day_before: float | None = None
    missing: int | None = None
    """Minutes of the last day."""
    line: deque[float] = field(default_factory=lambda: deque(maxlen=WIDTH))

    def add(self, ts: int, price: str) -> None:
        """A price that was stored; one of before what is shown is no news."""
        if self.ts is None or ts > self.ts:
            self.ts, self.price = ts, price
            self.line.append(float(price))


def base_of(url: str) -> str:
    """An API's address, with or without its scheme, a `/` or `/graphql` at its end."""
    url = url.strip().rstrip("/").removesuffix("/graphql").rstrip("/")
    return url if "://" in url else f"http://{url}"


class Watch:
    """A client of the API."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self._session = session
        self._url = f"{base_of(url)}/graphql"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.state = "connecting"

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer. Raises WatchError, or aiohttp.ClientError where there is none."""
        body = {"query": query, "variables": variables}
        async with self._session.post(self._url, json=body, headers=self._headers) as response:
            answer = await response.json()
        if "errors" in answer:
            raise WatchError(answer["errors"][0]["message"])
        return answer["data"]

    async def events(self, tickers: Sequence[str] | None, after: str | None) -> AsyncIterator[dict[str, Any]]:
        """Each price stored, for ever; a connection that is lost is made again where it was. Raises WatchError."""
        attempt = 0
        while True:
            try:
                async with aclosing(self._told(tickers, after)) as told:
                    async for event in told:
                        self.state, attempt, after = "live", 0, event["id"]
                        yield event
                self.state = "connecting"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.state = f"offline: {error or type(error).__name__}"
            await asyncio.sleep(AGAIN_S[min(attempt, len(AGAIN_S) - 1)])
            attempt += 1

    async def _told(self, tickers: Sequence[str] | None, after: str | None) -> AsyncGenerator[dict[str, Any], None]:
        body = {"query": ADDED, "variables": {"tickers": tickers, "after": after}}
        headers = self._headers | {"Accept": "text/event-stream"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=30)  # the API says something every 12 s
        async with self._session.post(self._url, json=body, headers=headers, timeout=timeout) as response:
            if response.status >= 500:  # noqa: PLR2004  it may be there again in a moment
                raise aiohttp.ClientError(f"HTTP {response.status}")
            if response.content_type != "text/event-stream":
                raise WatchError((await response.json(content_type=None))["errors"][0]["message"])
            self.state = "live"
            async for line in response.content:
                if line.startswith(b"data: "):
                    answer = orjson.loads(line[6:])
                    if "errors" in answer:
                        raise WatchError(answer["errors"][0]["message"])
                    yield answer["data"]["priceAdded"]


async def as_lines(watch: Watch, tickers: Sequence[str], after: str | None) -> None:
    """Prints each price as a line of JSON."""
    if sys.stdout.isatty():
        sys.stderr.write("waiting for the next minute\n")
    async for event in watch.events(tickers or None, after):
        sys.stdout.write(orjson.dumps(event).decode() + "\n")
        sys.stdout.flush()


async def as_text(watch: Watch, tickers: Sequence[str], after: str | None) -> None:
    """Prints each price as a line for people, for a pipe that a table could not be drawn in."""
    async for event in watch.events(tickers or None, after):
        sys.stdout.write(f"{times.iso(event['ts'])}  {event['ticker']:<20}{event['price']:>16}\n")
        sys.stdout.flush()


async def as_table(watch: Watch, tickers: Sequence[str]) -> None:
    """Shows a table that follows."""
    found = (await watch.ask(NOW))["tickers"]
    named = [one for one in found if one["name"] in tickers] if tickers else [one for one in found if one["tracked"]]
    seen = {name: Seen() for name in tickers or [one["name"] for one in named]}
    for name, one in seen.items():
        await _load(watch, name, one)
    for one in named:
        if one["latest"] is not None:
            seen[one["name"]].ts, seen[one["name"]].price = one["latest"]["ts"], one["latest"]["price"]
    after = max((int(one["latest"]["id"]) for one in named if one["latest"]), default=None)
    with Live(_table(seen, watch.state), console=Console(), refresh_per_second=4) as live:

        async def tick() -> None:
            read_at = time.monotonic()
            while True:
                live.update(_table(seen, watch.state))
                await asyncio.sleep(0.5)
                if time.monotonic() - read_at > READ_AGAIN_S:
                    read_at = time.monotonic()
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, WatchError):
                        for name, one in seen.items():
                            await _load(watch, name, one)

        ticking = asyncio.create_task(tick())
        try:
            async for event in watch.events(tickers or None, None if after is None else str(after)):
                seen.setdefault(event["ticker"], Seen()).add(event["ts"], event["price"])
        finally:
            ticking.cancel()


async def _load(watch: Watch, name: str, seen: Seen) -> None:
    told = await watch.ask(OF_ONE, ticker=name, day=int(time.time()) - 86_400)
    seen.line.clear()
    seen.line.extend(float(one["price"]) for one in told["prices"]["nodes"][::-1])
    seen.day_before = next((float(one["price"]) for one in told["before"]["nodes"]), None)
    seen.missing = told["coverage"]["missing"]


def _table(seen: dict[str, Seen], state: str) -> Table:
    table = Table(caption=state, caption_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("ticker", style="bold", no_wrap=True)
    table.add_column("price", justify="right", no_wrap=True)
    table.add_column("24 h", justify="right", no_wrap=True)
    table.add_column("last prices", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("missing, 24 h", justify="right", no_wrap=True)
    for name, one in seen.items():
        age = None if one.ts is None else int(time.time()) - one.ts
        change = Text("")
        if one.day_before and one.price:
            part = 100 * (float(one.price) / one.day_before - 1)
            change = Text(f"{part:+.2f} %", style="green" if part > 0 else "red" if part < 0 else "")
        table.add_row(
            name,
            one.price or "no price yet",
            change,
            sparkline(one.line),
            Text("" if age is None else f"{age} s", style="yellow" if age is not None and age > STALE_S else ""),
            Text(f"{one.missing or 0} min", style="yellow" if one.missing else "dim"),
        )
    return table


async def watch(url: str, tickers: Sequence[str], *, key: str | None, as_json: bool, after: str | None) -> int:
    """Watches until it is interrupted; the exit status."""
    async with aiohttp.ClientSession() as session:
        client = Watch(session, url, key)
        try:
            if as_json:
                await as_lines(client, tickers, after)
            elif sys.stdout.isatty():
                await as_table(client, tickers)
            else:
                await client.ask(NOW)  # where there is no API that is said at once; later it is waited for
                await as_text(client, tickers, after)
        except WatchError as error:
            sys.stderr.write(f"{error}\n")
        except aiohttp.ClientError as error:
            sys.stderr.write(f"{url}: {error}; is the API there?\n")
    return 1
