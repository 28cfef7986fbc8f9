"""Periods of tracking. Both functions belong into a writer's turn."""

from collections.abc import Sequence
from typing import Final

from db.pool import Executor

# A period that would end in the minute it began in never was one.
FORGET_UNBEGUN: Final = """
DELETE FROM tracking
 WHERE until IS NULL AND since >= $2 AND NOT ticker = ANY ($1::text[])
"""

END_OTHERS: Final = """
UPDATE tracking SET until = $2
 WHERE until IS NULL AND NOT ticker = ANY ($1::text[])
RETURNING ticker
"""

ADD_TICKERS: Final = """
INSERT INTO ticker (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING
"""

# Never before the end of the period before it, should a clock have gone back.
BEGIN: Final = """
INSERT INTO tracking (ticker, since)
SELECT name, greatest($2::bigint, (SELECT max(until) FROM tracking WHERE ticker = name))
  FROM unnest($1::text[]) AS name
 WHERE NOT EXISTS (SELECT FROM tracking WHERE ticker = name AND until IS NULL)
RETURNING ticker
"""

HAS_PRICE: Final = """
SELECT EXISTS (SELECT FROM price WHERE ticker = $1)
"""

FORGET: Final = """
DELETE FROM tracking
 WHERE ticker = $1 AND until IS NULL
"""

END: Final = """
UPDATE tracking SET until = $2 WHERE ticker = $1 AND until IS NULL AND since < $2
"""

FORGET_TICKER: Final = """
DELETE FROM ticker
 WHERE name = $1
   AND NOT EXISTS (SELECT FROM price WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM tracking WHERE ticker = $1)
"""


async def follow(db: Executor, names: Sequence[str], minute: int) -> tuple[list[str], list[str]]:
    """Makes the open periods those of `names`, from `minute` on; returns the names that (began, ended)."""
    wanted = list(names)
    await db.execute(FORGET_UNBEGUN, wanted, minute)
    ended = await db.fetch(END_OTHERS, wanted, minute)
    await db.execute(ADD_TICKERS, wanted)
    began = await db.fetch(BEGIN, wanted, minute)
    return [row["ticker"] for row in began], [row["ticker"] for row in ended]


async def take_back(db: Executor, name: str, minute: int) -> None:
    """Ends the period of a name that the exchange does not know, and forgets the name where it never had a price."""
    if await db.fetchval(HAS_PRICE, name):
        await db.execute(END, name, minute)
    await db.execute(FORGET, name)
    await db.execute(FORGET_TICKER, name)
