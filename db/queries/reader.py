"""Views for dashboards and notebooks that read PostgreSQL directly, and a role that can read only them."""

from typing import Final

from db.errors import CommandLineError
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

role_comment: Final = "created by python -m db reader"
"""Comment of the roles that this module created. It changes no other role."""

ROLES: Final = """
SELECT rolname, coalesce(shobj_description(oid, 'pg_authid') = $1, false) AS is_reader FROM pg_roles
"""

WRITERS: Final = """
SELECT format('%I', rolname) AS role FROM pg_roles WHERE has_table_privilege(oid, 'price', 'INSERT')
"""

# A statement that creates a role takes no parameters, so PostgreSQL quotes the values in its text.
QUOTED: Final = """
SELECT format('%I', $1::text) AS role, format('%L', $2::text) AS password, format('%I', current_database()) AS database,
       format('%I', current_schema()) AS schema
"""


async def create(db: Executor, role: str, password: str) -> None:
    """Creates the views, and the role if it does not exist. Otherwise sets its password. Requires a transaction.

    The role can only read the views. Raises CommandLineError if another program created the role, DatabaseError if the role of
    the connection must not create roles.
    """
    roles = await _read_roles(db)
    if not roles.get(role, True):
        raise CommandLineError(f"the role {role} exists, and `python -m db reader` did not create it. Choose another --name")
    for view in (V_PRICE, V_CANDLE, V_GAP):
        await db.execute(view)
    (quoted,) = await db.fetch(QUOTED, role, password)
    verb, name = ("ALTER" if role in roles else "CREATE"), quoted["role"]
    options = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 10"
    await db.execute(f"{verb} ROLE {name} {options} PASSWORD {quoted['password']}")
    await db.execute(f"COMMENT ON ROLE {name} IS '{role_comment}'")
    await db.execute(f"ALTER ROLE {name} SET default_transaction_read_only = on")
    await db.execute(f"ALTER ROLE {name} SET statement_timeout = '30s'")
    # This function runs with the rights of its owner, and PostgreSQL lets every role call a function by default.
    await db.execute("REVOKE EXECUTE ON FUNCTION begin_epoch(text) FROM PUBLIC")
    for writer in await db.fetch(WRITERS):
        await db.execute(f"GRANT EXECUTE ON FUNCTION begin_epoch(text) TO {writer['role']}")
    await db.execute(f"GRANT CONNECT ON DATABASE {quoted['database']} TO {name}")
    await db.execute(f"GRANT USAGE ON SCHEMA {quoted['schema']} TO {name}")
    await db.execute(f"GRANT SELECT ON {', '.join(NAMES)} TO {name}")


async def drop(db: Executor, role: str) -> None:
    """Drops the role, and with the last such role the views. Requires a transaction. Raises CommandLineError."""
    roles = await _read_roles(db)
    if not roles.get(role, False):
        raise CommandLineError(f"there is no role {role} that `python -m db reader` created")
    (quoted,) = await db.fetch(QUOTED, role, "")
    await db.execute(f"REVOKE ALL ON {', '.join(NAMES)} FROM {quoted['role']}")
    await db.execute(f"REVOKE ALL ON DATABASE {quoted['database']} FROM {quoted['role']}")
    await db.execute(f"REVOKE ALL ON SCHEMA {quoted['schema']} FROM {quoted['role']}")
    await db.execute(f"DROP ROLE {quoted['role']}")
    if sum(roles.values()) == 1:
        await db.execute(DROP_VIEWS)


async def _read_roles(db: Executor) -> dict[str, bool]:
    """Returns whether this module created each role."""
    return {row["rolname"]: row["is_reader"] for row in await db.fetch(ROLES, role_comment)}
