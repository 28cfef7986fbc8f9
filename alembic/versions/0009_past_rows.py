"""Keep what a later commit changes, so that a query can read the data as of any id.

Prices never change, so their ids suffice. Rows that change get an id, and `past_row` holds their previous versions.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

END = 7_289_654_400
KEY_COLUMNS = {"minute_range": "ts", "gap": "ts", "tracking": "since", "import_period": "since"}
"""The tables whose rows change, each with the column that identifies a row of a ticker."""

ADD_PAST_ROW = """
CREATE FUNCTION add_past_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    past jsonb := to_jsonb(OLD);
    until bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF TG_TABLE_NAME = 'gap' AND (past ->> 'ts')::bigint < (
           SELECT horizon FROM ticker WHERE name = OLD.ticker AND horizon <= extract(epoch FROM now())) THEN
            RETURN OLD;  -- by retention
        END IF;
        until := nextval('data_version');
    ELSE
        IF NEW.id = OLD.id THEN
            NEW.id := nextval('data_version');
        END IF;
        until := NEW.id;
    END IF;
    INSERT INTO past_row (kind, ticker, ts, id, until_id, content)
    VALUES (TG_TABLE_NAME, OLD.ticker, (past ->> TG_ARGV[0])::bigint, OLD.id, until, past - '{ticker,id}'::text[]);
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$
"""
SET_HORIZON_ID = """
CREATE FUNCTION set_horizon_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.horizon_id := nextval('data_version');
    RETURN NEW;
END $$
"""
# An attempt of a backfill is not visible to readers. Only retention deletes ranges, with their past rows.
TRIGGERS = [
    "CREATE TRIGGER minute_range_keeps_past_row BEFORE UPDATE ON minute_range FOR EACH ROW EXECUTE FUNCTION add_past_row('ts')",
    (
        "CREATE TRIGGER gap_update_keeps_past_row BEFORE UPDATE OF reason, filled_at, given_up_at ON gap "
        "FOR EACH ROW EXECUTE FUNCTION add_past_row('ts')"
    ),
    "CREATE TRIGGER gap_delete_keeps_past_row BEFORE DELETE ON gap FOR EACH ROW EXECUTE FUNCTION add_past_row('ts')",
    (
        "CREATE TRIGGER tracking_keeps_past_row BEFORE UPDATE OR DELETE ON tracking "
        "FOR EACH ROW EXECUTE FUNCTION add_past_row('since')"
    ),
    (
        "CREATE TRIGGER import_period_keeps_past_row BEFORE UPDATE OR DELETE ON import_period "
        "FOR EACH ROW EXECUTE FUNCTION add_past_row('since')"
    ),
    (
        "CREATE TRIGGER ticker_sets_horizon_id BEFORE UPDATE OF horizon ON ticker "
        "FOR EACH ROW WHEN (OLD.horizon IS DISTINCT FROM NEW.horizon) EXECUTE FUNCTION set_horizon_id()"
    ),
]


def edit(text: str, *replacements: tuple[str, str]) -> str:
    """Returns the text of a function of an earlier revision with the replacements."""
    for old, new in replacements:
        if old not in text:
            raise ValueError(old)
        text = text.replace(old, new)
    return text


def refresh_candles() -> str:
    """Returns the function of revision 0007, which also sets `last_id`. It is null while that of an hour is unknown."""
    return edit(
        context.script.get_revision("0007").module.REFRESH,
        ("ranged, watched)", "ranged, watched, last_id)"),
        ("coalesce(ranges.watched, 0)\n", "coalesce(ranges.watched, 0), greatest(hour.last_id, ranges.last_id)\n"),
        ("count(*) AS count, sum(price) AS sum\n", "count(*) AS count, sum(price) AS sum, max(id) AS last_id\n"),
        ("(WHERE r.watched_s = 60) AS watched\n", "(WHERE r.watched_s = 60) AS watched, max(r.id) AS last_id\n"),
        ("day.ranged, day.watched\n", "day.ranged, day.watched, day.last_id\n"),
        (
            "sum(watched) AS watched\n",
            (
                "sum(watched) AS watched,\n"
                "                  CASE WHEN bool_and(last_id IS NOT NULL) THEN max(last_id) END AS last_id\n"
            ),
        ),
        ("watched = excluded.watched;", "watched = excluded.watched, last_id = excluded.last_id;"),
    )


def keep_candles() -> str:
    """Returns the function of revision 0007, which also sets `last_id`."""
    return edit(
        context.script.get_revision("0007").module.KEEP,
        ("low, close, count, sum)", "low, close, count, sum, last_id)"),
        ("price, 1, price\n", "price, 1, price, id\n"),
        ("min(price) AS price FROM stored", "min(price) AS price, min(id) AS id FROM stored"),
        (
            "range_sum = candle.range_sum + excluded.sum;",
            (
                "range_sum = candle.range_sum + excluded.sum,\n"
                "           last_id = CASE WHEN candle.last_id IS NOT NULL THEN excluded.last_id END;"
            ),
        ),
    )


def upgrade() -> None:
    op.execute("SELECT pg_advisory_xact_lock(7235421)")  # the writer lock: nothing is stored during this migration
    op.create_table(
        "past_row",
        sa.Column("kind", sa.Text, nullable=False, comment="the table"),
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="the minute, or the first one of a period; UNIX seconds"),
        sa.Column("until_id", sa.BigInteger, nullable=False, comment="the data version that replaced or deleted the row"),
        sa.Column("id", sa.BigInteger, nullable=False, comment="the data version that created the row"),
        sa.Column("content", postgresql.JSONB, nullable=False, comment="the other columns"),
        sa.PrimaryKeyConstraint("kind", "ticker", "ts", "until_id", name=op.f("pk_past_row")),
        sa.CheckConstraint(f"kind IN ({', '.join(repr(name) for name in KEY_COLUMNS)})", name=op.f("ck_past_row_kind")),
        sa.CheckConstraint("id < until_id", name=op.f("ck_past_row_until_id")),
    )
    op.create_table(
        "version_time",
        sa.Column("id", sa.BigInteger, nullable=False, comment="the data version of the first commit of a minute"),
        sa.Column("at", sa.BigInteger, nullable=False, comment="that minute, by the database's clock; UNIX seconds"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_time")),
        sa.CheckConstraint(f"at % 60 = 0 AND at >= 0 AND at < {END}", name=op.f("ck_version_time_at")),
    )
    # Earlier commits have no time, so they count as committed now.
    op.execute("INSERT INTO version_time (id, at) VALUES (0, extract(epoch FROM now())::bigint / 60 * 60)")
    for table in ("gap", "tracking", "import_period"):
        # A constant default does not rewrite the table. Existing rows count as old as the archive.
        op.add_column(
            table,
            sa.Column("id", sa.BigInteger, nullable=False, server_default="0", comment="the data version that created the row"),
        )
        op.alter_column(table, "id", server_default=sa.text("nextval('data_version'::regclass)"))
    op.add_column("ticker", sa.Column("horizon_id", sa.BigInteger, comment="the data version that set the horizon"))
    op.execute("UPDATE ticker SET horizon_id = 0 WHERE horizon IS NOT NULL")
    op.add_column(
        "candle", sa.Column("last_id", sa.BigInteger, comment="the newest id of its prices and ranges; null if unknown")
    )
    for statement in (ADD_PAST_ROW, SET_HORIZON_ID, *TRIGGERS, refresh_candles(), keep_candles()):
        op.execute(statement)


def downgrade() -> None:
    ranges = context.script.get_revision("0007").module
    op.execute(ranges.REFRESH)
    op.execute(ranges.KEEP)
    for trigger in TRIGGERS:
        name, table = trigger.split()[2], trigger.split(" ON ")[1].split()[0]
        op.execute(f"DROP TRIGGER {name} ON {table}")
    op.execute("DROP FUNCTION add_past_row()")
    op.execute("DROP FUNCTION set_horizon_id()")
    op.drop_column("candle", "last_id")
    op.drop_column("ticker", "horizon_id")
    for table in ("gap", "tracking", "import_period"):
        op.drop_column(table, "id")
    op.drop_table("version_time")
    op.drop_table("past_row")
