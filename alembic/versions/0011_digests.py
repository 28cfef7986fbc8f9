"""Add digests of days, in a hash chain.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "digest",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False, comment="position in the chain, from 1"),
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("day", sa.BigInteger, nullable=False, comment="UTC day; UNIX seconds"),
        sa.Column("sha256", sa.LargeBinary, nullable=False, comment="of the day file"),
        sa.Column("minutes", sa.Integer, nullable=False, comment="stored minutes"),
        sa.Column("as_of", sa.BigInteger, nullable=False, comment="data version that the digest was computed from"),
        sa.Column("checks", sa.LargeBinary, nullable=False, comment="a byte for each minute, to find a minute that differs"),
        sa.Column("chain", sa.LargeBinary, nullable=False, comment="SHA-256 of the previous chain and of this row"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_digest")),
        sa.CheckConstraint("number > 0", name=op.f("ck_digest_number")),
        sa.CheckConstraint("day % 86400 = 0 AND day >= 0", name=op.f("ck_digest_day")),
        sa.CheckConstraint("minutes > 0 AND minutes <= 1440", name=op.f("ck_digest_minutes")),
        sa.CheckConstraint(
            "octet_length(sha256) = 32 AND octet_length(chain) = 32 AND octet_length(checks) = 1440",
            name=op.f("ck_digest_lengths"),
        ),
    )
    op.create_index("ix_digest_day", "digest", ["ticker", "day", "number"])
    op.create_table(
        "digest_progress",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column(
            "position",
            sa.BigInteger,
            nullable=False,
            comment="all changes up to this id are in the digests of the days that are over",
        ),
        sa.Column("closed_until", sa.BigInteger, nullable=False, comment="days before it have digests; UNIX seconds"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_digest_progress")),
        sa.CheckConstraint("id = 1", name=op.f("ck_digest_progress_id")),
        sa.CheckConstraint("closed_until % 86400 = 0", name=op.f("ck_digest_progress_closed_until")),
    )


def downgrade() -> None:
    op.drop_table("digest_progress")
    op.drop_table("digest")
