"""Create milestones of the data version, so that changes are deleted once no client can resume before them.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

END = 7_289_654_400


def upgrade() -> None:
    op.create_table(
        "milestone",
        sa.Column("at", sa.BigInteger, nullable=False, comment="the hour it was noted in; UNIX seconds"),
        sa.Column("id", sa.BigInteger, nullable=False, comment="the data version then"),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_milestone")),
        sa.CheckConstraint(f"at % 3600 = 0 AND at >= 0 AND at < {END}", name=op.f("ck_milestone_at")),
        sa.CheckConstraint("id >= 0", name=op.f("ck_milestone_id")),
    )
    op.execute("INSERT INTO milestone (at, id) VALUES (0, 0)")  # no change has been deleted yet
    op.create_index("ix_change_history", "change", ["ticker", "last_id"], postgresql_where=sa.text("kind = 'history'"))


def downgrade() -> None:
    op.drop_index("ix_change_history", "change")
    op.drop_table("milestone")
