"""Imports historical prices into `price`: validates each row, stores batches, overwrites nothing."""

from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass

from db import times
from db.pool import Database
from db.queries import bulk_import, tickers, write_lock
from db.queries.bulk_import import Row
from ingest.imports.file_reader import DamagedFileError, RawRow
from ingest.imports.rules import parse_row

MAX_BATCH_ROWS = 10_000
"""Rows per transaction."""


@dataclass
class ImportResult:
    """The result of an import, in rows."""

    stored: int = 0
    existing: int = 0
    """Rows whose minute was already stored. It is not changed."""
    expired: int = 0
    """Rows whose minute is before the horizon, so older than the retention."""
    duplicate: int = 0
    """Rows whose minute another row of this import has."""
    scattered: int = 0
    """Duplicate rows that were not compared with the chosen row of their minute, because it was far from them in the file."""
    rejected: int = 0
    low: int | None = None
    """The oldest minute of the valid rows."""
    high: int | None = None

    @property
    def row_count(self) -> int:
        """The number of rows read."""
        return self.stored + self.existing + self.expired + self.duplicate + self.rejected


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
    """Stores the valid rows. Each batch is one transaction, so an interrupted import can be run again.

    Of several prices of one minute, the earliest is stored if the rows are in ascending or descending order. In another order,
    a price of an earlier batch may be stored instead. A row whose minute is not over by `now` (UNIX seconds) is rejected.
    `unit` is the unit of the times (None: by their size). `on_reject` receives each rejected row and the reason; `result` is
    updated during the import. A `dry_run` stores nothing and counts what would be stored. Raises DatabaseError and the errors
    of the batches; rows stored before stay stored.
    """
    result = ImportResult() if result is None else result
    deduplicator = RowDeduplicator(result, now, on_reject, unit)
    try:
        async for batch in batches:
            await _store(deduplicator.deduplicate(batch), ticker, result, db, dry_run=dry_run)
            progress(result)
    except DamagedFileError:  # the rows before the damage are valid
        await _store(deduplicator.flush(), ticker, result, db, dry_run=dry_run)
        raise
    await _store(deduplicator.flush(), ticker, result, db, dry_run=dry_run)
    progress(result)
    return result


class RowDeduplicator:
    """Parses rows, rejects invalid ones, and selects one row per minute.

    The last minute of a batch may continue in the next one, so its row is held back.
    """

    def __init__(self, result: ImportResult, now: float, on_reject: Callable[[RawRow, str], None], unit: str | None) -> None:
        self._result = result
        self._now = now
        self._on_reject = on_reject
        self._unit = unit
        self._pending: Row | None = None
        # One bit for every possible minute: constant memory for files of any length and order.
        self._seen = bytearray(times.END // times.MINUTE // 8 + 1)

    def deduplicate(self, batch: Sequence[RawRow]) -> list[Row]:
        """Returns the rows of the batch to store."""
        first: dict[int, Row] = {} if self._pending is None else {self._pending[0]: self._pending}
        last = self._pending
        for raw in batch:
            try:
                row = last = self._parse_row(raw)
            except ValueError as error:
                self._result.rejected += 1
                self._on_reject(raw, str(error))
                continue
            chosen = first.get(row[0])
            if chosen is None and not self._is_seen(row[0]):
                first[row[0]] = row
                continue
            self._result.duplicate += 1
            self._result.scattered += chosen is None and row[2] is not None
            if chosen is not None and _instant(row) < _instant(chosen):
                first[row[0]] = row
        self._pending = None if last is None else first.pop(last[0], None)
        for minute in first:
            self._mark_seen(minute)
        return list(first.values())

    def flush(self) -> list[Row]:
        """Returns the row that was held back."""
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        self._mark_seen(pending[0])
        return [pending]

    def _parse_row(self, raw: RawRow) -> Row:
        row = parse_row(raw.time, raw.price, self._unit, is_exact=raw.is_exact, source=raw.source)
        if row[0] + times.MINUTE > self._now:
            raise ValueError(f"{raw.time[:40]!r} lies in a minute that is not over yet")
        return row

    def _is_seen(self, minute: int) -> bool:
        index, bit = divmod(minute // times.MINUTE, 8)
        return bool(self._seen[index] >> bit & 1)

    def _mark_seen(self, minute: int) -> None:
        index, bit = divmod(minute // times.MINUTE, 8)
        self._seen[index] |= 1 << bit


def _instant(row: Row) -> int:
    return row[0] * 10**6 if row[2] is None else row[2]


async def _store(rows: Sequence[Row], ticker: str, result: ImportResult, db: Database, *, dry_run: bool) -> None:
    if not rows:
        return
    minutes = [row[0] for row in rows]
    result.low = min([*minutes, result.low or minutes[0]])
    result.high = max([*minutes, result.high or minutes[0]])
    if dry_run:
        stored, expired = await bulk_import.preview(db, ticker, minutes)
    else:
        async with write_lock.write_transaction(db) as connection:
            await tickers.add(connection, [ticker])
            stored, expired = await bulk_import.merge(connection, ticker, rows)
            await bulk_import.extend_period(connection, ticker, result.low, result.high + times.MINUTE)
    result.stored += stored
    result.expired += expired
    result.existing += len(rows) - stored - expired
