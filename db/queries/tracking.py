"""Periods of tracking. Both functions belong into a writer's turn."""

from collections.abc import Sequence
from typing import Final

from db.pool import Executor
from db.queries import tickers

# A period that would end in the minute it began in never was one.
FORGET_UNBEGUN: Final = """
DELETE FROM tracking
 WHERE until IS NULL AND since >= $2 AND NOT ticker = ANY ($1::text[])
RETURNING ticker
"""

END_OTHERS: Final = """
UPDATE tracking SET until = $2
 WHERE until IS NULL AND NOT ticker = ANY ($1::text[])
RETURNING ticker
"""

# Never before the end of the period before it, should a clock have gone back. It may begin before the watermark, where the
# database was away when it began: then its minutes must be walked again.
BEGIN: Final = """
WITH began AS (
    INSERT INTO tracking (ticker, since)
    SELECT name, greatest($2::bigint, (SELECT max(until) FROM tracking WHERE ticker = name))
      FROM unnest($1::text[]) AS name
     WHERE NOT EXISTS (SELECT FROM tracking WHERE ticker = name AND until IS NULL)
    RETURNING ticker, since
), rewound AS (
    UPDATE ticker SET checked_until = least(checked_until, since) FROM began WHERE name = ticker
)
SELECT ticker FROM began
"""

# What is not expected is no gap.
DROP_GAPS: Final = """
DELETE FROM gap WHERE ticker = ANY ($1::text[]) AND ts >= $2 AND filled_at IS NULL
"""

TELL: Final = """
INSERT INTO change (kind, ticker, from_ts) SELECT 'tracking', unnest($1::text[]), $2::bigint
"""

HAS_PRICE: Final = """
SELECT EXISTS (SELECT FROM price WHERE ticker = $1)
"""

FORGET: Final = """
DELETE FROM tracking
 WHERE ticker = $1 AND until IS NULL
RETURNING since
"""

END: Final = """
UPDATE tracking SET until = $2 WHERE ticker = $1 AND until IS NULL AND since < $2
"""

FORGET_TICKER: Final = """
DELETE FROM ticker
 WHERE name = $1
   AND NOT EXISTS (SELECT FROM price WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM tracking WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM gap WHERE ticker = $1)
"""


async def follow(db: Executor, names: Sequence[str], minute: int) -> tuple[list[str], list[str]]:
    """Makes the open periods those of `names`, from `minute` on; returns the names that (began, ended)."""
    wanted = list(names)
    unbegun = [row["ticker"] for row in await db.fetch(FORGET_UNBEGUN, wanted, minute)]
    ended = [row["ticker"] for row in await db.fetch(END_OTHERS, wanted, minute)]
    await tickers.add(db, wanted)
    began = [row["ticker"] for row in await db.fetch(BEGIN, wanted, minute)]
    if ended or unbegun:
        await db.execute(DROP_GAPS, ended + unbegun, minute)
    if began or ended or unbegun:
        await db.execute(TELL, began + ended + unbegun, minute)
    return began, ended


async def take_back(db: Executor, name: str, minute: int) -> None:
    """Ends the period of a name that the exchange does not know, and forgets the name where it never had a price."""
    if await db.fetchval(HAS_PRICE, name):
        await db.execute(END, name, minute)
    # The whole period, where it was not ended just now.
    since = await db.fetchval(FORGET, name)
    await db.execute(DROP_GAPS, [name], minute if since is None else since)
    await db.execute(FORGET_TICKER, name)
    await db.execute(TELL, [name], minute)
