"""Imports historical prices into `price`: validates each row, stores one price per minute in batches, overwrites nothing."""

from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from db import times
from db.errors import DatabaseError
from db.pool import Database
from db.queries import bulk_import, tickers, write_lock
from db.queries.bulk_import import Row
from ingest.imports.file_reader import DamagedFileError, RawRow
from ingest.imports.rules import parse_candle, parse_row
from ingest.imports.staging import StagedRows

MAX_BATCH_ROWS = 10_000
"""Rows per transaction."""


@dataclass
class ImportResult:
    """The result of an import, in rows."""

    read: int = 0
    rejected: int = 0
    duplicate: int = 0
    """Valid rows whose minute has an earlier row in this import. Known when all rows are read."""
    stored: int = 0
    existing: int = 0
    """Rows whose minute was already stored. It is not changed."""
    expired: int = 0
    """Rows whose minute is before the horizon, so older than the retention."""
    ranges: int = 0
    """Minutes whose open, high and low were stored."""
    ranges_rejected: int = 0
    """Valid rows whose open, high and low are invalid. Their price counts."""
    ranges_ignored: int = 0
    """Minutes whose open, high and low were ignored, because no rows are one minute before and after."""
    low: int | None = None
    """The oldest minute of the valid rows."""
    high: int | None = None

    @property
    def minute_count(self) -> int:
        """The number of minutes with a valid row. Known when all rows are read."""
        return self.read - self.rejected - self.duplicate

    @property
    def processed(self) -> int:
        """The number of minutes that are stored or, in a dry run, checked."""
        return self.stored + self.existing + self.expired


async def import_prices(
    batches: AsyncIterable[Sequence[RawRow]],
    ticker: str,
    db: Database,
    *,
    now: float,
    on_reject: Callable[[RawRow, str], None],
    progress: Callable[[ImportResult], None],
    unit: str | None = None,
    result: ImportResult | None = None,
    dry_run: bool = False,
) -> ImportResult:
    """Reads all rows, then stores the earliest price of each minute, whatever the order of the rows.

    Each batch is one transaction, so an interrupted import can be run again. A row whose minute is not over by `now` (UNIX
    seconds) is rejected. `unit` is the unit of the times (None: by their size). `on_reject` receives each rejected row and the
    reason; `result` is updated during the import. A `dry_run` stores nothing and counts what would be stored. Raises
    DatabaseError and the errors of the batches. DamagedFileError is raised after the rows before the damage are stored.
    """
    result = ImportResult() if result is None else result
    with StagedRows() as staged:
        damage = None
        try:
            async for batch in batches:
                staged.add(_parse_rows(batch, result, now, on_reject, unit))
                progress(result)
        except DamagedFileError as error:
            damage = error
        result.duplicate = result.minute_count - staged.minute_count()
        result.ranges_ignored = staged.candle_count()
        for rows in staged.batches(MAX_BATCH_ROWS):
            result.ranges_ignored -= sum(row[4] is not None for row in rows)
            await _store(rows, ticker, result, db, dry_run=dry_run)
            progress(result)
    if (result.stored or result.ranges) and not dry_run:
        with suppress(DatabaseError):  # the import is complete without it
            await bulk_import.refresh_statistics(db)
    if damage is not None:
        raise damage
    return result


def _parse_rows(
    batch: Sequence[RawRow], result: ImportResult, now: float, on_reject: Callable[[RawRow, str], None], unit: str | None
) -> Iterator[Row]:
    """Yields the valid rows of the batch."""
    for raw in batch:
        result.read += 1
        try:
            row = parse_row(raw.time, raw.price, unit, is_exact=raw.is_exact, source=raw.source)
        except ValueError as error:
            reason = str(error)
        else:
            if row[0] + times.MINUTE <= now:
                yield row if raw.candle is None else _with_candle(row, raw.candle, result)
                continue
            reason = f"{raw.time[:40]!r} lies in a minute that is not over yet"
        result.rejected += 1
        on_reject(raw, reason)


def _with_candle(row: Row, candle: tuple[str, str, str, str], result: ImportResult) -> Row:
    try:
        return (*row[:4], parse_candle(candle))
    except ValueError:
        result.ranges_rejected += 1
        return row


async def _store(rows: Sequence[Row], ticker: str, result: ImportResult, db: Database, *, dry_run: bool) -> None:
    """Stores rows of ascending minutes in one transaction."""
    result.low = rows[0][0] if result.low is None else result.low
    result.high = rows[-1][0]
    if dry_run:
        stored, expired = await bulk_import.preview(db, ticker, [row[0] for row in rows])
    else:
        async with write_lock.write_transaction(db) as connection:
            await tickers.add(connection, [ticker])
            stored, expired = await bulk_import.merge(connection, ticker, rows)
            result.ranges += await bulk_import.merge_ranges(connection, ticker, rows)
            await bulk_import.extend_period(connection, ticker, result.low, result.high + times.MINUTE)
    result.stored += stored
    result.expired += expired
    result.existing += len(rows) - stored - expired
