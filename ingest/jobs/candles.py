"""Builds the candles of prices that were stored before candles existed."""

import logging

from db import times
from db.pool import Database
from db.queries import candles, write_lock

DAYS_PER_TRANSACTION = 7
"""Days of one ticker per transaction: about 10,000 minutes."""
MAX_TRANSACTIONS = 60

log = logging.getLogger(__name__)


async def build_candles(db: Database, max_transactions: int = MAX_TRANSACTIONS) -> int:
    """Builds missing candles in at most `max_transactions`. Returns the number of transactions. Raises DatabaseError."""
    transaction_count = 0
    for ticker in await candles.pending_builds(db):
        built: int | None = times.END
        while built is not None and transaction_count < max_transactions:
            async with write_lock.write_transaction(db) as connection:
                built = await candles.build(connection, ticker, DAYS_PER_TRANSACTION)
            transaction_count += 1
        if built is None:
            log.info("all candles of %s are built", ticker)
    return transaction_count
