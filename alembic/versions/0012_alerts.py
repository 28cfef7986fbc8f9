"""Add alerts and the webhooks that they deliver.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"

NOW = sa.text("extract(epoch FROM now())::bigint")
CLOCK = "by the database's clock; UNIX seconds"


def upgrade() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("level", sa.Numeric),
        sa.Column(
            "hysteresis",
            sa.Numeric,
            nullable=False,
            server_default="0",
            comment="distance from the level at which it can be crossed again",
        ),
        sa.Column("direction", sa.Text, nullable=False, server_default="EITHER"),
        sa.Column("percent", sa.Numeric),
        sa.Column("minutes", sa.Integer),
        sa.Column("url", sa.Text, nullable=False, comment="of the webhook; may contain a secret"),
        sa.Column("format", sa.Text, nullable=False, server_default="STANDARD"),
        sa.Column("muted", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("created_at", sa.BigInteger, nullable=False, server_default=NOW, comment=CLOCK),
        sa.Column("state", JSONB, nullable=False, comment="what was decided last"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_alert_ticker")),
        sa.CheckConstraint(
            "kind IN ('CROSSES', 'MOVES', 'STALE', 'GAP', 'STREAM_SILENT', 'DELIVERY_DIFFERS')", name=op.f("ck_alert_kind")
        ),
        sa.CheckConstraint("direction IN ('UP', 'DOWN', 'EITHER')", name=op.f("ck_alert_direction")),
        sa.CheckConstraint("format IN ('STANDARD', 'SLACK', 'DISCORD', 'NTFY')", name=op.f("ck_alert_format")),
        sa.CheckConstraint("(level IS NOT NULL) = (kind = 'CROSSES')", name=op.f("ck_alert_level")),
        sa.CheckConstraint(
            "(percent IS NOT NULL) = (kind IN ('MOVES', 'DELIVERY_DIFFERS')) AND percent > 0", name=op.f("ck_alert_percent")
        ),
        sa.CheckConstraint(
            "(minutes IS NOT NULL) = (kind NOT IN ('CROSSES', 'DELIVERY_DIFFERS')) AND minutes BETWEEN 1 AND 10080",
            name=op.f("ck_alert_minutes"),
        ),
        sa.CheckConstraint("hysteresis >= 0", name=op.f("ck_alert_hysteresis")),
    )
    op.create_table(
        "alert_delivery",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, sa.Identity(always=True), nullable=False, comment="order of the decisions"),
        sa.Column("alert_id", sa.BigInteger, nullable=False),
        sa.Column("event", JSONB, nullable=False, comment="what happened"),
        sa.Column("created_at", sa.BigInteger, nullable=False, server_default=NOW, comment=CLOCK),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=False, server_default=NOW, comment=CLOCK),
        sa.Column("delivered_at", sa.BigInteger, comment="UNIX seconds"),
        sa.Column("failed_at", sa.BigInteger, comment="after the last attempt; UNIX seconds"),
        sa.Column("error", sa.Text, comment="of the last attempt"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_delivery")),
        sa.ForeignKeyConstraint(["alert_id"], ["alert.id"], name=op.f("fk_alert_delivery_alert_id"), ondelete="CASCADE"),
    )
    op.create_index("ix_alert_delivery_alert", "alert_delivery", ["alert_id", "number"])
    op.create_index(
        "ix_alert_delivery_due",
        "alert_delivery",
        ["next_attempt_at"],
        postgresql_where=sa.text("delivered_at IS NULL AND failed_at IS NULL"),
    )
    op.create_index(
        "ix_alert_delivery_failed", "alert_delivery", ["failed_at"], postgresql_where=sa.text("failed_at IS NOT NULL")
    )
    op.create_table(
        "alert_progress",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False, comment="all commits up to this id are decided"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_progress")),
        sa.CheckConstraint("id = 1", name=op.f("ck_alert_progress_id")),
    )


def downgrade() -> None:
    op.drop_table("alert_progress")
    op.drop_table("alert_delivery")
    op.drop_table("alert")
