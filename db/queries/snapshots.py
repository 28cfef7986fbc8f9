"""Reads as of an earlier data version: the rows that were committed with ids up to it.

`rewrite` turns a statement into one that reads these rows. Prices are never changed, so it only compares their ids. For rows
that change, it adds their previous versions from `past_row`. The clock of the database becomes that of the commit.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from db import times
from db.pool import Executor
from db.queries.retention import valid_horizon_sql
from db.queries.version import CURRENT, FORK

MAX_ID: Final = 2**63 - 1


@dataclass(frozen=True)
class Snapshot:
    """The data as of a commit."""

    id: int
    """The data version."""
    at: int
    """The minute of the commit, in UNIX seconds. It replaces the clock of the database."""
    horizon: int = times.FIRST
    """Minutes before it are not read, because they are or will be deleted."""
    horizon_id: int = 0
    """The data version that set the horizon."""

    @property
    def is_retained(self) -> bool:
        """Whether no minute that the version had is deleted."""
        return self.id >= self.horizon_id

    @property
    def latest_ts(self) -> int:
        """No minute that is stored in the snapshot is later. The clock of the exchange may be ahead of the database's."""
        return self.at + times.MINUTE


@dataclass(frozen=True)
class SnapshotState:
    """What is known of a data version."""

    newest: int
    """The current data version."""
    fork: int | None
    """The last common id, if the version belongs to a lost history."""
    at: int
    """The minute of its commit."""
    horizon: int | None
    """The horizon of the ticker. Earlier minutes are deleted."""
    horizon_id: int | None
    """The data version that set the horizon."""

    def snapshot(self, version: int) -> Snapshot:
        """Returns the snapshot of the version."""
        return Snapshot(version, self.at, self.horizon or times.FIRST, self.horizon_id or 0)


STATE: Final = f"""
SELECT ({CURRENT}) AS newest, ({FORK}) AS fork,
       coalesce((SELECT at FROM version_time WHERE id <= $1 ORDER BY id DESC LIMIT 1), 0) AS at,
       {valid_horizon_sql} AS horizon, horizon_id
  FROM (SELECT $2::text AS name) AS requested LEFT JOIN ticker USING (name)
"""  # noqa: S608  inserts a constant

COLUMNS: Final = {
    "minute_range": "open high low close opened_ms closed_ms twap ticks watched_s longest_silence_ms source",
    "gap": "reason attempts detected_at filled_at given_up_at",
    "tracking": "since until",
    "import_period": "since until",
}
"""The columns of each table in `past_row`, without ticker, ts and id."""

_ID: Final = "(SELECT id FROM as_of)"
_HORIZON: Final = "(SELECT horizon FROM as_of)"

_HAS_TS: Final = ("minute_range", "gap")


def _with_past_rows(table: str) -> str:
    names = COLUMNS[table].split()
    ts = ["ts"] if table in _HAS_TS else []
    retained = f" AND {{}}.ts >= {_HORIZON}" if table in _HAS_TS else ""
    current = ", ".join(["ticker", *ts, "id", *names])
    past = ", ".join(["past_row.ticker", *(f"past_row.{name}" for name in ts), "past_row.id", *(f"p.{name}" for name in names)])
    return f"""(
    SELECT {current} FROM {table} WHERE id <= {_ID}{retained.format(table)}
     UNION ALL
    SELECT {past}
      FROM past_row CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, content) AS p
     WHERE past_row.kind = '{table}' AND past_row.id <= {_ID} AND past_row.until_id > {_ID}{retained.format("past_row")})"""  # noqa: S608  constants


minute_open_sql: Final = (
    "CASE WHEN r.ts IS NULL OR p.observed_at < p.ts * 1000000 + r.opened_ms * 1000 THEN p.price ELSE r.open END"
)
"""The first value of a minute with the price `p` and the range `r`: the earliest evidence, a tick or the price."""
minute_close_sql: Final = (
    "CASE WHEN r.ts IS NULL OR p.observed_at > p.ts * 1000000 + r.closed_ms * 1000 THEN p.price ELSE r.close END"
)

# A stored candle is valid for the snapshot if none of its prices and ranges is newer. The others are computed from minutes. The
# minutes before the horizon are deleted, but their candles no longer change.
_IS_UNCHANGED: Final = f"coalesce(hour.last_id, CASE WHEN hour.ts < {_HORIZON} THEN 0 ELSE {MAX_ID} END) <= {_ID}"
_HOURS: Final = f"""(
    SELECT ticker, span, ts, open, high, low, close, count, sum, range_open, range_high, range_low, range_close, range_sum,
           ranged, watched
      FROM candle AS hour WHERE span = 3600 AND {_IS_UNCHANGED}
     UNION ALL
    SELECT hour.ticker, hour.span, hour.ts, minutes.*
      FROM candle AS hour
     CROSS JOIN LATERAL (
           SELECT (min(ARRAY[p.ts, p.price]))[2], max(p.price), min(p.price), (max(ARRAY[p.ts, p.price]))[2],
                  count(*), sum(p.price),
                  CASE WHEN count(r.ts) > 0 THEN (min(ARRAY[p.ts, {minute_open_sql}]))[2] END,
                  CASE WHEN count(r.ts) > 0 THEN max(greatest(p.price, r.high)) END,
                  CASE WHEN count(r.ts) > 0 THEN min(least(p.price, r.low)) END,
                  CASE WHEN count(r.ts) > 0 THEN (max(ARRAY[p.ts, {minute_close_sql}]))[2] END,
                  CASE WHEN count(r.ts) > 0 THEN sum(coalesce(r.twap, p.price)) END,
                  count(r.ts)::int, (count(*) FILTER (WHERE r.watched_s = 60))::int
             FROM price AS p
             LEFT JOIN {_with_past_rows("minute_range")} AS r
                    ON r.ticker = p.ticker AND r.ts = p.ts AND r.ticker = hour.ticker
                   AND r.ts >= hour.ts AND r.ts < hour.ts + 3600
            WHERE p.ticker = hour.ticker AND p.ts >= hour.ts AND p.ts < hour.ts + 3600 AND p.id <= {_ID}
           HAVING count(*) > 0) AS minutes
     WHERE hour.span = 3600 AND NOT {_IS_UNCHANGED})"""  # noqa: S608  constants

_RELATIONS: Final = {
    "price": f"(SELECT * FROM price WHERE id <= {_ID} AND ts >= {_HORIZON})",  # noqa: S608  constants
    "candle": _HOURS,
    **{table: _with_past_rows(table) for table in COLUMNS},
}


@lru_cache(512)
def _rewritten(statement: str, argument_count: int) -> str:
    """Returns the statement with three more parameters: those of a snapshot."""
    found = re.sub(
        rf"\b(FROM|JOIN) ({'|'.join(_RELATIONS)})\b(?: AS (\w+))?",
        lambda match: f"{match[1]} {_RELATIONS[match[2]]} AS {match[3] or match[2]}",
        statement.replace("extract(epoch FROM now())::bigint", "(SELECT at FROM as_of)").strip(),
    )
    id_, at, horizon = (f"${argument_count + number}::bigint" for number in (1, 2, 3))
    snapshot = f"as_of AS (SELECT {id_} AS id, {at} AS at, {horizon} AS horizon)"
    return f"WITH {snapshot}, {found.removeprefix('WITH ')}" if found.startswith("WITH ") else f"WITH {snapshot} {found}"


def rewrite(snapshot: Snapshot | None, statement: str, *arguments: Any) -> tuple[Any, ...]:
    """Returns the statement and its arguments for the snapshot; unchanged without one.

    Of the stored candles, a statement for a snapshot finds only those of hours.
    """
    if snapshot is None:
        return (statement, *arguments)
    return (_rewritten(statement, len(arguments)), *arguments, snapshot.id, snapshot.at, snapshot.horizon)


async def read_state(db: Executor, version: int, ticker: str | None) -> SnapshotState:
    """Returns what is known of the data version, and the horizon of the ticker."""
    (row,) = await db.fetch(STATE, version, ticker)
    return SnapshotState(**row)
