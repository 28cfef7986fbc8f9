"""Add what the workers report of themselves once a minute.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "worker_report",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False, comment="by the database's clock; UNIX seconds"),
        sa.Column("workers", sa.Integer, nullable=False, comment="hosts with a running worker"),
        sa.Column("queued_prices", sa.Integer, nullable=False, comment="prices in the outbox"),
        sa.Column("queued_ticks", sa.Integer, nullable=False, comment="minutes of ticks in the outbox"),
        sa.Column("clock_skew_s", sa.Double, comment="a worker's clock minus the exchange's, in seconds; null: never measured"),
        sa.Column("streams", sa.Integer, nullable=False, comment="running stream processes"),
        sa.Column("connected_streams", sa.Integer, nullable=False),
        sa.Column("newest_tick_at", sa.Double, comment="the exchange's timestamp of the newest tick; UNIX seconds"),
        sa.Column("failing_jobs", ARRAY(sa.Text), nullable=False, comment="names of jobs whose last run failed"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker_report")),
        sa.CheckConstraint("id = 1", name=op.f("ck_worker_report_id")),
        sa.CheckConstraint(
            "workers >= 0 AND queued_prices >= 0 AND queued_ticks >= 0 AND connected_streams BETWEEN 0 AND streams",
            name=op.f("ck_worker_report_counts"),
        ),
    )


def downgrade() -> None:
    op.drop_table("worker_report")
