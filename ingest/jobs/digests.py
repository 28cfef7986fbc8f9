"""Appends the digests of days that are over, and of earlier days whose minutes have changed since."""

import logging
from collections.abc import Sequence
from typing import Final

from db import times
from db.pool import Database
from db.queries import candles, digests, version, write_lock
from db.queries.digests import Progress

log = logging.getLogger(__name__)

CLOSE_DELAY_S: Final = 15 * times.MINUTE
"""How long after midnight the digests of a day are computed. Short gaps are filled and ranges are complete by then."""
BATCH_DAYS: Final = 20
"""Days of tickers per transaction. Each takes a few milliseconds, and collected prices wait for the transaction."""


async def update_digests(now: int, db: Database) -> None:
    """Brings the digests up to date. An interruption loses nothing: the next run continues.

    `now` is the earliest of the clocks that agree, in UNIX seconds. Raises DatabaseError.
    """
    progress = await digests.read_progress(db) or await _set_progress(Progress(await version.current(db), times.FIRST), db)
    progress = await _append_changed_days(progress, db)
    if not await candles.pending_builds(db):  # days are found by their candles
        await _append_closed_days(progress, (now - CLOSE_DELAY_S) // times.DAY * times.DAY, db)


async def _append_changed_days(progress: Progress, db: Database) -> Progress:
    is_last = progress.position >= await version.current(db)
    while not is_last:
        changed = await digests.changed_days(db, progress.position)
        await _append([(ticker, day) for ticker, day in changed.days if day < progress.closed_until], db)
        progress = await _set_progress(Progress(changed.position, progress.closed_until), db)
        is_last = changed.is_last
    return progress


async def _append_closed_days(progress: Progress, today: int, db: Database) -> None:
    while (day := await digests.next_day(db, progress.closed_until)) is not None and day < today:
        due = await digests.tickers_of_day(db, day)
        for row in due:
            if row["needs_refresh"]:
                async with write_lock.write_transaction(db) as connection:
                    await digests.refresh_candles(connection, row["name"], day)
        await _append([(row["name"], day) for row in due], db)
        progress = await _set_progress(Progress(progress.position, day + times.DAY), db)


async def _append(days: Sequence[tuple[str, int]], db: Database) -> None:
    for start in range(0, len(days), BATCH_DAYS):
        async with write_lock.write_transaction(db) as connection:
            appended = await digests.append(connection, days[start : start + BATCH_DAYS])
        for entry in appended:
            log.debug("digest %s", entry.line)


async def _set_progress(progress: Progress, db: Database) -> Progress:
    async with write_lock.write_transaction(db) as connection:
        await digests.set_progress(connection, progress)
    return progress
