"""The deadline of a job, and retries until then."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_before_delay, wait_exponential_jitter

from db.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)


class Deadline:
    """A deadline by the monotonic clock."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._end = time.monotonic() + budget_s

    def remaining_s(self) -> float:
        """Returns the seconds until the deadline, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def elapsed_s(self) -> float:
        """Returns the used seconds of the budget."""
        return self.budget_s - self.remaining_s()

    def retry_database(self) -> AsyncRetrying:
        """Returns attempts that continue until the deadline while the database is unavailable."""
        return AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailableError),
            wait=wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1),
            stop=stop_before_delay(self.remaining_s()),
            before_sleep=_log_retry,
            reraise=True,
        )

    @asynccontextmanager
    async def enforce(self) -> AsyncIterator[None]:
        """Cancels the block at the deadline with a DatabaseUnavailableError, because waiting for a lock may never end."""
        try:
            async with asyncio.timeout(self.remaining_s()):
                yield
        except TimeoutError as error:
            raise DatabaseUnavailableError(f"no response within {self.budget_s:.0f} s") from error


def _log_retry(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning("the database is unavailable: %s; retrying", state.outcome.exception())
