"""The end of a minute's budget, and trying again until then."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_before_delay, wait_exponential_jitter

from db.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)


class Deadline:
    """An end by the monotonic clock."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._end = time.monotonic() + budget_s

    def left_s(self) -> float:
        """Seconds until it, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def passed_s(self) -> float:
        """Seconds of the budget that are used."""
        return self.budget_s - self.left_s()

    def while_database_is_away(self) -> AsyncRetrying:
        """Attempts at the database for as long as it is away and there is time."""
        return AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailableError),
            wait=wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1),
            stop=stop_before_delay(self.left_s()),
            before_sleep=_say,
            reraise=True,
        )

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Ends what is done inside when the time is up, as a database that is away: a lock may be waited for without end."""
        try:
            async with asyncio.timeout(self.left_s()):
                yield
        except TimeoutError as error:
            raise DatabaseUnavailableError(f"no answer within {self.budget_s:.0f} s") from error


def _say(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning("the database is away: %s; trying again", state.outcome.exception())
