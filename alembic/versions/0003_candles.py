"""Create hourly and daily candles, maintained by a trigger on price.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

END = 7_289_654_400

# Scalar subqueries force index lookups. For a join the planner, which has no statistics of the arrays, could read all prices.
REFRESH = """
CREATE FUNCTION refresh_candles(tickers text[], hours bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum)
    SELECT touched.ticker, 3600, touched.ts,
           (SELECT price FROM price AS p WHERE p.ticker = touched.ticker AND p.ts = hour.first), hour.high, hour.low,
           (SELECT price FROM price AS p WHERE p.ticker = touched.ticker AND p.ts = hour.last), hour.count, hour.sum
      FROM (SELECT DISTINCT ticker, ts FROM unnest(tickers, hours) AS given (ticker, ts)) AS touched
     CROSS JOIN LATERAL (
           SELECT min(ts) AS first, max(ts) AS last, max(price) AS high, min(price) AS low, count(*) AS count, sum(price) AS sum
             FROM price AS p
            WHERE p.ticker = touched.ticker AND p.ts >= touched.ts AND p.ts < touched.ts + 3600) AS hour
     WHERE hour.count > 0
        ON CONFLICT (ticker, span, ts) DO UPDATE
       SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
           count = excluded.count, sum = excluded.sum;
    INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum)
    SELECT touched.ticker, 86400, touched.ts,
           (SELECT open FROM candle AS h WHERE h.ticker = touched.ticker AND h.span = 3600 AND h.ts = day.first),
           day.high, day.low,
           (SELECT close FROM candle AS h WHERE h.ticker = touched.ticker AND h.span = 3600 AND h.ts = day.last),
           day.count, day.sum
      FROM (SELECT DISTINCT ticker, ts - ts % 86400 AS ts FROM unnest(tickers, hours) AS given (ticker, ts)) AS touched
     CROSS JOIN LATERAL (
           SELECT min(ts) AS first, max(ts) AS last, max(high) AS high, min(low) AS low, sum(count) AS count, sum(sum) AS sum
             FROM candle AS h
            WHERE h.ticker = touched.ticker AND h.span = 3600 AND h.ts >= touched.ts AND h.ts < touched.ts + 86400) AS day
     WHERE day.count > 0
        ON CONFLICT (ticker, span, ts) DO UPDATE
       SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
           count = excluded.count, sum = excluded.sum;
END $$
"""

# A single price after all others of its day, such as a live price, updates its hour and its day in place. For other prices,
# refresh_candles computes their hours and days again.
KEEP = """
CREATE FUNCTION keep_candles() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved bigint;
BEGIN
    -- write_transaction() has done both already; this enforces them for manual writes.
    PERFORM pg_advisory_xact_lock(7235421);
    PERFORM pg_notify('tickgraph', '');
    INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum)
    SELECT ticker, span, ts - ts % span, price, price, price, price, 1, price
      FROM (SELECT ticker, min(ts) AS ts, min(price) AS price FROM stored GROUP BY ticker HAVING count(*) = 1) AS alone,
           unnest(ARRAY[3600, 86400]) AS span
     WHERE NOT EXISTS (
           SELECT FROM price AS later
            WHERE later.ticker = alone.ticker AND later.ts > alone.ts AND later.ts < alone.ts - alone.ts % 86400 + 86400)
        ON CONFLICT (ticker, span, ts) DO UPDATE
       SET high = greatest(candle.high, excluded.high), low = least(candle.low, excluded.low), close = excluded.close,
           count = candle.count + 1, sum = candle.sum + excluded.sum;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved = 2 * (SELECT count(*) FROM stored) THEN
        RETURN NULL;
    END IF;
    PERFORM refresh_candles(array_agg(ticker), array_agg(hour))
       FROM (SELECT DISTINCT ticker, ts - ts % 3600 AS hour
               FROM stored
              WHERE EXISTS (
                    SELECT FROM price AS later
                     WHERE later.ticker = stored.ticker AND later.ts > stored.ts
                       AND later.ts < stored.ts - stored.ts % 86400 + 86400)
                 OR EXISTS (SELECT FROM stored AS other WHERE other.ticker = stored.ticker AND other.ts <> stored.ts)
            ) AS touched
     HAVING count(*) > 0;
    RETURN NULL;
END $$
"""

TRIGGER = """
CREATE TRIGGER price_keeps_candles AFTER INSERT ON price
REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION keep_candles()
"""

EMPTY = """
CREATE FUNCTION empty_candles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE candle;
    RETURN NULL;
END $$
"""

EMPTY_TRIGGER = """
CREATE TRIGGER price_empties_candles AFTER TRUNCATE ON price FOR EACH STATEMENT EXECUTE FUNCTION empty_candles()
"""

# `candles_from` is the end of the newest day. The trigger handles later minutes; earlier days are still to be built.
TO_BUILD = """
UPDATE ticker SET candles_from = newest.ts - newest.ts % 86400 + 86400
  FROM (SELECT name, (SELECT max(ts) FROM price WHERE ticker = name) AS ts FROM ticker) AS newest
 WHERE newest.name = ticker.name AND newest.ts IS NOT NULL
"""


def upgrade() -> None:
    op.execute("SELECT pg_advisory_xact_lock(7235421)")  # the writer lock: no price is stored during this migration
    op.create_table(
        "candle",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("span", sa.Integer, nullable=False, comment="seconds"),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="its first second; UNIX seconds"),
        sa.Column("open", sa.Numeric, nullable=False),
        sa.Column("high", sa.Numeric, nullable=False),
        sa.Column("low", sa.Numeric, nullable=False),
        sa.Column("close", sa.Numeric, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False, comment="minutes stored"),
        sa.Column("sum", sa.Numeric, nullable=False, comment="of the stored minutes' prices"),
        sa.PrimaryKeyConstraint("ticker", "span", "ts", name=op.f("pk_candle")),
        sa.CheckConstraint("span IN (3600, 86400)", name=op.f("ck_candle_span")),
        sa.CheckConstraint(f"ts % span = 0 AND ts >= 0 AND ts < {END}", name=op.f("ck_candle_ts")),
        sa.CheckConstraint("low <= least(open, close) AND high >= greatest(open, close)", name=op.f("ck_candle_prices")),
        sa.CheckConstraint("count > 0 AND count <= span / 60", name=op.f("ck_candle_count")),
    )
    op.add_column(
        "ticker",
        sa.Column("candles_from", sa.BigInteger, comment="hours and days before it are still to be built; UNIX seconds"),
    )
    op.create_check_constraint(op.f("ck_ticker_candles_from"), "ticker", f"candles_from % 86400 = 0 AND candles_from < {END}")
    op.create_index("ix_gap_missing", "gap", ["ticker", "given_up_at"], postgresql_where=sa.text("filled_at IS NULL"))
    for statement in (REFRESH, KEEP, TRIGGER, EMPTY, EMPTY_TRIGGER, TO_BUILD):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER price_keeps_candles ON price")
    op.execute("DROP TRIGGER price_empties_candles ON price")
    op.execute("DROP FUNCTION keep_candles()")
    op.execute("DROP FUNCTION empty_candles()")
    op.execute("DROP FUNCTION refresh_candles(text[], bigint[])")
    op.drop_index("ix_gap_missing", "gap")
    op.drop_column("ticker", "candles_from")
    op.drop_table("candle")
