"""Collects the exchange's delivery prices once a day, and compares them with the mean of our own data.

The comparison is a daily proof that the archive is right: the exchange averages the same index over the same 30 minutes.
"""

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from statistics import mean
from typing import Final

from db import times
from db.pool import Database
from db.queries import delivery_prices, write_lock
from db.queries.delivery_prices import DELIVERY_SECOND, WINDOW_S
from db.rows import DeliveryBasis
from ingest.errors import SourceError
from ingest.source import ChartPoint, Exchange

log = logging.getLogger(__name__)

PUBLISH_DELAY_S: Final = 120
"""How long after 08:00 UTC a delivery price is requested first."""
RETRY_INTERVAL_S: Final = 600
FREQUENT_RETRY_PERIOD_S: Final = 6 * 3_600
LATE_RETRY_INTERVAL_S: Final = 6 * 3_600
"""The interval of retries later than FREQUENT_RETRY_PERIOD_S after 08:00 UTC. Not every index has delivery prices."""
MAX_DURATION_S: Final = 6.0
"""Time of one minute for all tickers. The job may take longer by one call."""
PRICES_PER_CALL: Final = 30
CHART_WINDOW_S: Final = 3_600
MAX_CHART_STEP_S: Final = 60
MAX_DIFFERENCE_BPS: Final = 1.0
"""A larger difference is an error: of the archive, of the exchange's chart, or of the delivery price."""


class DeliveryPriceCollector:
    """The delivery prices of one worker. Remembers when it requested which, because not every index has one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._attempted_at: dict[str, float] = {}

    async def collect(self, now: int, tickers: Sequence[str], *, source: Exchange, db: Database) -> int:
        """Stores the missing delivery prices of the last delivery, and earlier ones that the exchange lists.

        Returns the number of tickers whose last delivery price was stored.

        `now` is UNIX seconds by the clocks that agree. A failure of one ticker does not stop the others; it is retried.
        """
        ts = (now - DELIVERY_SECOND) // times.DAY * times.DAY + DELIVERY_SECOND
        if now - ts < PUBLISH_DELAY_S:
            return 0
        interval_s = RETRY_INTERVAL_S if now - ts <= FREQUENT_RETRY_PERIOD_S else LATE_RETRY_INTERVAL_S
        stored = 0
        deadline = self._monotonic() + MAX_DURATION_S
        for ticker in await delivery_prices.missing(db, tickers, ts):
            if self._monotonic() > deadline:
                break  # the next minute continues
            if self._monotonic() - self._attempted_at.get(ticker, float("-inf")) < interval_s:
                continue
            self._attempted_at[ticker] = self._monotonic()
            try:
                stored += await _collect(ticker, ts, now, source, db)
            except SourceError as error:
                log.warning("%s: the delivery price of %s is not known yet: %s", ticker, times.iso(ts), error)
        return stored


async def _collect(ticker: str, ts: int, now: int, source: Exchange, db: Database) -> bool:
    """Stores the delivery prices of a ticker. Returns whether that at `ts` is among them."""
    prices = await source.delivery_prices(ticker, PRICES_PER_CALL)
    watched = await delivery_prices.watched_means(db, ticker, list(prices))
    means = {at: (mean_price, DeliveryBasis.RANGE) for at, mean_price in watched.items()}
    if ts in prices and ts not in means and now - ts < CHART_WINDOW_S - WINDOW_S:
        chart_mean = mean_of_chart(await source.chart(ticker, source.window(CHART_WINDOW_S)), ts)
        if chart_mean is not None:
            means[ts] = chart_mean, DeliveryBasis.CHART
    async with write_lock.write_transaction(db) as connection:
        await delivery_prices.store(connection, ticker, prices, means)
    if ts in prices and ts in means:
        found, basis = means[ts]
        difference_bps = float((found - prices[ts]) / prices[ts] * 10_000)
        level = logging.ERROR if abs(difference_bps) > MAX_DIFFERENCE_BPS else logging.INFO
        message = "%s: the delivery price is %s, the mean of our own data (%s) differs by %.3f basis points"
        log.log(level, message, ticker, f"{prices[ts]:f}", basis, difference_bps)
    return ts in prices


def mean_of_chart(points: Sequence[ChartPoint], ts: int) -> Decimal | None:
    """Returns the mean of the chart over the 30 minutes before `ts`; None if the chart is too coarse or has holes."""
    instants = [point.at for point in points]
    steps = [after - before for before, after in itertools.pairwise(instants) if after > before]
    if not steps or min(steps) > MAX_CHART_STEP_S * 1_000:
        return None
    found = [point.price for point in points if (ts - WINDOW_S) * 1_000 <= point.at < ts * 1_000]
    if len(found) != WINDOW_S * 1_000 // min(steps):
        return None
    return round(mean(found), delivery_prices.MEAN_DECIMALS)
