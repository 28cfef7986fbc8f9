"""Export of a ticker's history. PostgreSQL formats CSV or JSON Lines, two weeks per statement, so that no statement waits
for a slow client.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from db import times
from db.pool import Executor
from db.queries.prices import JSON_COLUMNS, observed_sql

SLICE_S: Final = 14 * times.DAY

COLUMNS: Final = ("ticker", "ts", "price", "observed_at", "source", "original_source")

EXTENT: Final = """
SELECT min(ts) AS low, max(ts) + 60 AS high FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3
"""

# The statement returns all lines as one text. COPY cannot be cancelled without closing its connection. The CHECKs of the
# table guarantee that no name or price needs quoting.
_LINES: Final = """
SELECT coalesce(string_agg({line}, E'\\n') || E'\\n', '')
  FROM (SELECT * FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 ORDER BY ts) AS price
"""

_SIZES: Final = """
SELECT greatest(ts / $4 * $4, $2) AS low, least(ts / $4 * $4 + $4, $3) AS high, sum(octet_length({line}) + 1) AS size
  FROM price
 WHERE ticker = $1 AND ts >= $2 AND ts < $3
 GROUP BY ts / $4
 ORDER BY low
"""

_CSV_LINE: Final = (
    f"ticker || ',' || ts || ',' || price || ',' || coalesce({observed_sql}, '') || ',' || source || ',' || "
    "coalesce(original_source::text, '')"
)

_JSON_LINE: Final = (
    """'{"ticker":"' || ticker || '","ts":' || ts || ',"price":"' || price || '","observed_at":' || """
    + JSON_COLUMNS["observed_us"].sql
    + """ || ',"source":"' || source || '","original_source":' || """
    + JSON_COLUMNS["original_source"].sql
    + " || '}'"
)

CSV: Final = _LINES.format(line=_CSV_LINE)
JSONL: Final = _LINES.format(line=_JSON_LINE)
CSV_SIZES: Final = _SIZES.format(line=_CSV_LINE)
JSONL_SIZES: Final = _SIZES.format(line=_JSON_LINE)


class ExportFormat(StrEnum):
    """File format of an export."""

    CSV = "csv"
    JSONL = "jsonl"


async def extent(db: Executor, ticker: str, low: int, high: int) -> tuple[int, int] | None:
    """Returns the first stored minute in [low, high) and the end of the last one, or None if none is stored."""
    row = await db.fetchrow(EXTENT, ticker, low, high)
    return None if row is None or row["low"] is None else (row["low"], row["high"])


async def slices(
    db: Executor, export_format: ExportFormat, ticker: str, low: int, high: int
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yields slices of the lines of [low, high), oldest first, each with the end of its range. Raises DatabaseError."""
    if header := _header(export_format):
        yield low, header
    start, end = await extent(db, ticker, low, high) or (high, high)
    borders = [start, *range((start // SLICE_S + 1) * SLICE_S, end, SLICE_S), end]
    current: asyncio.Task[str] | None = None
    upcoming: asyncio.Task[str] | None = None
    try:
        # PostgreSQL formats the next slice while the client reads the current one. Each step starts one slice and yields the
        # previous one, which ends at `begin`. The pair (end, end) starts none and yields the last one.
        for begin, until in itertools.pairwise([*borders, end]):
            upcoming = asyncio.create_task(_slice(db, export_format, ticker, begin, until)) if begin < until else None
            if current is not None:
                yield begin, (await current).encode()
            current = upcoming
    finally:
        tasks = [task for task in (current, upcoming) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Slice(NamedTuple):
    """A part of an export: the lines of the minutes in [low, high)."""

    low: int
    high: int
    size: int
    """Length in bytes."""


async def slice_sizes(db: Executor, export_format: ExportFormat, ticker: str, low: int, high: int) -> list[Slice]:
    """Returns the slices of the export of [low, high), oldest first, without the header."""
    statement = CSV_SIZES if export_format is ExportFormat.CSV else JSONL_SIZES
    return [Slice(**row) for row in await db.fetch(statement, ticker, low, high, SLICE_S)]


def total_size(export_format: ExportFormat, slices: Sequence[Slice]) -> int:
    """Returns the length of the export with these slices in bytes, with the header."""
    return len(_header(export_format)) + sum(part.size for part in slices)


async def byte_range(
    db: Executor, export_format: ExportFormat, ticker: str, slices: Sequence[Slice], first: int, last: int
) -> AsyncGenerator[bytes, None]:
    """Yields the bytes of an export from `first` to `last`, inclusive. Reads only the slices that contain them.

    Raises DatabaseError, and ChangedExportError if the history has changed since its `slice_sizes`.
    """
    position = len(_header(export_format))
    if first < position:
        yield _header(export_format)[first : last + 1]
    for part in slices:
        begin, position = position, position + part.size
        if first < position and begin <= last:
            lines = (await _slice(db, export_format, ticker, part.low, part.high)).encode()
            if len(lines) != part.size:
                raise ChangedExportError(f"the history of {ticker} has changed during the download")
            yield lines[max(0, first - begin) : last + 1 - begin]


class ChangedExportError(Exception):
    """Raised if prices were stored in a part of an export whose size was already sent."""


def _header(export_format: ExportFormat) -> bytes:
    return (",".join(COLUMNS) + "\n").encode() if export_format is ExportFormat.CSV else b""


async def _slice(db: Executor, export_format: ExportFormat, ticker: str, low: int, high: int) -> str:
    lines: str = await db.fetchval(CSV if export_format is ExportFormat.CSV else JSONL, ticker, low, high)
    return lines


def file_name(ticker: str, export_format: ExportFormat, low: int, high: int) -> str:
    """Returns a file name such as `btc_usd_20240115T114000Z_20240116T000000Z.csv`, without unbounded ends."""
    ends = [
        "" if ts in (times.FIRST, times.END) else "_" + times.iso(ts).replace("-", "").replace(":", "") for ts in (low, high)
    ]
    return f"{ticker}{''.join(ends)}.{export_format}"
