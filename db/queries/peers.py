"""Comparisons with peers, and the neighbors that a peer's price must be plausible to."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from decimal import Decimal
from typing import Final

from db.pool import Executor, Record, Transaction

# A price of a peer confirms no other price of a peer.
NEIGHBORS: Final = """
(SELECT ts, price FROM price WHERE ticker = $1 AND ts < $2 AND source <> 'PEER' ORDER BY ts DESC LIMIT 1)
 UNION ALL
(SELECT ts, price FROM price WHERE ticker = $1 AND ts >= $2 AND ts <= $3 AND source <> 'PEER')
 UNION ALL
(SELECT ts, price FROM price WHERE ticker = $1 AND ts > $3 AND source <> 'PEER' ORDER BY ts LIMIT 1)
 ORDER BY ts
"""

MINUTES: Final = """
SELECT ts, price, source FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3
"""

COMPARED: Final = """
SELECT ticker FROM peer_comparison WHERE peer = $1 AND day = $2
"""

STORE: Final = """
INSERT INTO peer_comparison (peer, day, ticker, shared, only_here, only_there, median_bps, max_bps, max_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (peer, day, ticker) DO UPDATE
   SET shared = excluded.shared, only_here = excluded.only_here, only_there = excluded.only_there,
       median_bps = excluded.median_bps, max_bps = excluded.max_bps, max_ts = excluded.max_ts
"""

NEWEST: Final = """
SELECT DISTINCT ON (peer, ticker) *
  FROM peer_comparison
 WHERE ticker IN (SELECT ticker FROM tracking WHERE until IS NULL)
 ORDER BY peer, ticker, day DESC
"""


@dataclass(frozen=True)
class Comparison:
    """A day of a ticker here and at a peer. Counts of minutes; differences of live prices of the same minute."""

    peer: str
    day: int
    ticker: str
    shared: int
    only_here: int
    only_there: int
    """Live minutes of the peer that are missing here. Its other minutes are never taken."""
    median_bps: Decimal | None
    """In basis points; None if no minute is live on both sides."""
    max_bps: Decimal | None
    max_ts: int | None


async def neighbors(db: Executor, ticker: str, low: int, high: int) -> list[Record]:
    """Returns the stored prices, not from peers, from the last one before `low` to the first one after `high`: ts, price."""
    return await db.fetch(NEIGHBORS, ticker, low, high)


async def stored_minutes(db: Executor, ticker: str, low: int, high: int) -> list[Record]:
    """Returns the stored minutes in [low, high): ts, price, source."""
    return await db.fetch(MINUTES, ticker, low, high)


async def compared_tickers(db: Executor, peer: str, day: int) -> set[str]:
    """Returns the tickers whose comparison of the day is stored."""
    return {row["ticker"] for row in await db.fetch(COMPARED, peer, day)}


async def store_comparison(db: Transaction, comparison: Comparison) -> None:
    """Stores or replaces a comparison. Requires a write transaction."""
    await db.execute(STORE, *astuple(comparison))


async def newest_comparisons(db: Executor) -> list[Comparison]:
    """Returns the newest comparison of each peer and tracked ticker."""
    return [Comparison(**row) for row in await db.fetch(NEWEST)]


async def newest_by_peer(db: Executor, urls: Iterable[str]) -> dict[str, list[Comparison]]:
    """Returns `newest_comparisons` of each of these peers. Those of peers that were removed are left out."""
    found: dict[str, list[Comparison]] = {url: [] for url in urls}
    for comparison in await newest_comparisons(db):
        if comparison.peer in found:
            found[comparison.peer].append(comparison)
    return found
