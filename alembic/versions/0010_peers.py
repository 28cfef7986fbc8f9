"""Add the source PEER, the peer that had a price, and the daily comparisons with peers.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

SOURCES = "LIVE BACKFILL IMPORT"


def _source_constraint(sources: str) -> str:
    listed = ", ".join(f"'{source}'" for source in sources.split())
    return f"DROP CONSTRAINT ck_price_source, ADD CONSTRAINT ck_price_source CHECK (source IN ({listed}))"


def upgrade() -> None:
    op.execute("SELECT pg_advisory_xact_lock(7235421)")  # the writer lock: nothing is stored during this migration
    op.execute("ALTER TYPE price_source ADD VALUE IF NOT EXISTS 'PEER'")
    op.add_column("price", sa.Column("peer", sa.Text, comment="URL of the peer; null unless the source is PEER"))
    # One statement for both constraints, so that the table is read only once: about 20 s for 100 million rows.
    peer_constraint = "ADD CONSTRAINT ck_price_peer CHECK ((source = 'PEER') = (peer IS NOT NULL))"
    op.execute(f"ALTER TABLE price {_source_constraint(f'{SOURCES} PEER')}, {peer_constraint}")
    op.create_table(
        "peer_comparison",
        sa.Column("peer", sa.Text, nullable=False, comment="URL of the peer"),
        sa.Column("day", sa.BigInteger, nullable=False, comment="UTC day; UNIX seconds"),
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("shared", sa.Integer, nullable=False, comment="minutes that both have"),
        sa.Column("only_here", sa.Integer, nullable=False, comment="minutes that the peer lacks"),
        sa.Column("only_there", sa.Integer, nullable=False, comment="live minutes of the peer that are missing here"),
        sa.Column("median_bps", sa.Numeric, comment="median difference of live prices of the same minute; basis points"),
        sa.Column("max_bps", sa.Numeric, comment="largest such difference; null if no minute is live on both sides"),
        sa.Column("max_ts", sa.BigInteger, comment="its minute; UNIX seconds"),
        sa.PrimaryKeyConstraint("peer", "day", "ticker", name=op.f("pk_peer_comparison")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_peer_comparison_ticker"), ondelete="CASCADE"),
        sa.CheckConstraint("day % 86400 = 0 AND day >= 0", name=op.f("ck_peer_comparison_day")),
        sa.CheckConstraint("shared >= 0 AND only_here >= 0 AND only_there >= 0", name=op.f("ck_peer_comparison_counts")),
    )


def downgrade() -> None:
    """A value of an enum type cannot be removed. It remains and does no harm."""
    op.drop_table("peer_comparison")
    op.drop_constraint(op.f("ck_price_peer"), "price")
    op.execute("UPDATE price SET source = 'BACKFILL' WHERE source = 'PEER'")
    op.execute("UPDATE price SET original_source = NULL WHERE original_source = 'PEER'")
    op.execute(f"ALTER TABLE price {_source_constraint(SOURCES)}")
    op.drop_column("price", "peer")
