"""Create import periods, so that missing minutes of an import are gaps, and the original source of imported prices.

Imports before this revision have no period. Import the same files again to record it; no price is stored twice.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

END = 7_289_654_400
SOURCE = sa.Enum("LIVE", "BACKFILL", "IMPORT", name="price_source", create_type=False)

COMMENTS = {
    ("tracking", "since"): ("first minute asked for; UNIX seconds", "first tracked minute; UNIX seconds"),
    ("tracking", "until"): (
        "first minute no longer asked for; null while tracked; UNIX seconds",
        "end of the last tracked minute; null while tracked; UNIX seconds",
    ),
    ("price", "observed_at"): (
        "when the exchange said it; UNIX microseconds, inside the minute",
        "timestamp of the exchange; UNIX microseconds, inside the minute",
    ),
    ("gap", "attempts"): ("charts looked through in vain", "backfill attempts that found no price"),
    ("gap", "filled_at"): ("when its price was stored after all; UNIX seconds", "when its price was stored; UNIX seconds"),
    ("gap", "given_up_at"): (
        "when no chart could resolve it any more; UNIX seconds",
        "when the charts became too coarse for it; UNIX seconds",
    ),
    ("milestone", "at"): ("the hour it was noted in; UNIX seconds", "the hour of the record; UNIX seconds"),
    ("milestone", "id"): ("the data version then", "the data version at that hour"),
    ("epoch", "forked_at"): ("the last id before it that this history holds", "the last earlier id of this history"),
    ("epoch", "identity"): (
        "cluster, timeline and table that it was begun in",
        "cluster, timeline and table in which the epoch began",
    ),
    ("reject", "ticker"): ("null where it cannot be told", "null if unknown"),
    ("reject", "ts"): ("the minute; null where it cannot be told", "the minute; null if unknown; UNIX seconds"),
    ("reject", "entry"): ("as it waited", "the outbox entry"),
}


def upgrade() -> None:
    op.create_table(
        "import_period",
        sa.Column("ticker", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False, comment="first imported minute; UNIX seconds"),
        sa.Column("until", sa.BigInteger, nullable=False, comment="end of the last imported minute; UNIX seconds"),
        sa.PrimaryKeyConstraint("ticker", "since", name=op.f("pk_import_period")),
        sa.ForeignKeyConstraint(["ticker"], ["ticker.name"], name=op.f("fk_import_period_ticker"), ondelete="CASCADE"),
        sa.CheckConstraint(f"since % 60 = 0 AND since >= 0 AND since < {END}", name=op.f("ck_import_period_since")),
        sa.CheckConstraint(f"until % 60 = 0 AND until > since AND until <= {END}", name=op.f("ck_import_period_until")),
    )
    # A CHECK of a new column would read the whole table under a lock; a column of an enum type needs no CHECK.
    SOURCE.create(op.get_bind())
    op.add_column(
        "price",
        sa.Column("original_source", SOURCE, comment="source in the Tickgraph that exported an imported price"),
    )
    for (table, column), (_, new) in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN {table}.{column} IS '{new}'")


def downgrade() -> None:
    for (table, column), (old, _) in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN {table}.{column} IS '{old}'")
    op.drop_column("price", "original_source")
    SOURCE.drop(op.get_bind())
    op.drop_table("import_period")
