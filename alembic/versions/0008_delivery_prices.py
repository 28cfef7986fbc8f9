"""Create delivery prices, with the mean of the ticks before each, and the estimates that differ from the index price.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

END = 7_289_654_400


def upgrade() -> None:
    op.create_table(
        "delivery_price",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="08:00 UTC of the day; UNIX seconds"),
        sa.Column("price", sa.Numeric, nullable=False, comment="as the exchange published it"),
        sa.Column("mean", sa.Numeric, comment="of the 30 minutes before, from our own data; null if they are not known"),
        sa.Column("basis", sa.Text, comment="what the mean was computed from; null without a mean"),
        sa.PrimaryKeyConstraint("ticker", "ts", name=op.f("pk_delivery_price")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_delivery_price_ticker"), ondelete="CASCADE"),
        sa.CheckConstraint(f"ts % 86400 = 28800 AND ts >= 0 AND ts < {END}", name=op.f("ck_delivery_price_ts")),
        sa.CheckConstraint("price > 0 AND price < 1000000000000000", name=op.f("ck_delivery_price_price")),
        sa.CheckConstraint("mean > 0 AND mean < 1000000000000000", name=op.f("ck_delivery_price_mean")),
        sa.CheckConstraint("basis IN ('RANGE', 'CHART')", name=op.f("ck_delivery_price_basis")),
        sa.CheckConstraint("(mean IS NULL) = (basis IS NULL)", name=op.f("ck_delivery_price_mean_basis")),
    )
    op.create_table(
        "delivery_estimate",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="the minute; UNIX seconds"),
        sa.Column("price", sa.Numeric, nullable=False, comment="the exchange's estimate with the price of the minute"),
        sa.PrimaryKeyConstraint("ticker", "ts", name=op.f("pk_delivery_estimate")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_delivery_estimate_ticker"), ondelete="CASCADE"),
        sa.CheckConstraint(f"ts % 60 = 0 AND ts >= 0 AND ts < {END}", name=op.f("ck_delivery_estimate_ts")),
        sa.CheckConstraint("price > 0 AND price < 1000000000000000", name=op.f("ck_delivery_estimate_price")),
    )


def downgrade() -> None:
    op.drop_table("delivery_estimate")
    op.drop_table("delivery_price")
