"""Minutes older than RETENTION_DAYS are forgotten, whole days of them, a little at a time."""

import logging
from typing import Final

from db import times
from db.pool import Database
from db.queries import retention, writing

log = logging.getLogger(__name__)

TURNS = 20
"""Of a writer, in a minute: collecting comes between any two of them."""
STEP_MAX_S: Final = 2 * times.DAY
"""A horizon that would move further than this at once is moved by hand only."""


class RetentionRefusedError(Exception):
    """Raised when the horizon is not moved, because a clock or a setting may be wrong. The message says what to do."""


async def retain(now: int | None, days: int | None, db: Database, turns: int = TURNS) -> int:
    """Goes on with forgetting what is older than so many days before `now`; how many rows went.

    `now` is the earliest of the clocks, in UNIX seconds; None where they disagree: then nothing is forgotten. Raises
    RetentionRefusedError where something should be forgotten and is not, DatabaseError.
    """
    if now is None:
        if days is None:
            return 0
        raise RetentionRefusedError("nothing is forgotten while Deribit's and the database's clock disagree")
    refused: list[str] = []
    if days is not None:
        horizon = (now // times.DAY - days) * times.DAY
        due = await retention.steps(db, horizon, now)
        if any(row["step"] <= STEP_MAX_S for row in due):
            async with writing.turn(db) as connection:
                moved = await retention.move(connection, horizon, now, STEP_MAX_S)
            log.info("minutes before %s are forgotten, of %d tickers", times.iso(horizon), len(moved))
        refused = [
            f"{row['name']} ({row['step'] // times.DAY} days, to {times.iso(row['to_ts'])})"
            for row in due
            if row["step"] > STEP_MAX_S
        ]
    forgotten = await forget_behind(now, db, turns)
    if refused:
        raise RetentionRefusedError(
            f"RETENTION_DAYS={days} would forget more than {STEP_MAX_S // times.DAY} days at once of {', '.join(refused[:5])}"
            f"{' and others' if len(refused) > 5 else ''}: nothing of that is done. "  # noqa: PLR2004  a line's worth
            f"If it is meant, run `python -m db forget --before {times.iso(horizon)} --yes`"
        )
    return forgotten


async def forget_behind(now: int, db: Database, turns: int = TURNS) -> int:
    """Forgets what lies before horizons that are not ahead of `now`, in at most so many turns; how many rows went."""
    forgotten = 0
    for ticker in await retention.behind(db, now):
        while turns:
            turns -= 1
            async with writing.turn(db) as connection:
                found = await retention.forget(connection, ticker["name"], ticker["horizon"])
            forgotten += found
            if found < retention.AT_ONCE:
                break
    return forgotten
