"""Appends the digests of days that are over, and of earlier days whose minutes have changed since."""

import logging
from collections.abc import Sequence
from typing import Final

from db import times
from db.pool import Database
from db.queries import candles, digests, version, write_lock
from db.queries.digests import Progress
from ingest.jobs.deadline import Deadline

log = logging.getLogger(__name__)

CLOSE_DELAY_S: Final = 15 * times.MINUTE
"""How long after midnight the digests of a day are computed. Short gaps are filled and ranges are complete by then."""
BATCH_DAYS: Final = 20
"""Days of tickers per transaction. Each takes a few milliseconds, and collected prices wait for the transaction."""
BUDGET_S: Final = 6.0
"""Time of a run. The next minute continues."""


async def update_digests(now: int, db: Database, budget_s: float = BUDGET_S) -> None:
    """Brings the digests up to date, or as far as the time allows. An interruption loses nothing.

    `now` is the earliest of the clocks that agree, in UNIX seconds. Raises DatabaseError.
    """
    deadline = Deadline(budget_s)
    progress = await digests.read_progress(db)
    if progress is None:
        progress = Progress(await version.current(db), times.FIRST)
        await _append([], progress, db)
    today = (now - CLOSE_DELAY_S) // times.DAY * times.DAY
    progress = await _append_changed_days(progress, today, db, deadline)
    if not await candles.pending_builds(db):  # days are found by their candles
        await _append_closed_days(progress, today, db, deadline)


async def _append_changed_days(progress: Progress, today: int, db: Database, deadline: Deadline) -> Progress:
    is_last = progress.position >= await version.current(db)
    while not is_last and deadline.remaining_s():
        changed = await digests.changed_days(db, progress.position)
        # A clock that was ahead may have closed a day too early. Its later minutes change its digest.
        end = max(today, progress.closed_until)
        days = [day for day in changed.days if day.day < end or day.has_digest]
        # The days are in the order of their first ids, so everything before the first id of the next day is done.
        for start in range(0, len(days), BATCH_DAYS):
            if not deadline.remaining_s():
                return progress
            rest = days[start + BATCH_DAYS :]
            progress = Progress(rest[0].first_id - 1 if rest else changed.position, progress.closed_until)
            await _append([(day.ticker, day.day) for day in days[start : start + BATCH_DAYS]], progress, db)
        if not days:
            progress = Progress(changed.position, progress.closed_until)
            await _append([], progress, db)
        is_last = changed.is_last
    return progress


async def _append_closed_days(progress: Progress, today: int, db: Database, deadline: Deadline) -> None:
    while deadline.remaining_s():
        day = await digests.next_day(db, progress.closed_until)
        if day is None or day >= today:
            return
        due = await digests.tickers_without_digest(db, day)
        for start in range(0, len(due), BATCH_DAYS):
            if not deadline.remaining_s():
                return
            batch = due[start : start + BATCH_DAYS]
            for row in batch:
                if row["needs_refresh"]:
                    async with write_lock.write_transaction(db) as connection:
                        await digests.refresh_candles(connection, row["name"], day)
            await _append([(row["name"], day) for row in batch], progress, db)
        progress = Progress(progress.position, day + times.DAY)
        await _append([], progress, db)


async def _append(days: Sequence[tuple[str, int]], progress: Progress, db: Database) -> None:
    """Appends the digests of the days, and stores the progress in the same transaction."""
    async with write_lock.write_transaction(db) as connection:
        appended = await digests.append(connection, days)
        await digests.set_progress(connection, progress)
    for entry in appended:
        log.debug("digest %s", entry.line)
