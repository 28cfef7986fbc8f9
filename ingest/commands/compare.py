"""`python -m ingest compare`: compares days with a peer, minute by minute, and fills what is missing here."""

import argparse
import asyncio
import sys
import time
from collections.abc import Container, Sequence

from rich.console import Console
from rich.table import Table

from db import times
from db.errors import DatabaseError
from db.pool import Database, open_database
from db.queries import clock, peers, tickers, write_lock
from db.queries.gaps import TickerMinute
from db.runtime import embedded_lookup
from ingest.commands.arguments import console
from ingest.errors import OutboxError
from ingest.jobs.peers import DayComparison, compare_day, store_plausible
from ingest.outbox import open_outbox
from ingest.peers import Peer, PeerError, open_peers
from ingest.settings import Settings

SETTLE_S = 15 * times.MINUTE
"""Newer minutes are not compared, because both sites may still fill them: from the exchange, or from Redis."""
MAX_SHOWN_PERIODS = 10
"""Periods of missing minutes that are printed for a day."""


def run(options: argparse.Namespace) -> int:
    """`compare`. Returns 1 if a minute of the peer is missing here and was not stored, or the peer failed."""
    settings = Settings.read()
    try:
        key = next((k for url, k in zip(settings.peers, settings.peer_keys, strict=False) if url == options.peer), None)
        only_peer = settings.model_copy(update={"peers": (options.peer,), "peer_keys": () if key is None else (key,)})
        return asyncio.run(_compare(options, only_peer))
    except (DatabaseError, OutboxError, PeerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


async def _compare(options: argparse.Namespace, settings: Settings) -> int:
    async with (
        open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph compare") as db,
        open_peers(settings) as (peer,),
    ):
        # One of the two clocks may be ahead: then a minute that has not begun could be stored.
        now = min(time.time(), await clock.now(db))
        low = (options.start if options.start is not None else int(now) - times.DAY) // times.DAY * times.DAY
        wanted = options.end if options.end is not None else times.END if options.start is not None else low + times.DAY
        high = min(wanted, times.minute_of(now - SETTLE_S))
        if low >= high:
            sys.stderr.write(
                f"--from ({times.iso(low)}) must be before --to ({times.iso(high)}). "
                f"The last {times.format_minutes(SETTLE_S // times.MINUTE)} are not compared\n"
            )
            return 2
        names = [options.ticker] if options.ticker else [row["name"] for row in await tickers.list_tickers(db, now)]
        pending = await _pending_minutes(settings) if options.repair else set()
        return await _compare_days(peer, names, range(low, high, times.DAY), high, db, pending, repair=options.repair)


async def _pending_minutes(settings: Settings) -> set[TickerMinute]:
    """Returns the minutes whose live prices wait in Redis for the database. Raises OutboxError."""
    redis_url = embedded_lookup.redis_url(settings)
    if redis_url is None:
        return set()
    async with open_outbox(redis_url, settings.outbox_most) as outbox:
        return await outbox.pending_minutes()


async def _compare_days(
    peer: Peer,
    names: Sequence[str],
    days: range,
    high: int,
    db: Database,
    pending: Container[TickerMinute],
    *,
    repair: bool,
) -> int:
    out = console()
    table = Table(box=None, header_style="bold")
    for title in ("day", "ticker", "both", "only here", "only there", "stored", "median bps", "p99 bps", "max bps"):
        table.add_column(title, justify="left" if title in ("day", "ticker") else "right", no_wrap=True)
    details: list[str] = []
    unresolved = 0
    for day in days:
        for ticker in names:
            comparison = await compare_day(db, peer, ticker, day, high)
            stored = 0
            if repair and comparison.missing_here:
                # Our own prices that wait in Redis will be stored, and come first.
                wanted = [minute for minute in comparison.missing_here if (ticker, minute.ts) not in pending]
                filled = await store_plausible(peer, ticker, wanted, db)
                stored = len(filled.stored)
                await _refresh_comparison(peer, ticker, day, db)
                details += [
                    f"{ticker} {times.iso(ts)}: the price of the peer is refused; the log says why" for ts in filled.refused
                ]
            unresolved += len(comparison.missing_here) - stored
            found = comparison.result
            numbers = [found.shared, found.only_here, found.only_there, stored]
            differences = [
                "-" if bps is None else f"{bps:.2f}" for bps in (found.median_bps, comparison.p99_bps, found.max_bps)
            ]
            table.add_row(times.iso(day)[:10], ticker, *(f"{number:,}" for number in numbers), *differences)
            details += _describe(ticker, comparison, is_repaired=repair)
    out.print(table)
    _print_lines(out, details)
    return 1 if unresolved else 0


async def _refresh_comparison(peer: Peer, ticker: str, day: int, db: Database) -> None:
    """Replaces the comparison that the daily job stored, so that status and alerts know of the repair."""
    if ticker in await peers.compared_tickers(db, peer.url, day):
        comparison = await compare_day(db, peer, ticker, day)
        async with write_lock.write_transaction(db) as connection:
            await peers.store_comparison(connection, comparison.result)


def _describe(ticker: str, comparison: DayComparison, *, is_repaired: bool) -> list[str]:
    lines = [
        f"{ticker} {times.iso(ts)}: {ours:f} here, {theirs:f} there, {bps:.2f} basis points apart"
        for ts, ours, theirs, bps in comparison.outliers
    ]
    if comparison.is_same_observation:
        lines.append(f"{ticker}: all live prices are equal. The peer may be this archive, or a copy of it")
    if not is_repaired:
        periods = _periods([minute.ts for minute in comparison.missing_here])
        lines += [
            f"{ticker}: {times.format_minutes((end - start) // times.MINUTE)} only there, from {times.iso(start)} "
            f"to {times.iso(end)}"
            for start, end in periods[:MAX_SHOWN_PERIODS]
        ]
        if len(periods) > MAX_SHOWN_PERIODS:
            lines.append(f"{ticker}: and {len(periods) - MAX_SHOWN_PERIODS} more periods")
    return lines


def _periods(minutes: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for ts in sorted(minutes):
        if found and found[-1][1] == ts:
            found[-1] = (found[-1][0], ts + times.MINUTE)
        else:
            found.append((ts, ts + times.MINUTE))
    return found


def _print_lines(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
