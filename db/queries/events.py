"""Events in the order of commits: stored prices, ranges and changes. Clients resume by the id of an event."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from db.pool import Executor, Record, Transaction
from db.queries import prices, ranges
from db.queries.shapes import Column
from db.queries.version import CURRENT

PRICE_COLUMNS: Final = {name: Column(name, column.quote) for name, column in prices.JSON_COLUMNS.items()} | {
    "estimated_delivery_price": Column("estimated_delivery_price")
}
"""JSON columns of a price event."""

RANGE_COLUMNS: Final = {name: Column(f"range_{name}", column.quote) for name, column in ranges.JSON_COLUMNS.items()}
"""JSON columns of a range event, and of the range of a price event. All are None if the minute has no range."""

CHANGE_COLUMNS: Final = {
    "id": Column("id", '"'),
    "ticker": Column("ticker", '"'),
    "from": Column("from"),
    "to": Column("to"),
    "count": Column("count"),
    "filled": Column("filled"),
}
"""JSON columns of a change event. `from`, `to` and `count` are those of `db.tables.Change`."""

_RANGE_JSON_SQL: Final = ", ".join(f"{column.sql} AS range_{name}" for name, column in ranges.JSON_COLUMNS.items())

_PRICE_JSON_SQL: Final = ", ".join(
    f"{column.sql} AS {name}" for name, column in prices.JSON_COLUMNS.items() if name not in ("id", "ticker")
)

# Reads a page of rows, then selects the events. Rows that a `history` event covers are no events of their own. The page is
# limited by the rows read, not by the events found, so that a query for a rare ticker does not read the whole history.
EVENTS_AFTER: Final = f"""
WITH page AS MATERIALIZED (
    (SELECT id, 'price' AS kind, ticker, ts, price, observed_at, source, original_source, peer,
            NULL::bigint AS from_ts, NULL::bigint AS to_ts, NULL::bigint AS count
       FROM price WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3)
     UNION ALL
    (SELECT id, 'range', ticker, ts, NULL, NULL, source::text, NULL, NULL, NULL, NULL, NULL
       FROM minute_range WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3)
     UNION ALL
    (SELECT id, kind, ticker, NULL, NULL, NULL, NULL, NULL, NULL, from_ts, to_ts, count
       FROM change WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3)
     ORDER BY id LIMIT $3
), selected_events AS (
    SELECT * FROM page
     WHERE ($4::text[] IS NULL OR ticker = ANY ($4))
       AND (kind NOT IN ('price', 'range') OR source = 'LIVE'
            OR coalesce((SELECT history.first_id > page.id
                           FROM change AS history
                          WHERE history.kind = 'history' AND history.ticker = page.ticker AND history.last_id >= page.id
                          ORDER BY history.last_id
                          LIMIT 1), true))
     ORDER BY id
     LIMIT $5
), bounds AS (
    SELECT coalesce((SELECT min(id) FROM milestone), 0) AS oldest, (SELECT max(id) FROM page) AS last,
           (SELECT count(*) FROM page) AS read
)
SELECT bounds.*, selected_events.id AS position, kind, ticker, selected_events.id::text AS id, {_PRICE_JSON_SQL},
       coalesce(from_ts::text, 'null') AS from, coalesce(to_ts::text, 'null') AS to, coalesce(count::text, 'null') AS count,
       (kind = 'gap_closed')::text AS filled, minute_range.*,
       coalesce('"' || (SELECT e.price::text FROM delivery_estimate AS e
                         WHERE e.ticker = selected_events.ticker AND e.ts = selected_events.ts) || '"', 'null')
       AS estimated_delivery_price
  FROM bounds LEFT JOIN selected_events ON true
  LEFT JOIN LATERAL (SELECT {_RANGE_JSON_SQL} FROM minute_range AS r
                      WHERE r.ticker = selected_events.ticker AND r.ts = selected_events.ts) AS minute_range ON true
 ORDER BY selected_events.id
"""  # noqa: S608  inserts constants

PAGE_ROWS: Final = 2_000

MAX_ID: Final = 2**63 - 1
"""Value of `until` for no upper bound."""


@dataclass(frozen=True)
class Page:
    """A page of events, in order of their ids."""

    events: Sequence[Record]
    """Records with `position` (the id), `kind` ('price', 'range' or a `db.rows.ChangeKind`), `ticker`, and the columns of
    PRICE_COLUMNS, RANGE_COLUMNS or CHANGE_COLUMNS."""
    end_position: int
    """The page contains all events up to this id."""
    oldest_resumable_id: int
    """All events above this id are still available."""
    is_last: bool
    """Whether there are no further events."""


async def read_events_after(
    db: Executor, position: int, until: int, tickers: Sequence[str] | None = None, *, max_events: int = PAGE_ROWS
) -> Page:
    """Returns the next events with ids in (position, until] of the tickers, or of all if `tickers` is None.

    Reads at most PAGE_ROWS rows and returns at most `max_events` events. More may follow an empty page: see `is_last`.
    """
    records = await db.fetch(EVENTS_AFTER, position, until, PAGE_ROWS, None if tickers is None else list(tickers), max_events)
    first = records[0]
    found = records if first["position"] is not None else []
    if len(found) == max_events:
        end_position, is_last = found[-1]["position"], False
    elif first["read"] == PAGE_ROWS:
        end_position, is_last = first["last"], False
    else:
        end_position, is_last = (max(position, first["last"] or 0) if until == MAX_ID else until), True
    return Page(found, end_position, first["oldest"], is_last)


OLDEST: Final = """
SELECT coalesce(min(id), 0) FROM milestone
"""


async def oldest_resumable_id(db: Executor) -> int:
    """Returns the oldest id to resume from: all events above it are still available."""
    found: int = await db.fetchval(OLDEST)
    return found


HAS_MILESTONE: Final = """
SELECT EXISTS (SELECT FROM milestone WHERE at = $1::bigint / 3600 * 3600)
"""

INSERT_MILESTONE: Final = f"""
INSERT INTO milestone (at, id) SELECT $1::bigint / 3600 * 3600, ({CURRENT}) ON CONFLICT (at) DO NOTHING
"""

# A milestone may have been recorded at the very end of its hour, hence the 3600.
DELETE_OLD_MILESTONES: Final = """
DELETE FROM milestone
 WHERE at < (SELECT max(at) FROM milestone WHERE at <= $1::bigint - 3600 - $2::bigint)
"""

DELETE_OLD_CHANGES: Final = """
DELETE FROM change
 WHERE id IN (SELECT id FROM change WHERE id <= (SELECT min(id) FROM milestone) ORDER BY id LIMIT 10000)
"""


async def has_milestone(db: Executor, now: int) -> bool:
    """Whether the milestone of this hour is recorded."""
    found: bool = await db.fetchval(HAS_MILESTONE, now)
    return found


async def record_milestone(db: Transaction, now: int, retention_s: int) -> None:
    """Records the milestone of this hour. Deletes milestones, and up to 10,000 changes, older than `retention_s` seconds.

    `now` is the earliest of the clocks that agree. Requires a write transaction.
    """
    await db.execute(INSERT_MILESTONE, now)
    await db.execute(DELETE_OLD_MILESTONES, now, retention_s)
    await db.execute(DELETE_OLD_CHANGES)
