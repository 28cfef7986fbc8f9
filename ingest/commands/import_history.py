"""`python -m ingest import`: imports history from a file or from a table of another PostgreSQL."""

import argparse
import asyncio
import csv
import dataclasses
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from db import times
from db.errors import DatabaseError
from db.pool import connect, open_database
from db.runtime import embedded_lookup
from ingest.imports import external_table, file_reader
from ingest.imports.file_reader import FileFormatError, RawRow, ReadOptions
from ingest.jobs.import_history import MAX_BATCH_ROWS, ImportResult, import_prices
from ingest.settings import Settings

MAX_SHOWN_REJECTS = 10
"""Rejected rows that are printed."""


def run(options: argparse.Namespace) -> int:
    """Returns the exit status: 0 if no row was rejected or expired, and there was at least one.

    1: a row was rejected or expired, no row was read, or the import ended early. 2: the arguments, the file or the table
    cannot be used.
    """
    if (options.file is None) == (options.from_dsn is None):
        sys.stderr.write("name a FILE, or --from-dsn and --table; not both\n")
        return 2
    rejects, file = options.rejects, options.file
    if rejects is not None and file is not None and rejects.exists() and file.exists() and rejects.samefile(file):
        sys.stderr.write(f"--rejects {options.rejects} is the imported file: specify another file\n")
        return 2
    try:
        return asyncio.run(_import(options, Settings.read()))
    except FileFormatError as error:
        sys.stderr.write(f"{options.file or options.table}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted. Stored rows stay; run the command again to continue\n")
        return 1
    except file_reader.DamagedFileError as error:
        sys.stderr.write(f"{options.file}: truncated or damaged ({error})\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.file}: {error.strerror or error}\n")
        return 2
    except DatabaseError as error:
        sys.stderr.write(f"{error}\nStored rows stay; run the command again to continue\n")
        return 1


@dataclass(frozen=True)
class ImportSource:
    """A source of rows: its description, its size, its batches, and the position in it."""

    description: str
    total: int
    """Bytes of a file, or rows of a table."""
    batches: AsyncIterator[Sequence[RawRow]]
    position: Callable[[ImportResult], int]
    """Returns the position, in the unit of `total`."""
    other_tickers: Counter[str] = field(default_factory=Counter)
    """Number of skipped rows of other tickers, by their name in the source."""


async def _import(options: argparse.Namespace, settings: Settings) -> int:
    console = Console()
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(_table(options) if options.file is None else _file(options))
        dsn = embedded_lookup.postgres_url(settings)
        db = await stack.enter_async_context(open_database(dsn, application_name="tickgraph import", max_connections=1))
        rejected = stack.enter_context(_open_rejects(options.rejects))
        console.print(source.description, highlight=False, markup=False, soft_wrap=True)
        if options.dry_run:
            source = await _preview(source, console)
        with _progress_bar(console) as bar:
            reading = bar.add_task("reading", total=source.total, rows=0)
            storing = bar.add_task("checking" if options.dry_run else "storing", total=None, rows=0)

            def show(result: ImportResult) -> None:
                bar.update(reading, completed=min(source.total, source.position(result)), rows=result.read)
                if result.processed:
                    bar.update(storing, total=result.minute_count, completed=result.processed, rows=result.processed)

            result = ImportResult()
            try:
                await import_prices(
                    source.batches,
                    options.ticker,
                    db,
                    now=time.time(),
                    on_reject=rejected,
                    progress=show,
                    unit=options.time_unit,
                    result=result,
                    dry_run=options.dry_run,
                )
                bar.update(reading, completed=source.total)
            finally:
                bar.stop()
                _print_summary(result, options, rejected, source.other_tickers, console)
    return 1 if result.rejected or result.expired or not result.read else 0


@asynccontextmanager
async def _file(options: argparse.Namespace) -> AsyncIterator[ImportSource]:
    with file_reader.open_price_file(options.file, options.ticker, _read_options(options)) as file:

        async def batches() -> AsyncIterator[Sequence[RawRow]]:
            batch: list[RawRow] = []
            try:
                for raw in file.rows:
                    batch.append(raw)
                    if len(batch) == MAX_BATCH_ROWS:
                        yield batch
                        batch = []
            except file_reader.DamagedFileError:
                yield batch  # the rows before the damage are valid
                raise
            yield batch

        yield ImportSource(f"{options.file}: {file.form}", file.size, batches(), lambda _: file.position(), file.other_tickers)


def _read_options(options: argparse.Namespace) -> ReadOptions:
    return ReadOptions(
        options.time_column,
        options.price_column,
        options.ticker_column,
        options.ticker_value,
        options.decimal,
        options.time_unit,
    )


@asynccontextmanager
async def _table(options: argparse.Namespace) -> AsyncIterator[ImportSource]:
    connection = await connect(options.from_dsn)
    try:
        columns = {column.name.lower(): column for column in await external_table.columns(connection, options.table)}
        if not columns:
            raise FileFormatError("the table does not exist in that database")
        at, price, name = file_reader.columns(list(columns), _read_options(options))
        ticker_column = columns.get(name or "")
        total = await external_table.count(connection, options.table, ticker_column, options.ticker)

        async def batches() -> AsyncIterator[Sequence[RawRow]]:
            line = 0
            found = external_table.rows(
                connection, options.table, columns[at], columns[price], ticker_column, options.ticker, MAX_BATCH_ROWS
            )
            async for records in found:
                yield [RawRow(line + number, row[0] or "", row[1] or "") for number, row in enumerate(records, start=1)]
                line += len(records)

        description = f"{options.table}: time from {at!r}, price from {price!r}, {total} rows"
        yield ImportSource(description, total, batches(), lambda result: result.read)
    finally:
        await connection.close()


class RejectedRows:
    """Rejected rows. Holds the first few, and writes all of them to a file if there is one."""

    def __init__(self, file: IO[str] | None) -> None:
        self.first: list[str] = []
        self.counts: Counter[str] = Counter()
        """Number of rows by reason, without their values."""
        self._writer = None if file is None else csv.writer(file)
        if self._writer is not None:
            self._writer.writerow(("line", "time", "price", "reason"))

    def __call__(self, raw: RawRow, reason: str) -> None:
        self.counts[re.sub(r"'[^']*'", "…", reason)] += 1
        if len(self.first) < MAX_SHOWN_REJECTS:
            self.first.append(f"line {raw.line}: {reason}")
        if self._writer is not None:
            self._writer.writerow((raw.line, raw.time, raw.price, reason))


@contextmanager
def _open_rejects(file: Path | None) -> Iterator[RejectedRows]:
    if file is None:
        yield RejectedRows(None)
    else:
        with file.open("w", newline="") as opened:
            yield RejectedRows(opened)


async def _preview(source: ImportSource, console: Console) -> ImportSource:
    """Prints the first rows. Returns the source with all of its rows."""
    first: Sequence[RawRow] = await anext(source.batches, ())
    console.print("first rows:")
    for raw in first[:5]:
        console.print(f"  line {raw.line}: {raw.time} {raw.price}", highlight=False, markup=False)

    async def all_batches() -> AsyncIterator[Sequence[RawRow]]:
        yield first
        async for batch in source.batches:
            yield batch

    return dataclasses.replace(source, batches=all_batches())


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _print_ranges(result: ImportResult, console: Console) -> None:
    if result.ranges:
        console.print(f"open, high and low of {result.ranges:,} minutes stored", highlight=False)
    if result.ranges_ignored:
        ignored = (
            f"open, high and low of {result.ranges_ignored:,} minutes are ignored: no rows are one minute before and after"
        )
        console.print(ignored, highlight=False)
    if result.ranges_rejected:
        rejected = f"open, high and low of {result.ranges_rejected:,} rows do not fit together: only their price counts"
        console.print(rejected, highlight=False)


def _print_summary(
    result: ImportResult, options: argparse.Namespace, rejected: RejectedRows, other_tickers: Counter[str], console: Console
) -> None:
    for line in rejected.first:
        sys.stderr.write(f"  {line}\n")
    if result.rejected > len(rejected.first):
        where = f"all are in {options.rejects}" if options.rejects else "use --rejects FILE to see all of them"
        sys.stderr.write(f"  … and {result.rejected - len(rejected.first)} more; {where}\n")
        for reason, count in rejected.counts.most_common(3):
            sys.stderr.write(f"  {count:,} times: {reason}\n")
    done = "would be stored" if options.dry_run else "stored"
    console.print(
        f"{result.stored:,} {done}, {result.existing:,} existing, {result.duplicate:,} duplicate, {result.rejected:,} rejected",
        highlight=False,
    )
    _print_ranges(result, console)
    if result.expired:
        console.print(f"{result.expired:,} are older than RETENTION_DAYS and were not stored", highlight=False)
    if result.low is not None and result.high is not None:
        console.print(f"minutes {times.iso(result.low)} to {times.iso(result.high)}", highlight=False)
    if other_tickers:
        names = ", ".join(f"{name} ({count:,})" for name, count in other_tickers.most_common(5))
        console.print(f"{other_tickers.total():,} rows of other tickers skipped: {names}", highlight=False, markup=False)
    if not result.read:
        problem = (
            f"belongs to {options.ticker}: set its name with --ticker-value, or use --ticker-column none"
            if other_tickers
            else "found"
        )
        sys.stderr.write(f"no row {problem}\n")
