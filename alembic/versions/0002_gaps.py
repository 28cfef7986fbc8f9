"""Create gaps, change events for clients that maintain a copy, and rejected entries.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

END = 7_289_654_400
REASONS = "timeout refused http_5xx rate_limited malformed testnet maintenance clock storage not_collected"
KINDS = "history gap_opened gap_closed gap_given_up tracking horizon"
NOW = sa.text("extract(epoch FROM now())::bigint")


def one_of(table: str, column: str, values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values.split())
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}"))


def upgrade() -> None:
    op.create_table(
        "gap",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False, comment="the minute; UNIX seconds"),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0", comment="charts looked through in vain"),
        sa.Column(
            "detected_at",
            sa.BigInteger,
            nullable=False,
            server_default=NOW,
            comment="by the database's clock; UNIX seconds",
        ),
        sa.Column("filled_at", sa.BigInteger, comment="when its price was stored after all; UNIX seconds"),
        sa.Column("given_up_at", sa.BigInteger, comment="when no chart could resolve it any more; UNIX seconds"),
        sa.PrimaryKeyConstraint("ticker", "ts", name=op.f("pk_gap")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_gap_ticker")),
        sa.CheckConstraint(f"ts % 60 = 0 AND ts >= 0 AND ts < {END}", name=op.f("ck_gap_ts")),
        one_of("gap", "reason", REASONS),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_gap_attempts")),
    )
    op.create_index("ix_gap_open", "gap", ["ts"], postgresql_where=sa.text("filled_at IS NULL AND given_up_at IS NULL"))
    op.create_table(
        "change",
        sa.Column("id", sa.BigInteger, nullable=False, server_default=sa.text("nextval('data_version'::regclass)")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("from_ts", sa.BigInteger, comment="first minute concerned; UNIX seconds"),
        sa.Column("to_ts", sa.BigInteger, comment="end of the last minute concerned; null: open; UNIX seconds"),
        sa.Column("count", sa.BigInteger, comment="minutes concerned"),
        sa.Column("first_id", sa.BigInteger, comment="history: lowest id of its prices"),
        sa.Column("last_id", sa.BigInteger, comment="history: highest id of its prices"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
        one_of("change", "kind", KINDS),
    )
    op.create_table(
        "reject",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("ticker", sa.Text, comment="null where it cannot be told"),
        sa.Column("ts", sa.BigInteger, comment="the minute; null where it cannot be told"),
        sa.Column("entry", sa.Text, nullable=False, comment="as it waited"),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column(
            "set_aside_at",
            sa.BigInteger,
            nullable=False,
            server_default=NOW,
            comment="by the database's clock; UNIX seconds",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reject")),
    )
    op.create_index("ix_reject_minute", "reject", ["ticker", "ts"])


def downgrade() -> None:
    op.drop_table("reject")
    op.drop_table("change")
    op.drop_table("gap")
