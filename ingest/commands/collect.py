"""`python -m ingest collect`: collects one minute."""

import argparse
import asyncio
import time
from contextlib import AsyncExitStack

from db import times
from db.pool import open_database
from db.runtime import embedded_lookup, log
from ingest.commands.arguments import use_demo_exchange
from ingest.deribit.client import open_deribit
from ingest.jobs.collect import CollectResult, collect
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import open_outbox
from ingest.settings import Settings


def run(options: argparse.Namespace) -> int:
    """`collect`."""
    settings = use_demo_exchange(Settings.read())
    log.configure(settings, "collect")
    minute = options.minute if options.minute is not None else times.minute_of(time.time())
    return _print_result(asyncio.run(_collect(settings, minute)))


async def _collect(settings: Settings, minute: int) -> CollectResult:
    redis_url = embedded_lookup.redis_url(settings)
    database = open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph collect")
    async with AsyncExitStack() as stack:
        outbox = None
        if redis_url is not None:
            outbox = await stack.enter_async_context(open_outbox(redis_url, settings.outbox_most))
        return await collect(
            minute,
            watchlist=Watchlist(settings.tickers, updates_tracking=False),
            source=await stack.enter_async_context(open_deribit(settings)),
            db=await stack.enter_async_context(database),
            outbox=outbox,
            max_retries=settings.http_max_retries,
        )


def _print_result(collected: CollectResult) -> int:
    for ticker, price in sorted(collected.prices.items()):
        print(f"{ticker:<20}{price:>16}")
    for ticker, failure in sorted(collected.failures.items()):
        print(f"{ticker:<20}{'-':>16}  {failure}")
    return 1 if collected.failures else 0
