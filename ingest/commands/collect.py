"""`python -m ingest collect`: a minute by hand."""

import argparse
import asyncio
import time
from contextlib import AsyncExitStack

from db import log, running, times
from db.pool import open_database
from ingest.commands.arguments import Verbs, beside_what_runs, minute, verb
from ingest.deribit.client import open_deribit
from ingest.jobs.collect import Collected, collect
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import open_outbox
from ingest.settings import Settings


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """Its arguments."""
    once = verb(
        verbs,
        "collect",
        _run,
        "collect a minute now, without a queue, and say what came",
        "collect --minute 2024-01-15T11:40:00Z   # the exchange only knows now: stored under its own minute",
    )
    once.add_argument("--minute", type=minute, default=None, help="UNIX seconds or ISO 8601 (the current one)")


def _run(options: argparse.Namespace) -> int:
    settings = beside_what_runs(Settings.read())
    log.configure(settings, "collect")
    minute = options.minute if options.minute is not None else times.minute_of(time.time())
    return _tell(asyncio.run(_collect(settings, minute)))


async def _collect(settings: Settings, minute: int) -> Collected:
    redis_url = running.redis_of(settings)
    database = open_database(running.dsn_of(settings), application_name="tickgraph collect")
    async with AsyncExitStack() as stack:
        outbox = None
        if redis_url is not None:
            outbox = await stack.enter_async_context(open_outbox(redis_url, settings.outbox_most))
        return await collect(
            minute,
            watchlist=Watchlist(settings.tickers, follows=False),
            source=await stack.enter_async_context(open_deribit(settings)),
            db=await stack.enter_async_context(database),
            outbox=outbox,
            max_retries=settings.http_max_retries,
        )


def _tell(collected: Collected) -> int:
    for ticker, price in sorted(collected.prices.items()):
        print(f"{ticker:<20}{price:>16}")
    for ticker, failure in sorted(collected.failures.items()):
        print(f"{ticker:<20}{'-':>16}  {failure}")
    return 1 if collected.failures else 0
