"""`python -m graph latest`: prints the newest prices from the database."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from db import times
from db.pool import open_database
from db.queries import prices, tickers
from db.runtime import embedded_lookup
from graph.engine.tickers import require_known_tickers
from graph.errors import ApiError
from graph.schema import arguments
from graph.settings import Settings


def run(options: argparse.Namespace) -> int:
    """`latest`."""
    return asyncio.run(_print_latest(Settings.read(), options.tickers))


async def _print_latest(settings: Settings, names: Sequence[str]) -> int:
    async with open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph latest") as db:
        try:
            names_to_show = arguments.parse_tickers(names) or await tickers.list_tracked(db)
            # Without tracked tickers, prices may still exist: imported or collected manually.
            names_to_show = names_to_show or [record["name"] for record in await tickers.list_tickers(db, time.time())]
            records = await prices.latest_of_each(db, names_to_show, time.time())
            await require_known_tickers(db, set(names_to_show) - {record["ticker"] for record in records})
        except ApiError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    for record in records:
        print(f"{record['ticker']:<20}{record['price']:>16f}  {times.iso(record['ts'])}  {record['source']}")
    return 0
