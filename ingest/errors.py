"""The errors of the collector, grouped by how to handle them.

CollectError                    a minute has no price
├── SourceError                 the source returned no usable response
│   ├── RetryableError          retry: timeouts, resets, 5xx, rate limits, maintenance, malformed responses
│   └── PermanentError          do not retry: the configuration must change first
│       └── UnknownTickerError
└── StorageUnavailableError     neither Redis nor PostgreSQL accepted the price
JobsFailedError                 some jobs of a minute failed, the others succeeded
OutboxError                     Redis did not execute a command of the outbox
└── OutboxFullError
"""

from db.rows import Reason


class CollectError(Exception):
    """Base class of the failures that leave a minute without a price. The message describes the failure."""

    def __init__(self, message: str, reason: Reason) -> None:
        # Parts of the message come from outside. A lone surrogate could not be encoded as UTF-8.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())
        self.reason = reason


class StorageUnavailableError(CollectError):
    """Raised when neither the outbox nor the database accepted a fetched price."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.STORAGE)


class SourceError(CollectError):
    """Raised when a source returned no usable response."""

    def __init__(self, message: str, reason: Reason, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, reason)
        self.retry_after_s = retry_after_s


class RetryableError(SourceError):
    """Raised when a retry may succeed. Wait at least `retry_after_s` seconds."""


class PermanentError(SourceError):
    """Raised when a retry cannot succeed: a wrong URL, the testnet, a rejected parameter."""


class UnknownTickerError(PermanentError):
    """Raised when the source does not know the ticker."""


class JobsFailedError(Exception):
    """Raised when jobs of a minute failed. Each failure was logged; the message names the jobs."""


class OutboxError(Exception):
    """Raised when the Redis server of the outbox is unavailable or rejects a read or a write."""


class OutboxFullError(OutboxError):
    """Raised when the outbox is full. Queued prices stay; the new prices are not added."""
