"""The verb `export` without `--days`: minutes or candles of tickers, in one file or in a file for each month."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from db import arrow, pool, times
from db.commands import read_settings, require_known_tickers, show_progress
from db.errors import CommandLineError, UsageError
from db.queries import clock, exports, history_export, retention, snapshots
from db.queries.candles import Interval
from db.queries.exports import CandlesExport, Export, MinutesExport, SnapshotOf, WideExport
from db.queries.history_export import ExportFormat
from db.queries.snapshots import Snapshot
from db.runtime import embedded_lookup

FILE: Final = "data.parquet"


def run(options: argparse.Namespace) -> int:
    """`export`."""
    if options.start >= options.end:
        raise UsageError(f"--from ({times.iso(options.start)}) must be before --to ({times.iso(options.end)})")
    if not options.tickers:
        raise UsageError("name a TICKER, or a folder with --days")
    if ExportFormat(options.format).is_binary and not arrow.is_available():
        raise CommandLineError(f"--format {options.format} needs pyarrow: pip install -r requirements-arrow.lock")
    if options.partition and (options.format != "parquet" or options.output is None or options.layout == "wide"):
        raise UsageError("--partition needs --format parquet and --output FOLDER, and excludes --layout wide")
    try:
        return asyncio.run(_export(embedded_lookup.postgres_url(read_settings()), options))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandLineError(f"{options.output} cannot be written: {error.strerror}") from error


def parse_interval(name: str) -> Interval:
    """Returns the interval of candles with this name. Raises ValueError."""
    if name.upper() not in Interval.__members__:
        raise ValueError(f"{name[:40]!r} is not an interval; use one of {', '.join(Interval.__members__)}")
    return Interval[name.upper()]


def _build(options: argparse.Namespace, tickers: list[str], now: int, snapshot_of: SnapshotOf) -> Export:
    """Returns what the file contains. Raises UsageError."""
    export_format = ExportFormat(options.format)
    if options.layout == "wide":
        if options.columns is not None or options.interval is not None:
            raise UsageError("--layout wide has a column for each ticker, and excludes --columns and --interval")
        return WideExport(export_format, tickers, snapshot_of)
    return _build_long(options, tickers, now, snapshot_of, options.columns)


def _build_long(
    options: argparse.Namespace, tickers: list[str], now: int, snapshot_of: SnapshotOf, columns: str | None
) -> MinutesExport | CandlesExport:
    try:
        return exports.build(
            ExportFormat(options.format),
            tickers,
            columns=columns,
            interval=options.interval,
            now=now,
            snapshot_of=snapshot_of,
        )
    except ValueError as error:
        raise UsageError(f"--columns: {error}") from None


async def _export(dsn: str, options: argparse.Namespace) -> int:
    async with pool.open_database(dsn, application_name="tickgraph export") as db:
        await require_known_tickers(db, options.tickers)
        opened = await _open_snapshots(db, options, options.tickers)
        snapshot_of: SnapshotOf = opened.__getitem__ if opened else exports.newest
        now = times.minute_of(await clock.now(db))
        if options.partition:
            await _write_months(db, options, now, snapshot_of)
        else:
            export = _build(options, options.tickers, now, snapshot_of)
            target: Path | None = options.output
            with target.open("wb") if target else contextlib.nullcontext(sys.stdout.buffer) as out:
                await _write(db, export, options.start, options.end, out, " ".join(options.tickers))
            await _open_snapshots(db, options, options.tickers)
            if target:
                sys.stderr.write(f"{target}: {await _describe(db, options, snapshot_of)}\n")
    return 0


async def _open_snapshots(db: pool.Database, options: argparse.Namespace, names: Sequence[str]) -> dict[str, Snapshot]:
    """Returns the snapshot of each ticker; none without `--as-of`. Raises CommandLineError if its minutes are deleted.

    Called again after reading, because retention may have begun to delete them meanwhile.
    """
    if options.as_of is None:
        return {}
    return {name: await _open_snapshot(db, options.as_of, name, options.start) for name in names}


async def _describe(db: pool.Database, options: argparse.Namespace, snapshot_of: SnapshotOf) -> str:
    """Returns which minutes of the tickers are stored in the window."""
    found = [await history_export.extent(db, name, options.start, options.end, snapshot_of(name)) for name in options.tickers]
    stored = [extent for extent in found if extent is not None]
    if not stored:
        return "no minutes are stored there"
    low, high = min(low for low, _ in stored), max(high for _, high in stored)
    return f"minutes from {times.iso(low)} to {times.iso(high)}"


async def _write(db: pool.Database, export: Export, low: int, high: int, out: BinaryIO, subject: str) -> None:
    encoder = arrow.ArrowEncoder(export) if export.format.is_binary else None
    with show_progress(subject, 1) as update:
        async with contextlib.aclosing(export.slices(db, low, high)) as slices:
            async for done, written in slices:
                out.write(written if encoder is None else encoder.encode(written))
                update(completed=done)
    if encoder is not None:
        out.write(encoder.finish())


async def _write_months(db: pool.Database, options: argparse.Namespace, now: int, snapshot_of: SnapshotOf) -> None:
    """Writes `ticker=btc_usd/month=2024-01/data.parquet`, which readers of Hive partitions read as one table.

    A file that has minutes which are deleted now stays as it is.
    """
    count, horizons = 0, await retention.horizons(db)
    for ticker in options.tickers:
        export = _build_long(options, [ticker], now, snapshot_of, options.columns)
        # The name of the folder has the ticker. Some readers reject it in the file, too.
        columns = ",".join(name for name in export.columns if name != "ticker")
        export = _build_long(options, [ticker], now, snapshot_of, columns)
        found = await history_export.extent(db, ticker, options.start, options.end, snapshot_of(ticker))
        for low, high in _months(*found) if found else ():
            folder = options.output / f"ticker={ticker}" / f"month={times.iso(low)[:7]}"
            if (folder / FILE).exists() and low < max(options.start, horizons.get(ticker, times.FIRST)):
                sys.stderr.write(f"{folder / FILE} stays: the first minutes of the month are deleted or before --from\n")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{FILE}.part"
            with unfinished.open("wb") as out:
                await _write(db, export, max(low, options.start), min(high, options.end), out, f"{ticker} {times.iso(low)[:7]}")
            await _open_snapshots(db, options, [ticker])
            unfinished.replace(folder / FILE)
            count += 1
    sys.stderr.write(f"{options.output}: {count} files written\n")


def _months(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yields start and end of each month of UTC that has a part of the window."""
    month = datetime.fromtimestamp(low, UTC).replace(day=1, hour=0, minute=0, second=0)
    while month.timestamp() < high:
        following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
        yield int(month.timestamp()), int(following.timestamp())
        month = following


async def _open_snapshot(db: pool.Database, version: int, ticker: str, start: int) -> Snapshot:
    state = await snapshots.read_state(db, version, ticker)
    if version > state.newest:
        raise CommandLineError(f"--as-of {version} is newer than the newest data version, {state.newest}")
    if state.fork is not None:
        raise CommandLineError(f"--as-of {version} belongs to a history that was replaced after version {state.fork}")
    snapshot = state.snapshot(version)
    if start < snapshot.horizon and not snapshot.is_retained:
        raise CommandLineError(f"the minutes of {ticker} before {times.iso(snapshot.horizon)} are deleted; set --from to it")
    return snapshot
