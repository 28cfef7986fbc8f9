"""Known tickers: whether each is tracked, and its newest price."""

from collections.abc import Iterable, Sequence
from typing import Final

from db.pool import Executor, Record
from db.queries.prices import has_begun_sql

_WITH_LATEST: Final = f"""
SELECT t.name, period.since, coalesce(period.tracked, false) AS tracked,
       p.id, p.ticker, p.ts, p.price, p.observed_at, p.source, p.original_source, p.peer
  FROM ticker AS t
  LEFT JOIN LATERAL (
       SELECT since, until IS NULL AS tracked
         FROM tracking
        WHERE ticker = t.name
        ORDER BY since DESC
        LIMIT 1) AS period ON true
  LEFT JOIN LATERAL (
       SELECT id, ticker, ts, price, observed_at, source, original_source, peer
         FROM price
        WHERE price.ticker = t.name AND {has_begun_sql.format(now="$1")}
        ORDER BY ts DESC
        LIMIT 1) AS p ON true
"""  # noqa: S608  inserts a constant

ALL: Final = _WITH_LATEST + " ORDER BY t.name"

BY_NAMES: Final = _WITH_LATEST + " WHERE t.name = ANY ($2::text[])"

FILTER_KNOWN: Final = """
SELECT name FROM ticker WHERE name = ANY ($1::text[])
"""

ADD: Final = """
INSERT INTO ticker (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING name
"""

TRACKED: Final = """
SELECT ticker FROM tracking WHERE until IS NULL ORDER BY ticker
"""


async def list_tickers(db: Executor, now: float) -> list[Record]:
    """Returns all known tickers by name, each with its last tracking period and its newest price (nulls if it has none).

    Minutes that have not begun by `now` (UNIX seconds) or by the clock of the database are ignored.
    """
    return await db.fetch(ALL, int(now))


async def get_tickers(db: Executor, names: Sequence[str], now: float) -> list[Record]:
    """Returns the known ones of these tickers, in any order, with the columns of `list_tickers`."""
    return await db.fetch(BY_NAMES, int(now), list(names))


async def filter_known(db: Executor, names: Sequence[str]) -> set[str]:
    """Returns the names that are known tickers."""
    return {row["name"] for row in await db.fetch(FILTER_KNOWN, list(names))}


async def list_tracked(db: Executor) -> list[str]:
    """Returns the names of the tracked tickers, in order."""
    return [row["ticker"] for row in await db.fetch(TRACKED)]


def is_stale(record: Record, now: float, stale_after_s: int) -> bool:
    """Whether the ticker is tracked and its newest minute is more than `stale_after_s` seconds before `now`.

    Without a price, the start of its tracking period counts instead.
    """
    newest = record["since"] if record["ts"] is None else record["ts"]
    return bool(record["tracked"]) and now - newest > stale_after_s


async def add(db: Executor, names: Iterable[str]) -> list[str]:
    """Inserts the names that are not known tickers yet, and returns them. Requires a write transaction."""
    return [row["name"] for row in await db.fetch(ADD, list(names))]
