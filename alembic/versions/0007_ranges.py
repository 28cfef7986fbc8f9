"""Create ranges of minutes, from the ticks of the exchange, and extend the candles by them.

Hours and days without a range, so all existing ones, stay as they are.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

END = 7_289_654_400
SOURCE = postgresql.ENUM("LIVE", "BACKFILL", "IMPORT", name="price_source", create_type=False)

# A stored minute with a range: its evidence is the ticks and the price. The earliest is the open, the latest the close.
MINUTE_OPEN = "CASE WHEN r.ts IS NULL OR p.observed_at < p.ts * 1000000 + r.opened_ms * 1000 THEN p.price ELSE r.open END"
MINUTE_CLOSE = "CASE WHEN r.ts IS NULL OR p.observed_at > p.ts * 1000000 + r.closed_ms * 1000 THEN p.price ELSE r.close END"

REFRESH = f"""
CREATE OR REPLACE FUNCTION refresh_candles(tickers text[], hours bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum,
                        range_open, range_high, range_low, range_close, range_sum, ranged, watched)
    SELECT touched.ticker, 3600, touched.ts,
           (SELECT price FROM price AS p WHERE p.ticker = touched.ticker AND p.ts = hour.first), hour.high, hour.low,
           (SELECT price FROM price AS p WHERE p.ticker = touched.ticker AND p.ts = hour.last), hour.count, hour.sum,
           ranges.open, ranges.high, ranges.low, ranges.close, ranges.sum,
           coalesce(ranges.ranged, 0), coalesce(ranges.watched, 0)
      FROM (SELECT DISTINCT ticker, ts FROM unnest(tickers, hours) AS given (ticker, ts)) AS touched
     CROSS JOIN LATERAL (
           SELECT min(ts) AS first, max(ts) AS last, max(price) AS high, min(price) AS low, count(*) AS count, sum(price) AS sum
             FROM price AS p
            WHERE p.ticker = touched.ticker AND p.ts >= touched.ts AND p.ts < touched.ts + 3600) AS hour
      LEFT JOIN LATERAL (
           SELECT (min(ARRAY[p.ts, {MINUTE_OPEN}]))[2] AS open, max(greatest(p.price, r.high)) AS high,
                  min(least(p.price, r.low)) AS low, (max(ARRAY[p.ts, {MINUTE_CLOSE}]))[2] AS close,
                  sum(coalesce(r.twap, p.price)) AS sum, count(r.ts) AS ranged,
                  count(*) FILTER (WHERE r.watched_s = 60) AS watched
             FROM price AS p
             LEFT JOIN minute_range AS r
                    ON r.ticker = p.ticker AND r.ts = p.ts AND r.ts >= touched.ts AND r.ts < touched.ts + 3600
            WHERE p.ticker = touched.ticker AND p.ts >= touched.ts AND p.ts < touched.ts + 3600
              -- A scalar subquery is evaluated once, before the prices are read.
              AND (SELECT true FROM minute_range AS any_range
                    WHERE any_range.ticker = touched.ticker AND any_range.ts >= touched.ts AND any_range.ts < touched.ts + 3600
                    LIMIT 1)
           HAVING count(r.ts) > 0) AS ranges ON true
     WHERE hour.count > 0
        ON CONFLICT (ticker, span, ts) DO UPDATE
       SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
           count = excluded.count, sum = excluded.sum, range_open = excluded.range_open, range_high = excluded.range_high,
           range_low = excluded.range_low, range_close = excluded.range_close, range_sum = excluded.range_sum,
           ranged = excluded.ranged, watched = excluded.watched;
    INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum,
                        range_open, range_high, range_low, range_close, range_sum, ranged, watched)
    SELECT touched.ticker, 86400, touched.ts, first.open, day.high, day.low, last.close, day.count, day.sum,
           CASE WHEN day.ranged > 0 THEN coalesce(first.range_open, first.open) END,
           CASE WHEN day.ranged > 0 THEN day.range_high END,
           CASE WHEN day.ranged > 0 THEN day.range_low END,
           CASE WHEN day.ranged > 0 THEN coalesce(last.range_close, last.close) END,
           CASE WHEN day.ranged > 0 THEN day.range_sum END, day.ranged, day.watched
      FROM (SELECT DISTINCT ticker, ts - ts % 86400 AS ts FROM unnest(tickers, hours) AS given (ticker, ts)) AS touched
     CROSS JOIN LATERAL (
           SELECT min(ts) AS first, max(ts) AS last, max(high) AS high, min(low) AS low, sum(count) AS count, sum(sum) AS sum,
                  max(coalesce(range_high, high)) AS range_high, min(coalesce(range_low, low)) AS range_low,
                  sum(coalesce(range_sum, sum)) AS range_sum, sum(ranged) AS ranged, sum(watched) AS watched
             FROM candle AS h
            WHERE h.ticker = touched.ticker AND h.span = 3600 AND h.ts >= touched.ts AND h.ts < touched.ts + 86400) AS day
     -- LIMIT forces index lookups. The planner, which has no statistics of the arrays, would read all candles for a join.
     CROSS JOIN LATERAL (
           SELECT * FROM candle AS h WHERE h.ticker = touched.ticker AND h.span = 3600 AND h.ts = day.first LIMIT 1) AS first
     CROSS JOIN LATERAL (
           SELECT * FROM candle AS h WHERE h.ticker = touched.ticker AND h.span = 3600 AND h.ts = day.last LIMIT 1) AS last
     WHERE day.count > 0
        ON CONFLICT (ticker, span, ts) DO UPDATE
       SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
           count = excluded.count, sum = excluded.sum, range_open = excluded.range_open, range_high = excluded.range_high,
           range_low = excluded.range_low, range_close = excluded.range_close, range_sum = excluded.range_sum,
           ranged = excluded.ranged, watched = excluded.watched;
END $$
"""  # noqa: S608  inserts constants

# A single price after all others of its day, such as a live price, updates its hour and its day in place, also their ranges
# if they have one. A price whose minute already has a range is rare: its hour and its day are computed again, like those of a
# price that is not the last.
KEEP = """
CREATE OR REPLACE FUNCTION keep_candles() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved bigint;
BEGIN
    PERFORM pg_notify('tickgraph', '');
    INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum)
    SELECT ticker, span, ts - ts % span, price, price, price, price, 1, price
      FROM (SELECT ticker, min(ts) AS ts, min(price) AS price FROM stored GROUP BY ticker HAVING count(*) = 1) AS alone,
           unnest(ARRAY[3600, 86400]) AS span
     WHERE NOT EXISTS (
           SELECT FROM price AS later
            WHERE later.ticker = alone.ticker AND later.ts > alone.ts AND later.ts < alone.ts - alone.ts % 86400 + 86400)
       AND NOT EXISTS (SELECT FROM minute_range AS r WHERE r.ticker = alone.ticker AND r.ts = alone.ts)
        ON CONFLICT (ticker, span, ts) DO UPDATE
       SET high = greatest(candle.high, excluded.high), low = least(candle.low, excluded.low), close = excluded.close,
           count = candle.count + 1, sum = candle.sum + excluded.sum,
           range_high = CASE WHEN candle.ranged > 0 THEN greatest(candle.range_high, excluded.high) END,
           range_low = CASE WHEN candle.ranged > 0 THEN least(candle.range_low, excluded.low) END,
           range_close = CASE WHEN candle.ranged > 0 THEN excluded.close END,
           range_sum = candle.range_sum + excluded.sum;
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
                 OR EXISTS (SELECT FROM minute_range AS r WHERE r.ticker = stored.ticker AND r.ts = stored.ts)
            ) AS touched
     HAVING count(*) > 0;
    RETURN NULL;
END $$
"""

# The range of a minute without a price waits for the price, whose trigger adds both to the candles.
RANGES = """
CREATE FUNCTION add_ranges_to_candles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tickgraph', '');
    PERFORM refresh_candles(array_agg(ticker), array_agg(hour))
       FROM (SELECT DISTINCT stored.ticker, stored.ts - stored.ts % 3600 AS hour
               FROM stored
              WHERE EXISTS (SELECT FROM price AS p WHERE p.ticker = stored.ticker AND p.ts = stored.ts)) AS touched
     HAVING count(*) > 0;
    RETURN NULL;
END $$
"""
# As in 0005, but the ids of ranges count, too.
BEGIN_EPOCH = """
CREATE OR REPLACE FUNCTION begin_epoch(new_identity text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    last bigint := greatest((SELECT max(id) FROM price), (SELECT max(id) FROM minute_range), (SELECT max(id) FROM change),
                            (SELECT max(id) FROM milestone), (SELECT max(first_id) FROM epoch), 0);
    first bigint := greatest(least(extract(epoch FROM clock_timestamp())::bigint, 7289654400) << 20, last + (1 << 20));
BEGIN
    INSERT INTO epoch (first_id, forked_at, identity) VALUES (first, last, new_identity);
    PERFORM setval('data_version', first, false);
END $$
"""
TRIGGERS = [
    (
        "CREATE TRIGGER minute_range_takes_lock BEFORE INSERT ON minute_range "
        "FOR EACH STATEMENT EXECUTE FUNCTION take_writers_lock()"
    ),
    *(
        (
            f"CREATE TRIGGER minute_range_{event.lower()}_changes_candles AFTER {event} ON minute_range "
            "REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION add_ranges_to_candles()"
        )
        for event in ("INSERT", "UPDATE")
    ),
]


def upgrade() -> None:
    op.execute("SELECT pg_advisory_xact_lock(7235421)")  # the writer lock: no price is stored during this migration
    op.create_table(
        "minute_range",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="the minute; UNIX seconds"),
        sa.Column("id", sa.BigInteger, server_default=sa.text("nextval('data_version')"), nullable=False),
        *(sa.Column(name, sa.Numeric, nullable=False) for name in ("open", "high", "low", "close")),
        sa.Column("opened_ms", sa.Integer, nullable=False, comment="when the open was published; milliseconds of the minute"),
        sa.Column("closed_ms", sa.Integer, nullable=False, comment="when the close was published; milliseconds of the minute"),
        sa.Column("twap", sa.Numeric, comment="mean price, weighted by time; null if imported"),
        sa.Column("ticks", sa.Integer, comment="number of ticks; null if imported"),
        sa.Column(
            "watched_s",
            sa.SmallInteger,
            comment="seconds that ticks cover; 60: watched completely; null if imported",
        ),
        sa.Column("longest_silence_ms", sa.Integer, comment="longest time without a tick; null if imported"),
        sa.Column("source", SOURCE, nullable=False),
        sa.PrimaryKeyConstraint("ticker", "ts", name=op.f("pk_minute_range")),
        sa.UniqueConstraint("id", name=op.f("uq_minute_range_id")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_minute_range_ticker")),
        sa.CheckConstraint(f"ts % 60 = 0 AND ts >= 0 AND ts < {END}", name=op.f("ck_minute_range_ts")),
        sa.CheckConstraint("low > 0 AND high < 1000000000000000", name=op.f("ck_minute_range_prices")),
        sa.CheckConstraint(
            "low <= least(open, close, twap) AND high >= greatest(open, close, twap)", name=op.f("ck_minute_range_order")
        ),
        sa.CheckConstraint(
            "opened_ms >= 0 AND closed_ms >= opened_ms AND closed_ms < 60000", name=op.f("ck_minute_range_instants")
        ),
        sa.CheckConstraint("ticks > 0", name=op.f("ck_minute_range_ticks")),
        sa.CheckConstraint("watched_s >= 0 AND watched_s <= 60", name=op.f("ck_minute_range_watched_s")),
        sa.CheckConstraint(
            "longest_silence_ms >= 0 AND longest_silence_ms <= 60000", name=op.f("ck_minute_range_longest_silence_ms")
        ),
        sa.CheckConstraint(
            "num_nulls(twap, ticks, watched_s, longest_silence_ms) = CASE source WHEN 'IMPORT' THEN 4 ELSE 0 END",
            name=op.f("ck_minute_range_watched"),
        ),
    )
    op.create_table(
        "minute_ticks",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="the minute; UNIX seconds"),
        sa.Column(
            "ticks",
            sa.Text,
            nullable=False,
            comment="JSON list of [milliseconds of the minute, price, arrival in UNIX microseconds]",
        ),
        sa.Column(
            "stored_at",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("extract(epoch FROM now())::bigint"),
            comment="by the database's clock; UNIX seconds",
        ),
        sa.PrimaryKeyConstraint("ticker", "ts", name=op.f("pk_minute_ticks")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_minute_ticks_ticker")),
        sa.CheckConstraint(f"ts % 60 = 0 AND ts >= 0 AND ts < {END}", name=op.f("ck_minute_ticks_ts")),
    )
    op.create_index("ix_minute_ticks_stored_at", "minute_ticks", ["stored_at"])
    for name, comment in (
        ("range_open", "of prices and ranges, like the following ones; null without a range"),
        ("range_high", None),
        ("range_low", None),
        ("range_close", None),
        ("range_sum", "of the mean of each stored minute, or its price if it has no range"),
    ):
        op.add_column("candle", sa.Column(name, sa.Numeric, comment=comment))
    for name, comment in (
        ("ranged", "stored minutes that have a range"),
        ("watched", "stored minutes that were watched completely"),
    ):
        op.add_column("candle", sa.Column(name, sa.Integer, nullable=False, server_default="0", comment=comment))
    op.create_check_constraint(
        op.f("ck_candle_ranged"), "candle", "ranged >= 0 AND ranged <= count AND watched >= 0 AND watched <= ranged"
    )
    op.create_check_constraint(
        op.f("ck_candle_range_prices"),
        "candle",
        "num_nulls(range_open, range_high, range_low, range_close, range_sum) = CASE WHEN ranged = 0 THEN 5 ELSE 0 END "
        "AND range_low <= least(low, range_open, range_close) AND range_high >= greatest(high, range_open, range_close)",
    )
    for statement in (REFRESH, KEEP, RANGES, BEGIN_EPOCH, *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    candles, epochs = (context.script.get_revision(revision).module for revision in ("0003", "0005"))
    op.execute(candles.REFRESH.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(epochs.KEEP.format(lock=""))
    op.execute(epochs.BEGIN_EPOCH.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.drop_table("minute_ticks")
    op.drop_table("minute_range")
    op.execute("DROP FUNCTION add_ranges_to_candles()")
    for name in ("ck_candle_ranged", "ck_candle_range_prices"):
        op.drop_constraint(op.f(name), "candle")
    for name in ("range_open", "range_high", "range_low", "range_close", "range_sum", "ranged", "watched"):
        op.drop_column("candle", name)
