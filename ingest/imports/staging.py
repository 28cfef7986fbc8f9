"""Stages the rows of an import in a temporary SQLite database: one row per minute, in ascending order, in constant memory."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Final, Self

from db.queries.bulk_import import Row

CACHE_KIB: Final = 64 * 1024
"""Memory that SQLite uses before it writes to its temporary file: about two million minutes."""

_TABLE: Final = (
    "CREATE TABLE staged (ts INTEGER PRIMARY KEY, price TEXT, observed_at INTEGER, original_source TEXT, candle TEXT)"
)
# A row without observed_at counts as observed at the start of its minute, so it wins over a row with observed_at.
_ADD: Final = """
INSERT INTO staged VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (ts) DO UPDATE
       SET price = excluded.price, observed_at = excluded.observed_at, original_source = excluded.original_source,
           candle = excluded.candle
     WHERE ifnull(excluded.observed_at, 0) < ifnull(staged.observed_at, 0)
"""

# The candle of a row counts only if the minutes before and after have a row, too, and its time is a whole minute. So a candle
# of a longer interval is never taken for that of a minute. In Tickgraph's own exports, which have a source, it always counts.
_READ: Final = """
SELECT ts, price, observed_at, original_source,
       CASE WHEN original_source IS NOT NULL
              OR (observed_at IS NULL AND EXISTS (SELECT 1 FROM staged AS n WHERE n.ts = row.ts - 60)
                  AND EXISTS (SELECT 1 FROM staged AS n WHERE n.ts = row.ts + 60)) THEN candle END
  FROM staged AS row ORDER BY ts
"""


class StagedRows:
    """The earliest row of each minute, whatever the order of the rows; of equal instants, the first one added.

    A context manager: its end deletes the rows.
    """

    def __init__(self) -> None:
        # The empty name is a private temporary database, which SQLite deletes when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(_TABLE)
        self._database.execute("BEGIN")  # otherwise each row would be a transaction

    def add(self, rows: Iterable[Row]) -> None:
        """Adds rows. They replace rows of the same minute that have a later instant."""
        self._database.executemany(_ADD, rows)

    def minute_count(self) -> int:
        """Returns the number of minutes with a row."""
        (count,) = self._database.execute("SELECT count(*) FROM staged").fetchone()
        return int(count)

    def candle_count(self) -> int:
        """Returns the number of rows with a candle, whether or not it counts."""
        (count,) = self._database.execute("SELECT count(candle) FROM staged").fetchone()
        return int(count)

    def batches(self, size: int) -> Iterator[Sequence[Row]]:
        """Yields the rows by ascending minute, in lists of at most `size`."""
        with closing(self._database.execute(_READ)) as rows:
            while batch := rows.fetchmany(size):
                yield batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
