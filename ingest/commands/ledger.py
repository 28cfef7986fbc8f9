"""`python -m ingest gaps`, `backfill` and `rejects`: by hand what the jobs do."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rich.table import Table

from db import running, times
from db.errors import DatabaseError
from db.pool import Database, open_database
from db.queries import gaps, rejects, tickers
from ingest.commands.arguments import Verbs, beside_what_runs, console, instant, ticker, verb
from ingest.deribit.client import Deribit, open_deribit
from ingest.errors import OutboxError, SourceError
from ingest.jobs.backfill import fill
from ingest.jobs.reconcile import walk
from ingest.outbox import Outbox, open_outbox
from ingest.settings import Settings

PERIODS_MOST = 10_000
GAPS_MOST = 100_000

Work = Callable[[argparse.Namespace, Settings, Database], Awaitable[int]]


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """Their arguments."""
    listed = verb(
        verbs,
        "gaps",
        _with(_gaps),
        "list the gaps with their reasons",
        "gaps --ticker btc_usd --from 2024-01-15 --open",
    )
    listed.add_argument("--open", action="store_true", help="only minutes that are missing: those filled since left out")
    listed.add_argument("--check", action="store_true", help="look for new ones first, as the worker does every minute")
    _windowed(listed)
    fills = verb(
        verbs,
        "backfill",
        _with(_backfill),
        "fill gaps from the exchange's chart, those given up, too",
        "backfill --ticker btc_usd --from 2024-01-15T11:00:00Z",
    )
    _windowed(fills)
    bad = verb(verbs, "rejects", _with(_rejects), "list what could not be stored and was set aside", "rejects --limit 100")
    bad.add_argument("--limit", type=int, default=20, help="the newest so many (%(default)s)")


def _with(work: Work) -> Callable[[argparse.Namespace], int]:
    """The work with a database around it; 1 where a server is away."""

    async def opened(options: argparse.Namespace, settings: Settings) -> int:
        async with open_database(running.dsn_of(settings), application_name=f"tickgraph {options.verb}") as db:
            name = getattr(options, "ticker", None)
            if name and name not in await tickers.known(db, [name]):
                sys.stderr.write(f"{name} is not known: `python -m ingest status` lists those that are\n")
                return 1
            return await work(options, settings, db)

    def run(options: argparse.Namespace) -> int:
        try:
            return asyncio.run(opened(options, beside_what_runs(Settings.read())))
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
    for name in [options.ticker] if options.ticker else [record["name"] for record in await tickers.every(db, time.time())]:
        found = await gaps.periods(db, name, options.start, options.end, states, PERIODS_MOST)
        if len(found) == PERIODS_MOST:
            sys.stderr.write(f"{name} has more: only the first {PERIODS_MOST:,} are listed; narrow --from and --to\n")
        for row in found:
            minutes = (row["high"] - row["low"]) // times.MINUTE
            state = row["state"].lower().replace("_", " ")
            table.add_row(name, times.iso(row["low"]), times.iso(row["high"]), f"{minutes:,}", row["reason"], state)
    console().print(table if table.row_count else "no gaps")
    return 0


async def _check(settings: Settings, db: Database) -> None:
    async with _outbox_and_exchange(settings) as (outbox, source):
        await walk(times.minute_of(time.time()), clock=source.clock, db=db, outbox=outbox)


async def _backfill(options: argparse.Namespace, settings: Settings, db: Database) -> int:
    known = [options.ticker] if options.ticker else [record["name"] for record in await tickers.every(db, time.time())]
    async with _outbox_and_exchange(settings) as (outbox, source):
        waiting = await outbox.minutes()
        now = source.clock.now(int(time.time())) or time.time()
        for name in known:
            found = await gaps.unfilled(db, name, options.start, options.end, GAPS_MOST)
            if len(found) == GAPS_MOST:
                sys.stderr.write(f"{name} has more: the newest {GAPS_MOST:,} minutes are looked for; run it again\n")
            done = await fill([gap for gap in found if gap not in waiting], int(now), source=source, db=db)
            print(f"{name:<20}{done.filled:>8,} filled{done.left:>8,} left{done.given_up:>8,} that no chart can tell")
    return 0


@asynccontextmanager
async def _outbox_and_exchange(settings: Settings) -> AsyncIterator[tuple[Outbox, Deribit]]:
    """Both opened, and the exchange's time known."""
    redis_url = running.redis_of(settings) or settings.required_redis()
    async with open_outbox(redis_url, settings.outbox_most) as outbox, open_deribit(settings) as source:
        await source.names()  # its answer tells the time
        yield outbox, source


async def _rejects(options: argparse.Namespace, _settings: Settings, db: Database) -> int:
    found = await rejects.newest(db, options.limit)
    for row in found:
        minute = "-" if row["ts"] is None else _iso(row["ts"])
        print(f"{times.iso(row['set_aside_at'])}  {row['ticker'] or '-'} {minute}: {row['reason']}\n  {row['entry']}")
    if not found:
        print("nothing was set aside")
    return 0


def _iso(ts: int) -> str:
    return times.iso(ts) if times.FIRST <= ts < times.END else str(ts)


def _windowed(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--ticker", type=ticker, help="index name, like btc_usd (all)")
    verb.add_argument("--from", dest="start", type=instant, default=times.FIRST, help="UNIX seconds or ISO 8601 (the first)")
    verb.add_argument("--to", dest="end", type=instant, default=times.END, help="likewise, itself not in the window (now)")
