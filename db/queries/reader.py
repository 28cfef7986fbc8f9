"""Views for dashboards and notebooks that read PostgreSQL directly, and a role that can read only them."""

from typing import Final

from db.pool import Executor

V_PRICE: Final = """
CREATE OR REPLACE VIEW v_price AS
SELECT p.ticker, to_timestamp(p.ts) AS time, p.ts, p.price, to_timestamp(p.observed_at / 1000000.0) AS observed_at, p.source,
       p.original_source::text AS original_source, p.peer, r.open, r.high, r.low, r.close, r.twap, r.watched_s
  FROM price AS p LEFT JOIN minute_range AS r ON r.ticker = p.ticker AND r.ts = p.ts
"""

V_CANDLE: Final = """
CREATE OR REPLACE VIEW v_candle AS
SELECT ticker, CASE span WHEN 3600 THEN '1h' ELSE '1d' END AS interval, to_timestamp(ts) AS time, ts,
       coalesce(range_open, open) AS open, coalesce(range_high, high) AS high, coalesce(range_low, low) AS low,
       coalesce(range_close, close) AS close, trim_scale(round(coalesce(range_sum, sum)::numeric(60, 18) / count, 12)) AS twap,
       count, span / 60 AS expected, count = span / 60 AS complete
  FROM candle
"""

V_GAP: Final = """
CREATE OR REPLACE VIEW v_gap AS
SELECT ticker, to_timestamp(min(ts)) AS time, to_timestamp(max(ts) + 60) AS time_end, min(ts) AS ts, count(*) AS minutes,
       reason, state
  FROM (SELECT ticker, ts, reason, state, ts - 60 * row_number() OVER (PARTITION BY ticker, reason, state ORDER BY ts) AS part
          FROM (SELECT ticker, ts, reason,
                       CASE WHEN filled_at IS NOT NULL THEN 'FILLED'
                            WHEN given_up_at IS NOT NULL THEN 'GIVEN_UP' ELSE 'OPEN' END AS state
                  FROM gap) AS minute) AS numbered
 GROUP BY ticker, reason, state, part
"""

NAMES: Final = ("v_price", "v_candle", "v_gap")

DROP_VIEWS: Final = """
DROP VIEW IF EXISTS v_price, v_candle, v_gap
"""

HAS_ROLE: Final = """
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)
"""

# A statement that creates a role takes no parameters, so PostgreSQL quotes the values in its text.
QUOTED: Final = """
SELECT format('%I', $1::text) AS role, format('%L', $2::text) AS password, format('%I', current_database()) AS database,
       format('%I', current_schema()) AS schema
"""


async def create(db: Executor, role: str, password: str) -> None:
    """Creates the views, and the role if it does not exist. Otherwise sets its password. Requires a transaction.

    The role can only read the views. Raises DatabaseError if the role of the connection must not create roles.
    """
    for view in (V_PRICE, V_CANDLE, V_GAP):
        await db.execute(view)
    (quoted,) = await db.fetch(QUOTED, role, password)
    verb = "ALTER" if await db.fetchval(HAS_ROLE, role) else "CREATE"
    name = quoted["role"]
    await db.execute(f"{verb} ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {quoted['password']}")
    await db.execute(f"ALTER ROLE {name} SET default_transaction_read_only = on")
    await db.execute(f"ALTER ROLE {name} SET statement_timeout = '30s'")
    await db.execute(f"GRANT CONNECT ON DATABASE {quoted['database']} TO {name}")
    await db.execute(f"GRANT USAGE ON SCHEMA {quoted['schema']} TO {name}")
    await db.execute(f"GRANT SELECT ON {', '.join(NAMES)} TO {name}")


async def drop(db: Executor, role: str) -> None:
    """Drops the views and the role, if they exist. Requires a transaction."""
    await db.execute(DROP_VIEWS)
    (quoted,) = await db.fetch(QUOTED, role, "")
    if await db.fetchval(HAS_ROLE, role):
        await db.execute(f"REVOKE ALL ON DATABASE {quoted['database']} FROM {quoted['role']}")
        await db.execute(f"REVOKE ALL ON SCHEMA {quoted['schema']} FROM {quoted['role']}")
        await db.execute(f"DROP ROLE {quoted['role']}")
