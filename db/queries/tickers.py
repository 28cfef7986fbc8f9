"""Tickers: what is known, whether it is tracked, and how fresh it is."""

from collections.abc import Iterable, Sequence
from typing import Final

from db.pool import Executor, Record
from db.queries.prices import has_begun_sql

_WITH_LATEST: Final = f"""
SELECT t.name, period.since, coalesce(period.tracked, false) AS tracked,
       p.id, p.ticker, p.ts, p.price, p.observed_at, p.source
  FROM ticker AS t
  LEFT JOIN LATERAL (
       SELECT since, until IS NULL AS tracked
         FROM tracking
        WHERE ticker = t.name
        ORDER BY since DESC
        LIMIT 1) AS period ON true
  LEFT JOIN LATERAL (
       SELECT id, ticker, ts, price, observed_at, source
         FROM price
        WHERE price.ticker = t.name AND {has_begun_sql.format(now="$1")}
        ORDER BY ts DESC
        LIMIT 1) AS p ON true
"""  # noqa: S608  a constant of ours

ALL: Final = _WITH_LATEST + " ORDER BY t.name"

ONE: Final = _WITH_LATEST + " WHERE t.name = $2"

KNOWN: Final = """
SELECT name FROM ticker WHERE name = ANY ($1::text[])
"""

ADD: Final = """
INSERT INTO ticker (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING name
"""

TRACKED: Final = """
SELECT ticker FROM tracking WHERE until IS NULL ORDER BY ticker
"""


async def every(db: Executor, now: float) -> list[Record]:
    """All known tickers by name, each with its last period of tracking and the columns of its newest price (or nulls).

    Minutes that have not begun by `now` (UNIX seconds), nor by the database's clock, do not count.
    """
    return await db.fetch(ALL, int(now))


async def one(db: Executor, name: str, now: float) -> Record | None:
    """One ticker like `every` gives them, None where the name is not known."""
    return await db.fetchrow(ONE, int(now), name)


async def known(db: Executor, names: Sequence[str]) -> set[str]:
    """Those of the names that are known."""
    return {row["name"] for row in await db.fetch(KNOWN, list(names))}


async def tracked(db: Executor) -> list[str]:
    """The names tracked now, in order."""
    return [row["ticker"] for row in await db.fetch(TRACKED)]


def is_stale(record: Record, now: float, stale_after_s: int) -> bool:
    """Whether a ticker of `every` or `one` is tracked, and its newest minute (or its tracking) is older than that."""
    newest = record["since"] if record["ts"] is None else record["ts"]
    return bool(record["tracked"]) and now - newest > stale_after_s


async def add(db: Executor, names: Iterable[str]) -> list[str]:
    """Makes the names known; returns those that were not. Belongs into a writer's turn."""
    return [row["name"] for row in await db.fetch(ADD, list(names))]
