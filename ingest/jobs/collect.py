"""The price of every ticker for one minute: asked for, and stored as it comes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
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
from db.errors import DatabaseError, DatabaseUnavailableError
from db.pool import Database
from db.queries import prices, writing
from db.tables import PriceRow, normal
from db.tables import Source as Origin
from ingest.errors import AgainError, LaterError, Reason, SourceError, UnknownTickerError
from ingest.jobs.watchlist import Watchlist
from ingest.source import Quote, Source

log = logging.getLogger(__name__)

BUDGET_S = 50.0
"""How long a collect may take, by a monotonic clock: the next minute's must find the worker free."""

SKEW_ALLOWED_S = 1.0
_backoff = wait_exponential_jitter(multiplier=0.25, max=8.0, jitter=0.25)


class Deadline:
    """An end by the monotonic clock."""

    def __init__(self, budget_s: float) -> None:
        self._end = time.monotonic() + budget_s

    def left_s(self) -> float:
        """Seconds until it, never below 0."""
        return max(0.0, self._end - time.monotonic())


@dataclass
class Asked:
    """What became of asking for one ticker."""

    ticker: str
    quotes: list[Quote] = field(default_factory=list)
    attempts: int = 0
    failure: SourceError | None = None
    """The last one; stays when the minute's price came all the same."""
    answered: bool = False


@dataclass
class Collected:
    """What became of a minute."""

    stored: int = 0
    prices: dict[str, str] = field(default_factory=dict)
    """The minute's price of each ticker that answered."""
    attempts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, SourceError] = field(default_factory=dict)
    duration_s: float = 0.0


async def collect(
    minute: int,
    *,
    watchlist: Watchlist,
    source: Source,
    db: Database,
    only: Sequence[str] = (),
    max_retries: int | None = None,
    budget_s: float = BUDGET_S,
) -> Collected:
    """Asks for every ticker (or those in `only`) at once and stores each price as it comes.

    Each goes under the minute in which the exchange said it.

    Ends at once where the minute is over by the exchange's clock, or stored. No ticker's failure stops another's; each is
    tried until the budget ends. Raises DatabaseError where prices could not be stored by then.
    """
    collected = Collected()
    if source.clock.has_passed(minute):
        log.info("minute %s is over: nothing to collect", times.iso(minute))
        return collected
    deadline = Deadline(budget_s)
    try:
        missing = await _missing(minute, only, watchlist, source, db, deadline)
        log.debug("minute %s: asking for %d tickers", times.iso(minute), len(missing))
        asking = [_ask(ticker, minute, source, deadline, max_retries) for ticker in missing]
        async for batch in _as_they_come(asking):
            collected.stored += await _store(batch, minute, db, deadline)
            collected.prices |= {a.ticker: f"{normal(a.quotes[-1].price):f}" for a in batch if a.answered}
            collected.attempts |= {a.ticker: a.attempts for a in batch}
            collected.failures |= {a.ticker: a.failure for a in batch if a.failure is not None and not a.answered}
        for ticker, failure in collected.failures.items():
            if isinstance(failure, UnknownTickerError):
                await watchlist.drop(ticker, minute, db=db)
    except DatabaseError as error:
        log.error("minute %s could not be stored: %s", times.iso(minute), error)  # noqa: TRY400  one line is enough
        raise
    collected.duration_s = round(budget_s - deadline.left_s(), 3)
    _report(minute, missing, collected, source)
    return collected


async def _missing(
    minute: int, only: Sequence[str], watchlist: Watchlist, source: Source, db: Database, deadline: Deadline
) -> list[str]:
    async for attempt in _while_database_is_away(deadline):
        with attempt:
            tickers = await watchlist.tickers(minute, source=source, db=db)
            stored = await prices.stored_at(db, tickers, minute)
    return [ticker for ticker in tickers if ticker not in stored and (not only or ticker in only)]


async def _as_they_come(asking: Sequence[Coroutine[None, None, Asked]]) -> AsyncIterator[list[Asked]]:
    """The results in batches: whatever arrived while the batch before was dealt with. What broke is raised at the end."""
    pending = {asyncio.create_task(one) for one in asking}
    broken: list[Exception] = []
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done if task.exception() is None]
            broken += [error for task in done if isinstance(error := task.exception(), Exception)]
    finally:
        for task in pending:
            task.cancel()
    if broken:
        raise ExceptionGroup("asking for a price broke", broken)


async def _ask(ticker: str, minute: int, source: Source, deadline: Deadline, max_retries: int | None) -> Asked:
    """Asks until the exchange's clock has reached the minute, or the deadline."""
    asked = Asked(ticker)
    try:
        async with asyncio.timeout(deadline.left_s()):
            while not asked.answered:
                quote = await _ask_patiently(asked, source, deadline, max_retries)
                _refuse_unknown_instant(quote, minute, source)
                asked.quotes.append(quote)
                early_s = minute - (quote.observed_at or minute * 10**6) / 1e6
                asked.answered = early_s <= 0
                if early_s > deadline.left_s():
                    asked.failure = _clock_ahead(ticker, minute, early_s)
                    break
                await asyncio.sleep(max(0.0, early_s))
    except TimeoutError:
        asked.failure = asked.failure or AgainError(f"no answer within {BUDGET_S:.0f} s", Reason.TIMEOUT)
    except SourceError as error:
        asked.failure = error
    return asked


async def _ask_patiently(asked: Asked, source: Source, deadline: Deadline, max_retries: int | None) -> Quote:
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((AgainError, LaterError)),
        wait=_wait_s,
        stop=stop_before_delay(deadline.left_s())
        | (stop_never if max_retries is None else stop_after_attempt(max_retries + 1)),
        before_sleep=lambda state: _note_failure(asked, state),
        reraise=True,
    ):
        with attempt:
            asked.attempts += 1
            return await source.price(asked.ticker)
    raise AssertionError("the retries end in a quote or in an error")


def _wait_s(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    return max(_backoff(state), failure.retry_after_s if isinstance(failure, SourceError) else 0.0)


def _note_failure(asked: Asked, state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, SourceError):
        if asked.failure is None:
            log.warning("%s: %s; trying again", asked.ticker, failure)
        asked.failure = failure


def _refuse_unknown_instant(quote: Quote, minute: int, source: Source) -> None:
    """Without the exchange's instant a price counts only if the minute is sure all the same."""
    if quote.observed_at is not None:
        return
    inside = minute * 10**6 <= quote.asked_at and quote.answered_at < (minute + times.MINUTE) * 10**6
    skew_s = source.clock.skew_s
    if not inside or skew_s is None or abs(skew_s) >= SKEW_ALLOWED_S:
        raise AgainError("the answer has no instant, and the local clock cannot stand in for it", Reason.CLOCK)


def _clock_ahead(ticker: str, minute: int, early_s: float) -> AgainError:
    message = f"{ticker}: the exchange's clock reaches {times.iso(minute)} only in {early_s:.1f} s: is the local clock ahead?"
    return AgainError(message, Reason.CLOCK)


async def _store(batch: Sequence[Asked], minute: int, db: Database, deadline: Deadline) -> int:
    rows = [row for asked in batch for quote in asked.quotes if (row := _row(asked, quote, minute)) is not None]
    if not rows:
        return 0
    async for attempt in _while_database_is_away(deadline):
        with attempt:
            async with writing.turn(db) as connection:
                stored = await prices.store(connection, rows)
    return len(stored)


def _row(asked: Asked, quote: Quote, minute: int) -> PriceRow | None:
    ts = minute if quote.observed_at is None else times.minute_of(quote.observed_at // 10**6)
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
        asked.failure = AgainError(f"a price that cannot be stored: {problem['msg']}: {problem['input']}", Reason.MALFORMED)
        asked.answered = False
        return None


def _while_database_is_away(deadline: Deadline) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(DatabaseUnavailableError),
        wait=wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1),
        stop=stop_before_delay(deadline.left_s()),
        reraise=True,
    )


def _report(minute: int, asked: Sequence[str], collected: Collected, source: Source) -> None:
    if not asked:
        log.info("minute %s is stored already", times.iso(minute))
        return
    details = {"prices": collected.prices, "attempts": collected.attempts, "duration_s": collected.duration_s}
    log.info(
        "minute %s: %d of %d prices collected, %d of them new",
        times.iso(minute),
        len(collected.prices),
        len(asked),
        collected.stored,
        extra=details,
    )
    for ticker, failure in collected.failures.items():
        log.error(
            "%s has no price for %s: %s",
            ticker,
            times.iso(minute),
            failure,
            extra={"reason": failure.reason.value, "attempts": collected.attempts.get(ticker, 0)},
        )
    skew_s = source.clock.skew_s
    if skew_s is not None and abs(skew_s) >= SKEW_ALLOWED_S:
        log.warning("the local clock is %.1f s %s Deribit's", abs(skew_s), "ahead of" if skew_s > 0 else "behind")
