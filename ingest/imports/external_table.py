"""Reads a table of prices from another PostgreSQL server. That server quotes the identifiers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import asyncpg

from db.errors import DatabaseError
from db.pool import Record, translate_errors

COLUMNS: Final = """
SELECT attname::text AS name, format_type(atttypid, NULL) AS type, quote_ident(attname) AS quoted
  FROM pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum
"""

QUOTED: Final = """
SELECT to_regclass($1)::text
"""

_INSTANT: Final = """to_char({0}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_AS_TEXT: Final = {
    "timestamp with time zone": _INSTANT.format("{0} AT TIME ZONE 'UTC'"),
    "timestamp without time zone": _INSTANT,
}


@dataclass(frozen=True)
class Column:
    """A column of the foreign table."""

    name: str
    type: str
    quoted: str

    @property
    def as_text(self) -> str:
        """SQL expression that returns the column as text; timestamps as ISO 8601 in UTC."""
        return _AS_TEXT.get(self.type, "{0}::text").format(self.quoted)


async def columns(connection: asyncpg.Connection, table: str) -> list[Column]:
    """Returns the columns of the table; empty if the table does not exist."""
    with translate_errors():
        return [Column(**row) for row in await connection.fetch(COLUMNS, table)]


async def count(connection: asyncpg.Connection, table: str, name: Column | None, ticker: str) -> int:
    """Returns the number of rows of the ticker; of the whole table if `name` is None."""
    with translate_errors():
        found: int = await connection.fetchval(
            f"SELECT count(*) {await _from_clause(connection, table, name)}", *_parameters(name, ticker)
        )
        return found


async def rows(
    connection: asyncpg.Connection, table: str, time: Column, price: Column, name: Column | None, ticker: str, batch_size: int
) -> AsyncIterator[list[Record]]:
    """Yields batches of (time, price) as text, ordered by time: of the ticker, or of all rows if `name` is None."""
    statement = f"SELECT {time.as_text}, {price.as_text} {await _from_clause(connection, table, name)} ORDER BY {time.quoted}"
    with translate_errors():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            cursor = await connection.cursor(statement, *_parameters(name, ticker))
            while batch := await cursor.fetch(batch_size):
                yield batch


async def _from_clause(connection: asyncpg.Connection, table: str, name: Column | None) -> str:
    quoted = await connection.fetchval(QUOTED, table)
    if quoted is None:
        raise DatabaseError(f"table {table} does not exist")
    return f"FROM {quoted}" + (f" WHERE {name.quoted} = $1" if name is not None else "")


def _parameters(name: Column | None, ticker: str) -> tuple[str, ...]:
    return () if name is None else (ticker,)
