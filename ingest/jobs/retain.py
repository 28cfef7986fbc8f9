"""Deletes minutes older than RETENTION_DAYS: whole days, in small transactions."""

import logging
from typing import Final

from db import times
from db.pool import Database
from db.queries import retention, write_lock

log = logging.getLogger(__name__)

MAX_TRANSACTIONS = 20
"""Transactions per minute. Collected prices are stored between any two of them."""
MAX_STEP_S: Final = 2 * times.DAY
"""A horizon that would move further than this at once is only moved by `python -m db forget`."""


class RetentionRefusedError(Exception):
    """Raised when the horizon is not moved, because a clock or a setting may be wrong. The message says what to do."""


async def retain(now: int | None, days: int | None, db: Database, max_transactions: int = MAX_TRANSACTIONS) -> int:
    """Moves horizons to `days` before `now` and deletes the minutes before them. Returns the number of deleted rows.

    Without `days`, no horizon moves, but minutes before existing horizons are deleted.

    `now` is the earliest of the clocks, in UNIX seconds; None if they disagree: then nothing is deleted. Raises
    RetentionRefusedError if something is due but not deleted, and DatabaseError.
    """
    if now is None:
        if days is None:
            return 0
        raise RetentionRefusedError(
            "nothing is deleted while Deribit's and the database's clock disagree: correct the wrong one"
        )
    refused: list[str] = []
    if days is not None:
        horizon = (now // times.DAY - days) * times.DAY
        due = await retention.list_horizon_steps(db, horizon, now)
        if any(row["step"] <= MAX_STEP_S for row in due):
            async with write_lock.write_transaction(db) as connection:
                moved = await retention.advance_horizons(connection, horizon, now, MAX_STEP_S)
            log.info("deleting minutes before %s of %d tickers", times.iso(horizon), len(moved))
        refused = [
            f"{row['name']} ({row['step'] // times.DAY} days, to {times.iso(row['to_ts'])})"
            for row in due
            if row["step"] > MAX_STEP_S
        ]
    deleted_count = await retention.delete_expired(db, now, max_transactions)
    if refused:
        raise RetentionRefusedError(
            f"RETENTION_DAYS={days} would delete more than {MAX_STEP_S // times.DAY} days at once of {', '.join(refused[:5])}"
            f"{' and others' if len(refused) > 5 else ''}: these are not deleted. "  # noqa: PLR2004  a line's worth
            f"To delete them, run `python -m db forget --before {times.iso(horizon)} --yes`"
        )
    return deleted_count
