"""Prints the startup banner of `make up`: the addresses, when the API responds, then the first price of each ticker.

It runs as a process of its own (`python -m graph.startup_banner`) and does not import the schema, so that it does not slow
down the start of the API and the worker.
"""

import asyncio
import contextlib
import sys
import time

import aiohttp

from db import times
from db.connection_url import mask_password
from db.errors import DatabaseError
from db.pool import Database, Record, open_database
from db.queries import tickers
from db.runtime import embedded_lookup
from graph.settings import Settings

API_TIMEOUT_S = 60.0
PRICES_TIMEOUT_S = 20.0
FAST_POLL_DURATION_S = 5.0
FAST_POLL_INTERVAL_S = 0.2
SLOW_POLL_INTERVAL_S = 1.0


def format_addresses(settings: Settings) -> str:
    """Returns the lines with the addresses of the running services."""
    lines = {
        "prices": f"{settings.url}/         (live page)",
        "GraphiQL": f"{settings.url}/graphql  (browser)",
        "GraphQL": f"{settings.url}/graphql  (POST)",
        "health": f"{settings.url}/health",
        "PostgreSQL": f"psql {_psql_address(settings)}",
        "data": str(settings.data_dir.absolute()),
    }
    exchange_file = settings.data_dir / embedded_lookup.EXCHANGE_URL_FILE
    if exchange_file.exists():
        lines["simulator"] = f"{exchange_file.read_text().strip()}  (`python -m ingest simulate --help` shows its faults)"
    if settings.api_metrics_port:
        lines["metrics"] = f"http://{settings.metrics_host}:{settings.api_metrics_port}/metrics"
    return "\n".join(
        ["", "Tickgraph is up. Ctrl-C stops it.", *(f"  {name:<11}{address}" for name, address in lines.items()), ""]
    )


def _psql_address(settings: Settings) -> str:
    """Returns the database URL: with the password for the embedded server, which has a generated one; otherwise without."""
    dsn = settings.required_dsn()
    return dsn if dsn == embedded_lookup.find_postgres_url(settings.data_dir / "postgres") else mask_password(dsn)


async def print_startup_banner(settings: Settings) -> int:
    """Waits for the API, prints the addresses, then each ticker's first price of this run. Returns an exit status."""
    # An older price does not show that the worker collects. A price of the previous minute may be from this run.
    since = times.minute_of(time.time()) - times.MINUTE
    if not await _wait_for_api(settings, time.monotonic() + API_TIMEOUT_S):
        print(f"The API does not respond at {settings.url}. See the API log above.", flush=True)
        return 1
    (settings.data_dir / embedded_lookup.API_URL_FILE).write_text(f"{settings.url}\n")
    print(format_addresses(settings), flush=True)
    printed: set[str] = set()
    responded_at = time.monotonic()
    # Reads from the database, like `python -m graph latest`: the API may require a key.
    async with open_database(settings.required_dsn(), application_name="tickgraph startup banner", max_connections=1) as db:
        while (waited_s := time.monotonic() - responded_at) < PRICES_TIMEOUT_S:
            ticker_records = await _list_tickers(db)
            for ticker in ticker_records:
                if ticker["ts"] is not None and ticker["ts"] >= since and ticker["name"] not in printed:
                    printed.add(ticker["name"])
                    print(f"  {ticker['name']:<15}{ticker['price']:>15f}  {times.iso(ticker['ts'])}", flush=True)
            if ticker_records and printed >= {ticker["name"] for ticker in ticker_records if ticker["tracked"]}:
                return 0
            await asyncio.sleep(FAST_POLL_INTERVAL_S if waited_s < FAST_POLL_DURATION_S else SLOW_POLL_INTERVAL_S)
    print(
        f"  No prices for some tickers within {PRICES_TIMEOUT_S:.0f} s. See the worker log above. "
        "Without internet, use `make demo`.",
        flush=True,
    )
    return 0


async def _wait_for_api(settings: Settings, deadline: float) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SLOW_POLL_INTERVAL_S)) as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{settings.url}/health/live") as response:
                    return response.ok
            await asyncio.sleep(FAST_POLL_INTERVAL_S)
    return False


async def _list_tickers(db: Database) -> list[Record]:
    try:
        return await tickers.list_tickers(db, time.time())
    except DatabaseError:
        return []  # the API logs the reason


if __name__ == "__main__":
    sys.exit(asyncio.run(print_startup_banner(Settings.read())))
