"""Create tickers, tracking periods and prices.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
END = 7_289_654_400


def minute(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} % 60 = 0 AND {column} >= 0 AND {column} < {END}", name=op.f(f"ck_{table}_{column}"))


def upgrade() -> None:
    op.execute("CREATE SEQUENCE data_version AS bigint")
    op.create_table(
        "ticker",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("horizon", sa.BigInteger, comment="nothing before this minute is expected; UNIX seconds"),
        sa.Column(
            "checked_until",
            sa.BigInteger,
            comment="every minute before this one is stored or a gap; UNIX seconds",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_ticker")),
        sa.CheckConstraint(f"name ~ '{NAME}'", name=op.f("ck_ticker_name")),
        minute("ticker", "horizon"),
        minute("ticker", "checked_until"),
    )
    op.create_table(
        "tracking",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False, comment="first minute asked for; UNIX seconds"),
        sa.Column(
            "until",
            sa.BigInteger,
            comment="first minute no longer asked for; null while tracked; UNIX seconds",
        ),
        sa.PrimaryKeyConstraint("ticker", "since", name=op.f("pk_tracking")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_tracking_ticker")),
        minute("tracking", "since"),
        minute("tracking", "until"),
        sa.CheckConstraint("until > since", name=op.f("ck_tracking_until_after_since")),
    )
    op.create_index("uq_tracking_open", "tracking", ["ticker"], unique=True, postgresql_where=sa.text("until IS NULL"))
    op.create_table(
        "price",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="the minute; UNIX seconds"),
        sa.Column("id", sa.BigInteger, nullable=False, server_default=sa.text("nextval('data_version'::regclass)")),
        sa.Column("price", sa.Numeric, nullable=False, comment="quote currency, no trailing zeros"),
        sa.Column(
            "observed_at",
            sa.BigInteger,
            comment="when the exchange said it; UNIX microseconds, inside the minute",
        ),
        sa.Column("source", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("ticker", "ts", name=op.f("pk_price")),
        sa.UniqueConstraint("id", name=op.f("uq_price_id")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_price_ticker")),
        minute("price", "ts"),
        sa.CheckConstraint("price > 0 AND price < 1000000000000000", name=op.f("ck_price_price")),
        sa.CheckConstraint("scale(price) = min_scale(price) AND scale(price) <= 18", name=op.f("ck_price_price_normal")),
        sa.CheckConstraint(
            "observed_at >= ts * 1000000 AND observed_at < (ts + 60) * 1000000",
            name=op.f("ck_price_observed_at"),
        ),
        sa.CheckConstraint("source IN ('LIVE', 'BACKFILL', 'IMPORT')", name=op.f("ck_price_source")),
    )


def downgrade() -> None:
    op.drop_table("price")
    op.drop_table("tracking")
    op.drop_table("ticker")
    op.execute("DROP SEQUENCE data_version")
