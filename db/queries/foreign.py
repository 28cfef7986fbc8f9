"""Another PostgreSQL's table of prices, read only. Its columns are found by name, its identifiers quoted by its server."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import asyncpg

from db.errors import DatabaseError
from db.pool import Record, own_errors

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
    """A column of the table."""

    name: str
    type: str
    quoted: str

    @property
    def as_text(self) -> str:
        """An expression that gives it as text: instants as ISO 8601 in UTC."""
        return _AS_TEXT.get(self.type, "{0}::text").format(self.quoted)


async def columns(connection: asyncpg.Connection, table: str) -> list[Column]:
    """The table's columns; empty where there is no such table."""
    with own_errors():
        return [Column(**row) for row in await connection.fetch(COLUMNS, table)]


async def count(connection: asyncpg.Connection, table: str, name: Column | None, ticker: str) -> int:
    """How many rows there are of the ticker."""
    with own_errors():
        found: int = await connection.fetchval(f"SELECT count(*) {await _of(connection, table, name)}", *_given(name, ticker))
        return found


async def rows(
    connection: asyncpg.Connection, table: str, time: Column, price: Column, name: Column | None, ticker: str, at_once: int
) -> AsyncIterator[list[Record]]:
    """(time, price) of the ticker's rows as text, in the order of time, so many at once."""
    statement = f"SELECT {time.as_text}, {price.as_text} {await _of(connection, table, name)} ORDER BY {time.quoted}"
    with own_errors():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            cursor = await connection.cursor(statement, *_given(name, ticker))
            while some := await cursor.fetch(at_once):
                yield some


async def _of(connection: asyncpg.Connection, table: str, name: Column | None) -> str:
    quoted = await connection.fetchval(QUOTED, table)
    if quoted is None:
        raise DatabaseError(f"there is no table {table}")
    return f"FROM {quoted}" + (f" WHERE {name.quoted} = $1" if name is not None else "")


def _given(name: Column | None, ticker: str) -> tuple[str, ...]:
    return () if name is None else (ticker,)
