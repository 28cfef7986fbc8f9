"""A history, written by PostgreSQL as CSV or JSON Lines: two weeks at a time, so that no statement waits for a reader."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Final

from db import times
from db.pool import Executor
from db.queries.prices import AS_TEXT, observed_sql

SLICE_S: Final = 14 * times.DAY

COLUMNS: Final = ("ticker", "ts", "price", "observed_at", "source")

EXTENT: Final = """
SELECT min(ts) AS low, max(ts) + 60 AS high FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3
"""

# Lines as one text: a COPY would do as well, but cannot be cancelled in the middle without breaking its connection. The CHECKs
# of the table keep names and prices such that nothing has to be quoted.
_LINES: Final = """
SELECT coalesce(string_agg({line}, E'\\n') || E'\\n', '')
  FROM (SELECT * FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 ORDER BY ts) AS price
"""

CSV: Final = _LINES.format(
    line=f"ticker || ',' || ts || ',' || price || ',' || coalesce({observed_sql}, '') || ',' || source",
)

JSONL: Final = _LINES.format(
    line=(
        """'{"ticker":"' || ticker || '","ts":' || ts || ',"price":"' || price || '","observed_at":' || """
        + AS_TEXT["observed_us"].sql
        + """ || ',"source":"' || source || '"}'"""
    ),
)


class Form(StrEnum):
    """How a history is written."""

    CSV = "csv"
    JSONL = "jsonl"


async def extent(db: Executor, ticker: str, low: int, high: int) -> tuple[int, int] | None:
    """The stored part of [low, high): its first minute and the end of its last; None where there is none."""
    row = await db.fetchrow(EXTENT, ticker, low, high)
    return None if row is None or row["low"] is None else (row["low"], row["high"])


async def slices(db: Executor, form: Form, ticker: str, low: int, high: int) -> AsyncGenerator[tuple[int, bytes], None]:
    """The lines of [low, high), oldest first, each time with the end of what they cover. Raises DatabaseError."""
    if form is Form.CSV:
        yield low, (",".join(COLUMNS) + "\n").encode()
    start, end = await extent(db, ticker, low, high) or (high, high)
    borders = [start, *range((start // SLICE_S + 1) * SLICE_S, end, SLICE_S), end]
    written: asyncio.Task[str] | None = None
    coming: asyncio.Task[str] | None = None
    try:
        # The next slice is written while the reader takes the last one.
        for begin, until in itertools.pairwise([*borders, end]):
            coming = asyncio.create_task(_slice(db, form, ticker, begin, until)) if begin < until else None
            if written is not None:
                yield begin, (await written).encode()
            written = coming
    finally:
        tasks = [task for task in (written, coming) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _slice(db: Executor, form: Form, ticker: str, low: int, high: int) -> str:
    lines: str = await db.fetchval(CSV if form is Form.CSV else JSONL, ticker, low, high)
    return lines


def name(ticker: str, form: Form, low: int, high: int) -> str:
    """A file's name: `btc_usd_20240115T114000Z_20240116T000000Z.csv`; an open end is left out."""
    ends = [
        "" if ts in (times.FIRST, times.END) else "_" + times.iso(ts).replace("-", "").replace(":", "") for ts in (low, high)
    ]
    return f"{ticker}{''.join(ends)}.{form}"
