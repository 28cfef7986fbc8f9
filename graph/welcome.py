"""What `make up` tells: where things are, once the API answers, and then the first price of each ticker.

Run by itself (`python -m graph.welcome`): it must not load the schema once more while API and worker are starting.
"""

import asyncio
import contextlib
import sys
import time

import aiohttp

from db import running, times
from db.errors import DatabaseError
from db.pool import Database, Record, open_database
from db.queries import tickers
from db.settings import without_password
from graph.settings import Settings

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
    return dsn if dsn == running.postgres(settings.data_dir / "postgres") else without_password(dsn)


async def welcome(settings: Settings) -> int:
    """Waits for the API, prints the places, then each ticker's first price of this run. Returns an exit status."""
    # What was stored long before is no sign that collecting works; a price of the minute before may be from this run.
    since = times.minute_of(time.time()) - times.MINUTE
    deadline = time.monotonic() + PATIENCE_S
    if not await _answers(settings, deadline):
        print(f"The API does not answer at {settings.url}: its lines above tell why", flush=True)
        return 1
    print(places(settings), flush=True)
    shown: set[str] = set()
    # From the database, as `python -m graph latest` does: the API may want a key.
    async with open_database(settings.required_dsn(), application_name="tickgraph welcome", connections=1) as db:
        while time.monotonic() < deadline:
            found = await _tickers(db)
            for ticker in found:
                if ticker["ts"] is not None and ticker["ts"] >= since and ticker["name"] not in shown:
                    shown.add(ticker["name"])
                    print(f"  {ticker['name']:<15}{ticker['price']:>15f}  {times.iso(ticker['ts'])}", flush=True)
            if found and shown >= {ticker["name"] for ticker in found if ticker["tracked"]}:
                return 0
            hurried = time.monotonic() < deadline - PATIENCE_S + HURRIED_S
            await asyncio.sleep(LOOK_EVERY_S if hurried else SECOND_S)
    print(f"  no price within {PATIENCE_S:.0f} s for all tickers: the worker's lines above tell why", flush=True)
    return 0


async def _answers(settings: Settings, deadline: float) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECOND_S)) as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{settings.url}/health/live") as response:
                    return response.ok
            await asyncio.sleep(LOOK_EVERY_S)
    return False


async def _tickers(db: Database) -> list[Record]:
    try:
        return await tickers.every(db, time.time())
    except DatabaseError:
        return []  # the API's lines tell why


if __name__ == "__main__":
    sys.exit(asyncio.run(welcome(Settings.read())))
