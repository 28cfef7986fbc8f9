"""What `make up` tells: where things are, and then the first price of each ticker, read through the API like any client.

Run by itself (`python -m graph.welcome`): it must not load the schema once more while API and worker are starting.
"""

import asyncio
import sys
import time
from typing import Any

import aiohttp

from db import embedded, times
from db.settings import without_password
from graph.settings import Settings

QUERY = "{ tickers { name tracked latest { ts price } } }"
PATIENCE_S = 20.0
HURRIED_S = 5.0
LOOK_EVERY_S = 0.2
SECOND_S = 1.0


def places(settings: Settings) -> str:
    """A line for each place."""
    lines = {
        "prices": f"{settings.url}/         (in a browser, live)",
        "GraphiQL": f"{settings.url}/graphql  (in a browser)",
        "GraphQL": f"{settings.url}/graphql  (POST)",
        "health": f"{settings.url}/health",
        "PostgreSQL": f"psql {_psql_address(settings)}",
        "data": str(settings.data_dir.absolute()),
    }
    return "\n".join(["", "Tickgraph is up; Ctrl-C stops it.", *(f"  {name:<11}{place}" for name, place in lines.items()), ""])


def _psql_address(settings: Settings) -> str:
    """The embedded server's whole address, for there is no other way to learn it; another's without its password."""
    dsn = settings.required_dsn()
    return dsn if dsn == embedded.running_url(settings.data_dir / "postgres") else without_password(dsn)


async def welcome(settings: Settings) -> int:
    """Waits for the API, prints the places, then each ticker's first price of this run. Returns an exit status."""
    # What was stored long before is no sign that collecting works; a price of the minute before may be from this run.
    since = times.minute_of(time.time()) - times.MINUTE
    deadline = time.monotonic() + PATIENCE_S
    async with aiohttp.ClientSession() as session:
        if await _tickers(session, settings, deadline) is None:
            print(f"The API does not answer at {settings.url}: its lines above tell why", flush=True)
            return 1
        print(places(settings), flush=True)
        shown: set[str] = set()
        while time.monotonic() < deadline:
            tickers = await _tickers(session, settings, deadline) or []
            for ticker in tickers:
                latest = ticker["latest"]
                if latest and latest["ts"] >= since and ticker["name"] not in shown:
                    shown.add(ticker["name"])
                    print(f"  {ticker['name']:<15}{latest['price']:>15}  {times.iso(latest['ts'])}", flush=True)
            if tickers and shown >= {ticker["name"] for ticker in tickers if ticker["tracked"]}:
                return 0
            hurried = time.monotonic() < deadline - PATIENCE_S + HURRIED_S
            await asyncio.sleep(LOOK_EVERY_S if hurried else SECOND_S)
    print(f"  no price within {PATIENCE_S:.0f} s for all tickers: the worker's lines above tell why", flush=True)
    return 0


async def _tickers(session: aiohttp.ClientSession, settings: Settings, deadline: float) -> list[dict[str, Any]] | None:
    while time.monotonic() < deadline:
        try:
            async with session.post(f"{settings.url}/graphql", json={"query": QUERY}) as response:
                tickers: list[dict[str, Any]] = (await response.json())["data"]["tickers"]
                return tickers
        except (aiohttp.ClientError, TypeError):
            await asyncio.sleep(LOOK_EVERY_S)
    return None


if __name__ == "__main__":
    sys.exit(asyncio.run(welcome(Settings.read())))
