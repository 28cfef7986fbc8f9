"""Asking for the price of one ticker in one minute, until the exchange's clock has reached it or the budget is used."""

import asyncio
import logging
from dataclasses import dataclass, field

from pydantic import ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    stop_never,
    wait_exponential_jitter,
)

from db import times
from db.tables import PriceRow, Reason
from db.tables import Source as Origin
from ingest.errors import AgainError, LaterError, SourceError
from ingest.jobs.deadline import Deadline
from ingest.source import AHEAD_S, Quote, Source

log = logging.getLogger(__name__)

SKEW_ALLOWED_S = 1.0
_backoff = wait_exponential_jitter(multiplier=0.25, max=8.0, jitter=0.25)


@dataclass
class Asked:
    """What became of asking for one ticker."""

    ticker: str
    rows: list[PriceRow] = field(default_factory=list)
    """What can be stored: the minute's price, and before it perhaps that of a minute not asked for."""
    attempts: int = 0
    failure: SourceError | None = None
    """The last one; None once the minute's price came, or where the first answer was of a later minute."""

    def price_of(self, minute: int) -> PriceRow | None:
        """The minute's own price; None where none came."""
        return next((row for row in self.rows if row.ts == minute), None)


async def ask(ticker: str, minute: int, source: Source, deadline: Deadline, max_retries: int | None) -> Asked:
    """Asks again as long as it fails, and once more where the answer came before the minute; never raises a SourceError."""
    asked = Asked(ticker)
    try:
        async with asyncio.timeout(deadline.left_s()):
            while True:
                row, early_s = await _answer(asked, minute, source, deadline, max_retries)
                asked.rows.append(row)
                if early_s <= 0:
                    if row.ts == minute:
                        asked.failure = None
                    return asked
                if early_s > deadline.left_s():
                    asked.failure = _clock_ahead(minute, early_s)
                    return asked
                await asyncio.sleep(early_s)
    except TimeoutError:
        asked.failure = asked.failure or AgainError(f"no answer within {deadline.budget_s:.0f} s", Reason.TIMEOUT)
    except SourceError as error:
        asked.failure = error
    except Exception as error:
        log.exception("%s: an answer that nothing was made for", ticker)
        asked.failure = AgainError(f"{type(error).__name__}: {error}", Reason.MALFORMED)
    return asked


async def _answer(
    asked: Asked, minute: int, source: Source, deadline: Deadline, max_retries: int | None
) -> tuple[PriceRow, float]:
    """A row, and by how many seconds it came before the minute."""
    repeated = stop_never if max_retries is None else stop_after_attempt(max_retries + 1)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((AgainError, LaterError)),
        wait=_wait_s,
        stop=stop_before_delay(deadline.left_s()) | repeated,
        before_sleep=lambda state: _note(asked, state),
        reraise=True,
    ):
        with attempt:
            asked.attempts += 1
            quote = await source.price(asked.ticker)
            instant_s = await _instant_s(quote, minute, source)
            return _row(quote, instant_s), minute - instant_s
    raise AssertionError("the retries end in a quote or in an error")


def _wait_s(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    return max(_backoff(state), failure.retry_after_s if isinstance(failure, SourceError) else 0.0)


def _note(asked: Asked, state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, SourceError):
        if asked.failure is None:
            log.warning("%s: %s; trying again", asked.ticker, failure)
        asked.failure = failure


async def _instant_s(quote: Quote, minute: int, source: Source) -> float:
    """When the price was said. Without the exchange's instant it counts only if its minute is sure all the same."""
    if quote.observed_at is None:
        inside = minute * 10**6 <= quote.asked_at and quote.answered_at < (minute + times.MINUTE) * 10**6
        skew_s = source.clock.skew_s
        if not inside or skew_s is None or abs(skew_s) >= SKEW_ALLOWED_S:
            raise AgainError("the answer has no instant, and the local clock cannot stand in for it", Reason.CLOCK)
        return minute
    instant_s = quote.observed_at / 1e6
    local_s = quote.answered_at / 1e6
    if not source.clock.is_plausible(instant_s, minute, local_s):
        raise AgainError(f"the answer is of {times.iso(int(instant_s))}, which cannot be", Reason.CLOCK)
    if instant_s > local_s + AHEAD_S and source.clock.others(quote.ticker) is None:
        await source.names()  # an answer about something else, to hold it against
    if source.clock.is_ahead(instant_s, local_s, quote.ticker):
        ahead = f"the answer is of {times.iso(int(instant_s))}, ahead of the local clock and of the exchange's other answers"
        raise AgainError(ahead, Reason.CLOCK)
    return instant_s


def _row(quote: Quote, instant_s: float) -> PriceRow:
    ts = times.minute_of(instant_s)
    try:
        return PriceRow.model_validate(
            {
                "ticker": quote.ticker,
                "ts": ts,
                "price": quote.price,
                "observed_at": quote.observed_at,
                "source": Origin.LIVE,
            }
        )
    except ValidationError as error:
        problem = error.errors()[0]
        message = f"a price that cannot be stored: {problem['msg']}: {problem['input']!s:.40}"
        raise AgainError(message, Reason.MALFORMED) from error


def _clock_ahead(minute: int, early_s: float) -> AgainError:
    message = f"the exchange's clock reaches {times.iso(minute)} only in {early_s:.1f} s: is the local clock ahead?"
    return AgainError(message, Reason.CLOCK)
