"""What happened, in the order of commits: each price stored, and each change beside them. For readers who go on by id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from db.pool import Executor, Record, Transaction
from db.queries import prices
from db.queries.shapes import Column
from db.queries.version import CURRENT

PRICE: Final = {name: Column(name, column.quote) for name, column in prices.AS_TEXT.items()}
"""The texts of a price in an event's record."""

CHANGE: Final = {
    "id": Column("id", '"'),
    "ticker": Column("ticker", '"'),
    "from": Column("from"),
    "to": Column("to"),
    "count": Column("count"),
    "filled": Column("filled"),
}
"""Those of a change. `from`, `to` and `count` as `db.tables.Change` has them."""

_PRICE_TEXTS: Final = ", ".join(
    f"{column.sql} AS {name}" for name, column in prices.AS_TEXT.items() if name not in ("id", "ticker")
)

# A page of rows as they are, then those of them that are told one by one: prices that a `history` tells of are not. Where it
# ends is bounded by the rows read, not by those found, so that a rare ticker does not make it read everything.
AFTER: Final = f"""
WITH page AS MATERIALIZED (
    (SELECT id, 'price' AS kind, ticker, ts, price, observed_at, source, NULL::bigint AS from_ts, NULL::bigint AS to_ts,
            NULL::bigint AS count
       FROM price WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3)
     UNION ALL
    (SELECT id, kind, ticker, NULL, NULL, NULL, NULL, from_ts, to_ts, count
       FROM change WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3)
     ORDER BY id LIMIT $3
), told AS (
    SELECT * FROM page
     WHERE ($4::text[] IS NULL OR ticker = ANY ($4))
       AND (kind <> 'price' OR source = 'LIVE'
            OR coalesce((SELECT history.first_id > page.id
                           FROM change AS history
                          WHERE history.kind = 'history' AND history.ticker = page.ticker AND history.last_id >= page.id
                          ORDER BY history.last_id
                          LIMIT 1), true))
     ORDER BY id
     LIMIT $5
), known AS (
    SELECT coalesce((SELECT min(id) FROM milestone), 0) AS oldest, (SELECT max(id) FROM page) AS last,
           (SELECT count(*) FROM page) AS read
)
SELECT known.*, told.id AS position, kind, ticker, told.id::text AS id, {_PRICE_TEXTS},
       coalesce(from_ts::text, 'null') AS from, coalesce(to_ts::text, 'null') AS to, coalesce(count::text, 'null') AS count,
       (kind = 'gap_closed')::text AS filled
  FROM known LEFT JOIN told ON true
 ORDER BY told.id
"""  # noqa: S608  of the catalogue

PAGE_ROWS: Final = 2_000

EVER: Final = 2**63 - 1
"""For `until`: as far as there is anything."""


@dataclass(frozen=True)
class Page:
    """Some events, in order."""

    events: Sequence[Record]
    """With `position` (the id), `kind` ('price' or as `db.tables.ChangeKind`), `ticker`, and the texts of PRICE or CHANGE."""
    reached: int
    """The id up to which the page tells everything."""
    oldest: int
    """Nothing above this id was forgotten yet."""
    is_last: bool
    """Whether there was no more."""


async def after(
    db: Executor, position: int, until: int, tickers: Sequence[str] | None = None, *, most: int = PAGE_ROWS
) -> Page:
    """The events of the tickers (None: of all) with ids in (position, until], or the first of them, `most` at most."""
    records = await db.fetch(AFTER, position, until, PAGE_ROWS, None if tickers is None else list(tickers), most)
    first = records[0]
    found = records if first["position"] is not None else []
    if len(found) == most:
        reached, is_last = found[-1]["position"], False
    elif first["read"] == PAGE_ROWS:
        reached, is_last = first["last"], False
    else:
        reached, is_last = (max(position, first["last"] or 0) if until == EVER else until), True
    return Page(found, reached, first["oldest"], is_last)


OLDEST: Final = """
SELECT coalesce(min(id), 0) FROM milestone
"""


async def oldest(db: Executor) -> int:
    """Nothing above this id was forgotten yet."""
    found: int = await db.fetchval(OLDEST)
    return found


IS_NOTED: Final = """
SELECT EXISTS (SELECT FROM milestone WHERE at = $1::bigint / 3600 * 3600)
"""

NOTE: Final = f"""
INSERT INTO milestone (at, id) SELECT $1::bigint / 3600 * 3600, ({CURRENT}) ON CONFLICT (at) DO NOTHING
"""

# The version of an hour may have been noted at its very end.
MOVE_OLDEST: Final = """
DELETE FROM milestone
 WHERE at < (SELECT max(at) FROM milestone WHERE at <= $1::bigint - 3600 - $2::bigint)
"""

FORGET: Final = """
DELETE FROM change
 WHERE id IN (SELECT id FROM change WHERE id <= (SELECT min(id) FROM milestone) ORDER BY id LIMIT 10000)
"""


async def is_noted(db: Executor, now: int) -> bool:
    """Whether the version of this hour is noted."""
    found: bool = await db.fetchval(IS_NOTED, now)
    return found


async def forget(db: Transaction, now: int, keep_s: int) -> None:
    """Notes the version of this hour, and forgets up to 10,000 changes older than `keep_s` seconds. Belongs into a turn.

    `now` is the earliest of the clocks that agree.
    """
    await db.execute(NOTE, now)
    await db.execute(MOVE_OLDEST, now, keep_s)
    await db.execute(FORGET)
