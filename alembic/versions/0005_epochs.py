"""Create epochs of ids, so that no id of a lost history is reused; take the writer lock before an id is assigned.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# Identifies the cluster, its timeline (a promoted replica begins a new one) and the table (a restored dump creates a new one).
# If a provider forbids one of the functions, the other parts still distinguish histories. SECURITY DEFINER gives every role
# the same result.
IDENTITY = """
CREATE FUNCTION database_identity() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    cluster text := '';
    timeline text := '';
BEGIN
    BEGIN
        cluster := (SELECT system_identifier::text FROM pg_control_system());
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    RETURN cluster || '/' || timeline || '/' || 'price'::regclass::oid;
END $$
"""

# Ids of an epoch begin at its start second times 2^20 (below 2^53 until the year 2200), so two histories restored from one
# backup do not assign the same ids. A clock that is slow only makes the step smaller.
BEGIN_EPOCH = """
CREATE FUNCTION begin_epoch(new_identity text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    last bigint := greatest((SELECT max(id) FROM price), (SELECT max(id) FROM change), (SELECT max(id) FROM milestone),
                            (SELECT max(first_id) FROM epoch), 0);
    first bigint := greatest(least(extract(epoch FROM clock_timestamp())::bigint, 7289654400) << 20, last + (1 << 20));
BEGIN
    INSERT INTO epoch (first_id, forked_at, identity) VALUES (first, last, new_identity);
    PERFORM setval('data_version', first, false);
END $$
"""

# A BEFORE trigger takes the lock before the rows get their ids, so ids follow the order of commits for every writer.
TAKE_LOCK = """
CREATE FUNCTION take_writers_lock() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    here text;
BEGIN
    PERFORM pg_advisory_xact_lock(7235421);
    here := database_identity();
    IF here IS DISTINCT FROM (SELECT identity FROM epoch ORDER BY first_id DESC LIMIT 1) THEN
        PERFORM begin_epoch(here);
    END IF;
    RETURN NULL;
END $$
"""

TRIGGERS = [
    f"CREATE TRIGGER {table}_takes_lock BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION take_writers_lock()"
    for table in ("price", "change")
]

# Same as in 0003, but without the lock, which the BEFORE trigger takes.
KEEP = """
CREATE OR REPLACE FUNCTION keep_candles() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved bigint;
BEGIN
    {lock}
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
LOCK = "PERFORM pg_advisory_xact_lock(7235421);"


def upgrade() -> None:
    op.execute("SELECT pg_advisory_xact_lock(7235421)")  # the writer lock: no price is stored during this migration
    op.create_table(
        "epoch",
        sa.Column("first_id", sa.BigInteger, nullable=False, comment="no id of the epoch is lower"),
        sa.Column("forked_at", sa.BigInteger, nullable=False, comment="the last id before it that this history holds"),
        sa.Column("identity", sa.Text, nullable=False, comment="cluster, timeline and table that it was begun in"),
        sa.Column(
            "begun_at",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("extract(epoch FROM now())::bigint"),
            comment="by the database's clock; UNIX seconds",
        ),
        sa.PrimaryKeyConstraint("first_id", name=op.f("pk_epoch")),
        sa.CheckConstraint("forked_at >= 0 AND forked_at < first_id", name=op.f("ck_epoch_forked_at")),
    )
    for statement in (IDENTITY, BEGIN_EPOCH, TAKE_LOCK, *TRIGGERS, KEEP.format(lock="")):
        op.execute(statement)
    op.execute("INSERT INTO epoch (first_id, forked_at, identity) VALUES (1, 0, database_identity())")


def downgrade() -> None:
    op.execute(KEEP.format(lock=LOCK))
    for table in ("price", "change"):
        op.execute(f"DROP TRIGGER {table}_takes_lock ON {table}")
    for function in ("take_writers_lock()", "begin_epoch(text)", "database_identity()"):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("epoch")
