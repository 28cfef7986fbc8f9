"""Fetches the price of one ticker in one minute. Retries until the exchange's clock reaches the minute or the budget ends."""

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
from db.rows import PriceRow, Reason, Source
from ingest.errors import RetryableError, SourceError
from ingest.jobs.deadline import Deadline
from ingest.source import MAX_AHEAD_S, Exchange, Quote

log = logging.getLogger(__name__)

MAX_SKEW_S = 1.0
_backoff = wait_exponential_jitter(multiplier=0.25, max=8.0, jitter=0.25)


@dataclass
class FetchResult:
    """The result of fetching one ticker."""

    ticker: str
    rows: list[PriceRow] = field(default_factory=list)
    """The rows to store: prices quoted too early, then the minute's price or, if the minute is over, that of a later one."""
    attempts: int = 0
    failure: SourceError | None = None
    """The last failure; None if the minute's price was fetched, or the first response was of a later minute."""

    def price_of(self, minute: int) -> PriceRow | None:
        """Returns the price of the minute; None if there is none."""
        return next((row for row in self.rows if row.ts == minute), None)


async def fetch_price(ticker: str, minute: int, source: Exchange, deadline: Deadline, max_retries: int | None) -> FetchResult:
    """Fetches the price. Retries failures, and responses quoted before the minute. Never raises a SourceError."""
    result = FetchResult(ticker)
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            while True:
                row, early_s = await _fetch_row(result, minute, source, deadline, max_retries)
                result.rows.append(row)
                if early_s <= 0:
                    if row.ts == minute:
                        result.failure = None
                    return result
                if early_s > deadline.remaining_s():
                    result.failure = _clock_ahead_error(minute, early_s)
                    return result
                await asyncio.sleep(early_s)
    except TimeoutError:
        result.failure = result.failure or RetryableError(f"no response within {deadline.budget_s:.0f} s", Reason.TIMEOUT)
    except SourceError as error:
        result.failure = error
    except Exception as error:
        log.exception("%s: unexpected error", ticker)
        result.failure = RetryableError(f"{type(error).__name__}: {error}", Reason.MALFORMED)
    return result


async def _fetch_row(
    result: FetchResult, minute: int, source: Exchange, deadline: Deadline, max_retries: int | None
) -> tuple[PriceRow, float]:
    """Returns a row, and how many seconds before the minute it was quoted."""
    retry_limit = stop_never if max_retries is None else stop_after_attempt(max_retries + 1)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(RetryableError),
        wait=_wait_s,
        stop=stop_before_delay(deadline.remaining_s()) | retry_limit,
        before_sleep=lambda state: _record_failure(result, state),
        reraise=True,
    ):
        with attempt:
            result.attempts += 1
            quote = await source.price(result.ticker)
            instant_s = await _validate_instant(quote, minute, source)
            return _row(quote, instant_s), minute - instant_s
    raise AssertionError("the retries end in a quote or in an error")


def _wait_s(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    return max(_backoff(state), failure.retry_after_s if isinstance(failure, SourceError) else 0.0)


def _record_failure(result: FetchResult, state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, SourceError):
        if result.failure is None:
            log.warning("%s: %s; retrying", result.ticker, failure)
        result.failure = failure


async def _validate_instant(quote: Quote, minute: int, source: Exchange) -> float:
    """Returns the instant of the quote in UNIX seconds. Raises RetryableError if it is not plausible.

    If the response has no time, the local clock must show that it belongs to the minute. May request the list of names.
    """
    if quote.observed_at is None:
        is_inside = minute * 10**6 <= quote.requested_at and quote.received_at < (minute + times.MINUTE) * 10**6
        skew_s = source.clock.skew_s
        if not is_inside or skew_s is None or abs(skew_s) >= MAX_SKEW_S:
            raise RetryableError(
                "the response has no time, and the local clock is not reliable enough to replace it", Reason.CLOCK
            )
        return minute
    instant_s = quote.observed_at / 1e6
    local_s = quote.received_at / 1e6
    if not source.clock.is_plausible(instant_s, minute, local_s):
        raise RetryableError(f"the response is of {times.iso(int(instant_s))}, which is not plausible", Reason.CLOCK)
    if instant_s > local_s + MAX_AHEAD_S and source.clock.other_subjects_now(quote.ticker) is None:
        await source.names()  # a measurement of another subject, for comparison
    if source.clock.is_ahead(instant_s, local_s, quote.ticker):
        message = (
            f"the response is of {times.iso(int(instant_s))}, ahead of the local clock and of the exchange's other responses"
        )
        raise RetryableError(message, Reason.CLOCK)
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
                "source": Source.LIVE,
                "estimated_delivery_price": quote.estimated_delivery_price,
            }
        )
    except ValidationError as error:
        problem = error.errors()[0]
        message = f"the price cannot be stored: {problem['msg']}: {problem['input']!s:.40}"
        raise RetryableError(message, Reason.MALFORMED) from error


def _clock_ahead_error(minute: int, early_s: float) -> RetryableError:
    message = (
        f"the exchange's clock reaches {times.iso(minute)} only in {early_s:.1f} s: check whether the local clock is ahead"
    )
    return RetryableError(message, Reason.CLOCK)
