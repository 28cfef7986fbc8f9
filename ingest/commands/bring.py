"""`python -m ingest import`: history from a file, or from another PostgreSQL's table."""

import argparse
import asyncio
import csv
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from db import running, times
from db.errors import DatabaseError
from db.pool import Database, connect, open_database
from db.queries import foreign, retention
from ingest.commands.arguments import Verbs, ticker, verb
from ingest.imports import reading
from ingest.imports.reading import FormError, Raw, Wanted
from ingest.imports.rules import UNITS
from ingest.jobs.bring import AT_ONCE, Brought, bring
from ingest.settings import Settings

SHOWN = 10
"""Refused rows that are shown where no file takes them."""


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """Its arguments."""
    brought = verb(
        verbs,
        "import",
        _run,
        "bring in history from a file or another PostgreSQL's table",
        "import history.csv.gz --ticker btc_usd --dry-run\n"
        "  python -m ingest import --from-dsn postgresql://me@old/crypto --table price_ticks --ticker btc_usd",
    )
    brought.add_argument("file", type=Path, nargs="?", help="CSV, JSON Lines or JSON; as it is, or in gz, bz2, xz or zip")
    brought.add_argument("--ticker", type=ticker, required=True, help="index name that the prices are of, like btc_usd")
    brought.add_argument(
        "--time-column", help=f"name or number of the time's column (the first of {', '.join(reading.TIME_NAMES)})"
    )
    brought.add_argument("--price-column", help=f"likewise of the price's (the first of {', '.join(reading.PRICE_NAMES)})")
    brought.add_argument(
        "--ticker-column",
        help=f"likewise of the ticker's (the first of {', '.join(reading.TICKER_NAMES)}); `none`: every row is of the ticker",
    )
    brought.add_argument("--ticker-value", help="what the ticker is called in the file, like BTC/USD (however it is spelled)")
    brought.add_argument("--time-unit", choices=list(UNITS), help="of UNIX times (by the size of each)")
    brought.add_argument("--decimal", choices=[".", ","], default=".", help="sign before decimals (%(default)s)")
    brought.add_argument("--from-dsn", help="address of another PostgreSQL, instead of a file")
    brought.add_argument("--table", default="price_ticks", help="its table (%(default)s)")
    brought.add_argument("--rejects", type=Path, metavar="FILE", help="CSV that takes the refused rows with their reasons")
    brought.add_argument("--dry-run", action="store_true", help="check everything, show the first rows, store nothing")


def _run(options: argparse.Namespace) -> int:
    """0 where every row is stored now, 1 where some were refused or it did not end, 2 where it could not begin."""
    if (options.file is None) == (options.from_dsn is None):
        sys.stderr.write("name a FILE, or --from-dsn and --table; not both\n")
        return 2
    rejects, file = options.rejects, options.file
    if rejects is not None and file is not None and rejects.exists() and file.exists() and rejects.samefile(file):
        sys.stderr.write(f"--rejects {options.rejects} is the file that is imported: name another one\n")
        return 2
    try:
        return asyncio.run(_import(options, Settings.read()))
    except FormError as error:
        sys.stderr.write(f"{options.file or options.table}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("ended; what was stored stays: run it again to go on\n")
        return 1
    except reading.BrokenError as error:
        sys.stderr.write(f"{options.file}: broken off or damaged ({error})\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.file}: {error.strerror or error}\n")
        return 2
    except DatabaseError as error:
        sys.stderr.write(f"{error}\nwhat was stored stays: run it again to go on\n")
        return 1


@dataclass(frozen=True)
class Origin:
    """Where rows come from: what is said of it, how much there is, and how much of that was read."""

    said: str
    total: int
    batches: AsyncIterator[Sequence[Raw]]
    position: Callable[[Brought], int]
    """How far reading is, in the unit of the total."""
    others: Counter[str] = field(default_factory=Counter)
    """Rows of other tickers that were left out, by what they are called there."""


async def _import(options: argparse.Namespace, settings: Settings) -> int:
    console = Console()
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(_table(options) if options.file is None else _file(options))
        db: Database | None = None
        if not options.dry_run:
            dsn = running.dsn_of(settings)
            db = await stack.enter_async_context(open_database(dsn, application_name="tickgraph import", connections=1))
        horizon = await _horizon(settings, options.ticker) if options.dry_run else times.FIRST
        refused = stack.enter_context(_refusals(options.rejects))
        console.print(origin.said, highlight=False, markup=False, soft_wrap=True)
        if options.dry_run:
            origin = await _previewed(origin, console)
        with _bar(console) as bar:
            task = bar.add_task(options.ticker, total=origin.total, rows=0)

            def show(brought: Brought) -> None:
                bar.update(task, completed=min(origin.total, origin.position(brought)), rows=brought.read)

            brought = Brought()
            try:
                await bring(
                    origin.batches,
                    options.ticker,
                    db,
                    now=time.time(),
                    refuse=refused,
                    progress=show,
                    unit=options.time_unit,
                    brought=brought,
                    horizon=horizon,
                )
                bar.update(task, completed=origin.total)
            finally:
                bar.stop()
                _tell(brought, options, refused.first, origin.others, console)
    return 1 if brought.refused or brought.forgotten or not brought.read else 0


async def _horizon(settings: Settings, ticker: str) -> int:
    """Before which nothing of the ticker is taken, as far as the database can be asked."""
    dsn = settings.dsn or running.postgres(settings.data_dir / "postgres")
    with suppress(DatabaseError):
        if dsn is not None:
            async with open_database(dsn, application_name="tickgraph import", connections=1) as db:
                return (await retention.horizons(db)).get(ticker, times.FIRST)
    return times.FIRST


@asynccontextmanager
async def _file(options: argparse.Namespace) -> AsyncIterator[Origin]:
    with reading.opened(options.file, options.ticker, _wanted(options)) as file:

        async def batches() -> AsyncIterator[Sequence[Raw]]:
            batch: list[Raw] = []
            try:
                for raw in file.rows:
                    batch.append(raw)
                    if len(batch) == AT_ONCE:
                        yield batch
                        batch = []
            except reading.BrokenError:
                yield batch  # what came before is history all the same
                raise
            yield batch

        yield Origin(f"{options.file}: {file.form}", file.size, batches(), lambda _: file.position(), file.others)


def _wanted(options: argparse.Namespace) -> Wanted:
    return Wanted(
        options.time_column,
        options.price_column,
        options.ticker_column,
        options.ticker_value,
        options.decimal,
        options.time_unit,
    )


@asynccontextmanager
async def _table(options: argparse.Namespace) -> AsyncIterator[Origin]:
    connection = await connect(options.from_dsn)
    try:
        columns = {column.name.lower(): column for column in await foreign.columns(connection, options.table)}
        if not columns:
            raise FormError("there is no such table there")
        at, price, name = reading.columns(list(columns), _wanted(options))
        of = columns.get(name or "")
        total = await foreign.count(connection, options.table, of, options.ticker)

        async def batches() -> AsyncIterator[Sequence[Raw]]:
            line = 0
            found = foreign.rows(connection, options.table, columns[at], columns[price], of, options.ticker, AT_ONCE)
            async for some in found:
                yield [Raw(line + place, row[0] or "", row[1] or "") for place, row in enumerate(some, start=1)]
                line += len(some)

        said = f"{options.table}: time from {at!r}, price from {price!r}, {total} rows"
        yield Origin(said, total, batches(), lambda brought: brought.read)
    finally:
        await connection.close()


class Refusals:
    """Rows that cannot be prices: the first few kept, all of them written where a file was named."""

    def __init__(self, file: IO[str] | None) -> None:
        self.first: list[str] = []
        self._writer = None if file is None else csv.writer(file)
        if self._writer is not None:
            self._writer.writerow(("line", "time", "price", "reason"))

    def __call__(self, raw: Raw, why: str) -> None:
        if len(self.first) < SHOWN:
            self.first.append(f"line {raw.line}: {why}")
        if self._writer is not None:
            self._writer.writerow((*raw, why))


@contextmanager
def _refusals(file: Path | None) -> Iterator[Refusals]:
    if file is None:
        yield Refusals(None)
    else:
        with file.open("w", newline="") as opened:
            yield Refusals(opened)


async def _previewed(origin: Origin, console: Console) -> Origin:
    """Shows the first rows; nothing of them is lost."""
    first: Sequence[Raw] = await anext(origin.batches, ())
    console.print("its first rows:")
    for raw in first[:5]:
        console.print(f"  line {raw.line}: {raw.time} {raw.price}", highlight=False, markup=False)

    async def again() -> AsyncIterator[Sequence[Raw]]:
        yield first
        async for batch in origin.batches:
            yield batch

    return dataclasses.replace(origin, batches=again())


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _tell(
    brought: Brought, options: argparse.Namespace, refused: Sequence[str], others: Counter[str], console: Console
) -> None:
    for line in refused:
        sys.stderr.write(f"  {line}\n")
    if brought.refused > len(refused):
        where = f"all are in {options.rejects}" if options.rejects else "name a file for all of them with --rejects"
        sys.stderr.write(f"  … and {brought.refused - len(refused)} more; {where}\n")
    done = "would be stored" if options.dry_run else "stored"
    console.print(
        f"{brought.stored:,} {done}, {brought.there:,} already there, {brought.twice:,} twice, {brought.refused:,} refused",
        highlight=False,
    )
    if brought.forgotten:
        console.print(
            f"{brought.forgotten:,} are older than what is kept (RETENTION_DAYS) and were not stored", highlight=False
        )
    if brought.low is not None and brought.high is not None:
        console.print(f"minutes {times.iso(brought.low)} to {times.iso(brought.high)}", highlight=False)
    if others:
        met = ", ".join(f"{name} ({count:,})" for name, count in others.most_common(5))
        console.print(f"{others.total():,} rows of other tickers left out: {met}", highlight=False, markup=False)
    if not brought.read:
        called = (
            f"is of {options.ticker}: name what it is called with --ticker-value, or --ticker-column none" if others else "came"
        )
        sys.stderr.write(f"no row {called}\n")
