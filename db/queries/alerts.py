"""Alerts and their webhooks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import orjson

from db import times
from db.alert_rules import MAX_MINUTES, AlertRule, Firing, Point, State, initial_state
from db.pool import Executor, Record, Transaction
from db.queries.version import CURRENT
from db.rows import AlertDirection, AlertFormat, AlertKind

RETENTION_S: Final = 30 * 86_400
"""Webhooks that were delivered, or have failed, are deleted after this time."""
LEASE_S: Final = 120
"""How long a worker has to deliver a webhook before another worker tries."""
MAX_ATTEMPTS: Final = 29
"""With the delays between them, about a day. Attempts are counted, because a clock may be wrong."""
MAX_DELAY_S: Final = 3_600

_COLUMNS: Final = "id, kind, ticker, level, hysteresis, direction, percent, minutes, url, format, muted, created_at, state"

LIST: Final = f"""
SELECT {_COLUMNS} FROM alert ORDER BY id
"""  # noqa: S608  inserts a constant

CREATE: Final = f"""
INSERT INTO alert (kind, ticker, level, hysteresis, direction, percent, minutes, url, format, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb)
RETURNING {_COLUMNS}
"""  # noqa: S608  inserts a constant

DELETE: Final = """
DELETE FROM alert WHERE id = $1 RETURNING id
"""

SET_MUTED: Final = f"""
UPDATE alert SET muted = $2 WHERE id = $1 RETURNING {_COLUMNS}
"""  # noqa: S608  inserts a constant

SET_STATE: Final = """
UPDATE alert SET state = $2::text::jsonb WHERE id = $1
"""

# The first worker creates the row. Its lock is held until the end of the transaction.
LOCK_PROGRESS: Final = f"""
INSERT INTO alert_progress (id, position) VALUES (1, ({CURRENT}))
    ON CONFLICT (id) DO UPDATE SET position = alert_progress.position
RETURNING position
"""  # noqa: S608  inserts a constant

SET_PROGRESS: Final = """
UPDATE alert_progress SET position = $1
"""

PRICES_AFTER: Final = """
SELECT id, ticker, ts, price FROM price WHERE id > $1 ORDER BY id LIMIT $2
"""

PRICES_BETWEEN: Final = """
SELECT ts, price FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 ORDER BY ts
"""

NEWEST: Final = """
SELECT ts, price FROM price WHERE ticker = $1 AND ts <= $2 ORDER BY ts DESC LIMIT 1
"""

CONDITIONS: Final = f"""
SELECT name AS ticker,
       (SELECT max(ts) FROM price WHERE ticker = name AND ts <= $2) AS newest,
       (SELECT max(ts) FROM minute_range
         WHERE ticker = name AND ts <= $2 AND ts > $2 - 60 * ({MAX_MINUTES} + 2) AND source = 'LIVE') AS newest_range,
       (SELECT count(*) FROM gap WHERE ticker = name AND filled_at IS NULL AND given_up_at IS NULL) AS open_gaps,
       (SELECT min(ts) FROM gap WHERE ticker = name AND filled_at IS NULL AND given_up_at IS NULL) AS first_gap,
       (SELECT since FROM tracking WHERE ticker = name AND until IS NULL) AS tracked_since,
       delivery.*
  FROM unnest($1::text[]) AS name
  LEFT JOIN LATERAL (
       SELECT ts AS delivery_ts, price AS delivery_price, abs(mean - price) / price * 100 AS difference_percent
         FROM delivery_price WHERE ticker = name AND mean IS NOT NULL ORDER BY ts DESC LIMIT 1) AS delivery ON true
"""  # noqa: S608  inserts a constant

ADD_DELIVERY: Final = """
INSERT INTO alert_delivery (id, alert_id, event) VALUES ($1, $2, $3::text::jsonb) ON CONFLICT (id) DO NOTHING
"""

ADD_TEST: Final = """
INSERT INTO alert_delivery (id, alert_id, event)
SELECT 'msg_' || id || '_test-' || gen_random_uuid(), id,
       jsonb_build_object('kind', kind, 'alert', id, 'ticker', ticker, 'ts', at, 'timestamp', to_timestamp(at), 'price', NULL,
                          'test', true, 'text', 'This is a test of alert ' || id || ' for ' || ticker)
  FROM alert, (SELECT extract(epoch FROM now())::bigint AS at) AS clock
 WHERE id = $1
RETURNING id
"""

# At most one webhook of each alert, the first one. A time far in the future was set by a wrong clock.
CLAIM: Final = f"""
UPDATE alert_delivery AS d
   SET next_attempt_at = extract(epoch FROM now())::bigint + {LEASE_S}
  FROM (SELECT *
          FROM (SELECT DISTINCT ON (alert_id) number, next_attempt_at, url, format
                  FROM alert_delivery JOIN alert ON alert.id = alert_id
                 WHERE delivered_at IS NULL AND failed_at IS NULL AND (NOT muted OR (event ->> 'test')::bool)
                   AND (next_attempt_at <= extract(epoch FROM now())::bigint
                        OR next_attempt_at > extract(epoch FROM now())::bigint + {MAX_DELAY_S + LEASE_S})
                 ORDER BY alert_id, number) AS first
         ORDER BY next_attempt_at, number LIMIT $1) AS due
 WHERE d.number = due.number AND d.next_attempt_at = due.next_attempt_at  -- otherwise another worker has it
RETURNING d.id, d.event, due.url, due.format
"""  # noqa: S608  inserts constants

SET_DELIVERED: Final = """
UPDATE alert_delivery SET delivered_at = extract(epoch FROM now())::bigint, attempts = attempts + 1, error = NULL WHERE id = $1
"""

SET_FAILED: Final = """
UPDATE alert_delivery
   SET error = $2, attempts = attempts + 1,
       next_attempt_at = extract(epoch FROM now())::bigint + least($3::bigint, 60 * 2 ^ least(attempts, 20))::bigint,
       failed_at = CASE WHEN attempts + 1 >= $4 THEN extract(epoch FROM now())::bigint END
 WHERE id = $1 AND delivered_at IS NULL
RETURNING failed_at
"""

DELIVERIES: Final = """
SELECT id, alert_id, event, created_at, attempts, next_attempt_at, delivered_at, failed_at, error
  FROM unnest($1::bigint[]) AS requested
 CROSS JOIN LATERAL (
       SELECT * FROM alert_delivery WHERE alert_id = requested ORDER BY number DESC LIMIT $2) AS delivery
 ORDER BY alert_id, number DESC
"""

COUNT_FAILED: Final = """
SELECT count(*) FROM alert_delivery WHERE failed_at > extract(epoch FROM now())::bigint - 86400
"""

DELETE_OLD: Final = """
DELETE FROM alert_delivery WHERE greatest(delivered_at, failed_at) < extract(epoch FROM now())::bigint - $1
"""


def rule_of(record: Record) -> AlertRule:
    """Builds the rule of a record of `list_alerts`."""
    return AlertRule(
        kind=AlertKind(record["kind"]),
        ticker=record["ticker"],
        url=record["url"],
        level=record["level"],
        hysteresis=record["hysteresis"],
        direction=AlertDirection(record["direction"]),
        percent=record["percent"],
        minutes=record["minutes"],
        format=AlertFormat(record["format"]),
    )


def state_of(record: Record) -> State:
    """Returns the state of a record of `list_alerts`."""
    state: State = orjson.loads(record["state"])
    return state


async def list_alerts(db: Executor) -> list[Record]:
    """Returns all alerts, oldest first, with the columns of the table."""
    return await db.fetch(LIST)


def event_of(record: Record) -> dict[str, Any]:
    """Returns the event of a webhook of `claim` or `deliveries`."""
    event: dict[str, Any] = orjson.loads(record["event"])
    return event


async def create(db: Transaction, rule: AlertRule, now: int) -> Record:
    """Stores a rule. What is stored until the minute `now` does not fire. The ticker must be known."""
    await lock_progress(db)  # until the end, no worker decides a commit that the state includes
    newest = await db.fetchrow(NEWEST, rule.ticker, now)
    state = initial_state(None if newest is None else Point(newest["ts"], newest["price"]), rule)
    values = asdict(rule)
    columns = ("kind", "ticker", "level", "hysteresis", "direction", "percent", "minutes", "url", "format")
    record = await db.fetchrow(CREATE, *(values[name] for name in columns), orjson.dumps(state).decode())
    assert record is not None  # noqa: S101  the statement inserts one row
    return record


async def delete(db: Executor, alert_id: int) -> bool:
    """Deletes an alert and its deliveries. Returns whether it existed."""
    return await db.fetchval(DELETE, alert_id) is not None


async def set_muted(db: Executor, alert_id: int, *, muted: bool) -> Record | None:
    """Mutes an alert, or unmutes it. Returns it, or None if it does not exist."""
    return await db.fetchrow(SET_MUTED, alert_id, muted)


async def lock_progress(db: Transaction) -> int:
    """Waits until no other worker decides. Returns the id up to which all commits are decided."""
    position: int = await db.fetchval(LOCK_PROGRESS)
    return position


async def set_progress(db: Transaction, position: int, states: Mapping[int, State]) -> None:
    """Stores up to which id all commits are decided, and the states of the alerts."""
    await db.execute(SET_PROGRESS, position)
    for alert_id, state in states.items():
        await db.execute(SET_STATE, alert_id, orjson.dumps(state).decode())


async def prices_after(db: Executor, position: int, limit: int) -> list[Record]:
    """Returns the prices with ids above `position`, in the order of their commits: id, ticker, ts, price."""
    return await db.fetch(PRICES_AFTER, position, limit)


async def points_between(db: Executor, ticker: str, low: int, high: int) -> list[Point]:
    """Returns the stored prices of the minutes in [low, high), oldest first."""
    return [Point(row["ts"], row["price"]) for row in await db.fetch(PRICES_BETWEEN, ticker, low, high)]


async def conditions(db: Executor, tickers: Sequence[str], now: int) -> dict[str, Record]:
    """Returns what conditions depend on, for each ticker. Minutes after `now` are ignored."""
    return {row["ticker"]: row for row in await db.fetch(CONDITIONS, list(tickers), now)}


async def add_delivery(db: Executor, alert_id: int, key: str, event: Mapping[str, Any]) -> str:
    """Stores a webhook to deliver, unless one with this key exists. Returns its id."""
    delivery_id = f"msg_{alert_id}_{key}"
    await db.execute(ADD_DELIVERY, delivery_id, alert_id, orjson.dumps(event).decode())
    return delivery_id


async def add_test(db: Executor, alert_id: int) -> str | None:
    """Stores a webhook that says that it is a test. Returns its id, or None if there is no such alert."""
    found: Record | None = await db.fetchrow(ADD_TEST, alert_id)
    return None if found is None else str(found["id"])


def build_event(alert_id: int, rule: AlertRule, firing: Firing) -> dict[str, Any]:
    """Returns what a webhook says. Numbers that are prices are strings, with all digits."""
    return {
        "kind": rule.kind,
        "alert": alert_id,
        "ticker": rule.ticker,
        "ts": firing.ts,
        "timestamp": times.iso(firing.ts),
        "price": None if firing.price is None else f"{firing.price:f}",
        "text": firing.text,
    }


async def claim(db: Executor, limit: int) -> list[Record]:
    """Returns webhooks that are due, at most one of each alert: id, event, url, format.

    No other worker gets them for LEASE_S seconds.
    """
    return await db.fetch(CLAIM, limit)


async def set_delivered(db: Executor, delivery_id: str) -> None:
    """Stores that the receiver accepted a webhook."""
    await db.execute(SET_DELIVERED, delivery_id)


async def set_failed(db: Executor, delivery_id: str, error: str) -> bool:
    """Stores why an attempt failed. The next one follows after a minute, then two, four, … Returns whether it was the last."""
    return await db.fetchval(SET_FAILED, delivery_id, error[:500], MAX_DELAY_S, MAX_ATTEMPTS) is not None


async def deliveries(db: Executor, alert_ids: Sequence[int], limit: int) -> list[Record]:
    """Returns the newest webhooks of each alert, with the columns of the table."""
    return await db.fetch(DELIVERIES, list(alert_ids), limit)


async def count_failed(db: Executor) -> int:
    """Returns the number of webhooks that were given up in the last day."""
    count: int = await db.fetchval(COUNT_FAILED)
    return count


async def delete_old(db: Executor) -> None:
    """Deletes webhooks that were delivered, or failed, RETENTION_S seconds ago."""
    await db.execute(DELETE_OLD, RETENTION_S)
