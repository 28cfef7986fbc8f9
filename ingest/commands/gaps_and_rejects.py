"""`python -m ingest gaps`, `backfill` and `rejects`: lists gaps, fills them, and lists rejected prices."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rich.table import Table

from db import times
from db.errors import DatabaseError
from db.pool import Database, open_database
from db.queries import gaps, rejects, tickers
from db.runtime import embedded_lookup
from ingest.commands.arguments import console, use_demo_exchange
from ingest.deribit.client import Deribit, open_deribit
from ingest.errors import OutboxError, SourceError
from ingest.jobs.backfill import fill_gaps
from ingest.jobs.reconcile import detect_gaps
from ingest.outbox import Outbox, open_outbox
from ingest.settings import Settings

MAX_PERIODS = 10_000
MAX_GAPS = 100_000

DatabaseVerb = Callable[[argparse.Namespace, Settings, Database], Awaitable[int]]


def _with_database(work: DatabaseVerb) -> Callable[[argparse.Namespace], int]:
    """Returns a function that runs `work` with a database, or returns 1 if the ticker is unknown or a server is unavailable."""

    async def run_work(options: argparse.Namespace, settings: Settings) -> int:
        async with open_database(embedded_lookup.postgres_url(settings), application_name=f"tickgraph {options.verb}") as db:
            name = getattr(options, "ticker", None)
            if name and name not in await tickers.filter_known(db, [name]):
                sys.stderr.write(f"{name} is unknown: `python -m ingest status` lists the known tickers\n")
                return 1
            return await work(options, settings, db)

    def run(options: argparse.Namespace) -> int:
        try:
            return asyncio.run(run_work(options, use_demo_exchange(Settings.read())))
        except (DatabaseError, OutboxError, SourceError) as error:
            sys.stderr.write(f"{error}\n")
            return 1

    return run


async def _gaps(options: argparse.Namespace, settings: Settings, db: Database) -> int:
    if options.check:
        await _check(settings, db)
    states = ("OPEN", "GIVEN_UP") if options.open else ("OPEN", "GIVEN_UP", "FILLED")
    table = Table(box=None, header_style="bold")
    for title in ("ticker", "from", "to", "minutes", "reason", "state"):
        table.add_column(title, justify="right" if title == "minutes" else "left", no_wrap=True)
    for name in (
        [options.ticker] if options.ticker else [record["name"] for record in await tickers.list_tickers(db, time.time())]
    ):
        found = await gaps.periods(db, name, options.start, options.end, states, MAX_PERIODS, with_imports=not options.open)
        if len(found) == MAX_PERIODS:
            sys.stderr.write(f"{name} has more gaps: only the first {MAX_PERIODS:,} are listed; narrow --from and --to\n")
        for row in found:
            minutes = (row["high"] - row["low"]) // times.MINUTE
            state = row["state"].lower().replace("_", " ")
            table.add_row(name, times.iso(row["low"]), times.iso(row["high"]), f"{minutes:,}", row["reason"], state)
    console().print(table if table.row_count else "no gaps")
    return 0


async def _check(settings: Settings, db: Database) -> None:
    async with _outbox_and_exchange(settings) as (outbox, source):
        await detect_gaps(times.minute_of(time.time()), clock=source.clock, db=db, outbox=outbox)


async def _backfill(options: argparse.Namespace, settings: Settings, db: Database) -> int:
    names = [options.ticker] if options.ticker else [record["name"] for record in await tickers.list_tickers(db, time.time())]
    async with _outbox_and_exchange(settings) as (outbox, source):
        pending = await outbox.pending_minutes()
        now = source.clock.now(int(time.time())) or time.time()
        for name in names:
            found = await gaps.unfilled(db, name, options.start, options.end, MAX_GAPS)
            if len(found) == MAX_GAPS:
                sys.stderr.write(
                    f"{name} has more gaps: the newest {MAX_GAPS:,} minutes are processed; run the command again\n"
                )
            result = await fill_gaps([gap for gap in found if gap not in pending], int(now), source=source, db=db)
            print(
                f"{name:<20}{result.filled:>8,} filled{result.remaining:>8,} remaining{result.unrecoverable:>8,} unrecoverable"
            )
    return 0


@asynccontextmanager
async def _outbox_and_exchange(settings: Settings) -> AsyncIterator[tuple[Outbox, Deribit]]:
    """Opens the outbox and the client of the exchange, and measures the exchange's clock."""
    redis_url = embedded_lookup.redis_url(settings) or settings.required_redis()
    async with open_outbox(redis_url, settings.outbox_most) as outbox, open_deribit(settings) as source:
        await source.names()  # measures the clock
        yield outbox, source


async def _rejects(options: argparse.Namespace, _settings: Settings, db: Database) -> int:
    found = await rejects.newest(db, options.limit)
    for row in found:
        minute = "-" if row["ts"] is None else _iso(row["ts"])
        print(f"{times.iso(row['set_aside_at'])}  {row['ticker'] or '-'} {minute}: {row['reason']}\n  {row['entry']}")
    if not found:
        print("no rejected prices")
    return 0


def _iso(ts: int) -> str:
    return times.iso(ts) if times.FIRST <= ts < times.END else str(ts)


run_gaps = _with_database(_gaps)
run_backfill = _with_database(_backfill)
run_rejects = _with_database(_rejects)
