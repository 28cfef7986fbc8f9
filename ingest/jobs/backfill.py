"""Gaps filled from the exchange's own chart, where it is fine enough to tell a minute."""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from pydantic import ValidationError

from db import times
from db.errors import DatabaseError
from db.pool import Database
from db.queries import gaps, writing
from db.queries.gaps import Minute
from db.tables import PriceRow, Reason
from db.tables import Source as Origin
from ingest.errors import SourceError, UnknownTickerError
from ingest.jobs.store import store
from ingest.outbox import Outbox
from ingest.source import ChartPoint, Source

log = logging.getLogger(__name__)

AT_ONCE = 10_000
"""Gaps looked at in a run, the newest first."""
STEP_AT_MOST_S = 60.0
"""An average over more than a minute is no minute's price."""


@dataclass
class Backfilled:
    """What became of gaps, in minutes."""

    filled: int = 0
    given_up: int = 0
    left: int = 0
    """Not found in a chart that could have told them, or not looked for because the exchange did not answer."""


async def backfill(now: int, *, source: Source, db: Database, outbox: Outbox) -> Backfilled:
    """Fills what can be filled of the gaps whose turn it is, the newest first: the finest window is the first to close.

    `now` is the exchange's, in UNIX seconds. Raises OutboxError or DatabaseError, having kept what was filled by then.
    """
    waiting = await outbox.minutes()
    open_ = [gap for gap in await gaps.newest_open(db, now, AT_ONCE) if gap not in waiting]
    return await fill(open_, now, source=source, db=db)


async def fill(missing: Sequence[Minute], now: int, *, source: Source, db: Database) -> Backfilled:
    """Looks the minutes (newest first) up in charts, one call for each ticker and window, and stores what they tell."""
    done = Backfilled()
    groups: dict[tuple[str, str], list[int]] = {}
    for ticker, ts in missing:
        groups.setdefault((ticker, source.window(now - ts)), []).append(ts)
    for place, ((ticker, window), minutes) in enumerate(groups.items()):
        try:
            await _fill_one(ticker, window, minutes, done, source, db)
        except DatabaseError:
            raise
        except Exception as error:
            done.left += len(minutes)
            if not isinstance(error, SourceError):
                log.exception("%s: a chart that nothing was made for", ticker)
                continue
            log.warning("%s of %s left for later: %s", times.minutes(len(minutes)), ticker, error)
            if isinstance(error, UnknownTickerError):
                await _count_attempt(ticker, minutes, db)
            elif error.reason is not Reason.MALFORMED:  # not this ticker's alone: the others would fare no better now
                done.left += sum(map(len, list(groups.values())[place + 1 :]))
                break
    return done


async def _fill_one(ticker: str, window: str, minutes: Sequence[int], done: Backfilled, source: Source, db: Database) -> None:
    chart = Chart(await source.chart(ticker, window))
    found = chart.rows(ticker, minutes)
    done.filled += (await store(db, found)).new
    told = {row.ts for row in found}
    silent = [ts for ts in minutes if ts not in told]
    # Of what lies before its first point a chart tells nothing: its window may begin a step late.
    hopeless = [ts for ts in silent if chart.too_coarse and chart.reaches(ts)]
    if hopeless:
        async with writing.turn(db) as connection:
            await gaps.give_up(connection, ticker, hopeless)
    _tell(ticker, len(found), hopeless, chart)
    done.given_up += len(hopeless)
    left = [ts for ts in silent if ts not in set(hopeless)]
    done.left += len(left)
    if left:
        await _count_attempt(ticker, left, db)


async def _count_attempt(ticker: str, minutes: Sequence[int], db: Database) -> None:
    async with writing.turn(db) as connection:
        await gaps.count_attempt(connection, ticker, minutes)


@dataclass
class Chart:
    """Averages of the exchange, ascending; what they are averages over is found from their distances."""

    points: Sequence[ChartPoint]
    step_s: float | None = field(init=False)
    """Seconds from one point to the next, as they mostly are; None where there are too few to tell."""

    def __post_init__(self) -> None:
        self.points = list({point.at: point for point in reversed(self.points)}.values())[::-1]
        self._instants = [point.at for point in self.points]
        distances = [later - earlier for earlier, later in pairwise(self._instants)]
        self.step_s = median(distances) / 1000 if distances else None

    @property
    def too_coarse(self) -> bool:
        """Whether its points are averages over more than a minute."""
        return self.step_s is not None and self.step_s > STEP_AT_MOST_S

    def reaches(self, ts: int) -> bool:
        """Whether it begins before the minute ends."""
        return bool(self._instants) and self._instants[0] < (ts + times.MINUTE) * 1000

    def first_in(self, ts: int) -> ChartPoint | None:
        """The first point inside the minute that is known to be an average over a minute at most."""
        if self.step_s is None or self.too_coarse:
            return None
        place = bisect_left(self._instants, ts * 1000)
        if place == len(self.points) or self._instants[place] >= (ts + times.MINUTE) * 1000:
            return None
        beside = self._instants[max(0, place - 1) : place + 2]
        nearest_s = min(later - earlier for earlier, later in pairwise(beside)) / 1000
        return self.points[place] if nearest_s <= STEP_AT_MOST_S else None

    def rows(self, ticker: str, minutes: Iterable[int]) -> list[PriceRow]:
        """The prices of those of the minutes that it can tell."""
        found = []
        for ts in minutes:
            point = self.first_in(ts)
            row = None if point is None else _row(ticker, ts, point)
            if row is not None:
                found.append(row)
        return found


def _row(ticker: str, ts: int, point: ChartPoint) -> PriceRow | None:
    try:
        return PriceRow.model_validate(
            {
                "ticker": ticker,
                "ts": ts,
                "price": point.price,
                "observed_at": point.at * 1000,
                "source": Origin.BACKFILL,
            }
        )
    except ValidationError as error:
        log.warning("%s: a chart's point cannot be stored: %s", ticker, error.errors()[0]["msg"])
        return None


def _tell(ticker: str, filled: int, hopeless: Sequence[int], chart: Chart) -> None:
    step = "unknown" if chart.step_s is None else f"{chart.step_s:g} s"
    if filled:
        log.info("%s: %s backfilled from a chart with a step of %s", ticker, times.minutes(filled), step)
    if hopeless:
        log.warning(
            "%s: %s from %s to %s given up: the finest chart that reaches so far has a step of %s",
            *(ticker, times.minutes(len(hopeless)), times.iso(hopeless[-1]), times.iso(hopeless[0] + times.MINUTE), step),
        )
