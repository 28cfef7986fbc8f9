"""Why there is no price, told apart by what to do about it.

CollectError                a minute got no price
├── SourceError             the source gave no usable answer
│   ├── AgainError          soon: time-outs, resets, 5xx, rate limits, answers that make no sense
│   ├── LaterError          slowly, and say so loudly: maintenance
│   └── NeverError          not before somebody changes the configuration
│       └── UnknownTickerError
└── NotKeptError            the price was there, and nothing that could keep it
JobsFailedError             some of the jobs of a minute failed, the others were done
OutboxError                 the outbox did not do what it was asked
└── OutboxFullError
"""

from db.tables import Reason


class CollectError(Exception):
    """Raised when a minute got no price. The message carries the evidence."""

    def __init__(self, message: str, reason: Reason) -> None:
        # Parts of it come from outside: half a surrogate pair could not be written anywhere.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())
        self.reason = reason


class NotKeptError(CollectError):
    """Raised when a price came and neither the outbox nor the database took it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.STORAGE)


class SourceError(CollectError):
    """Raised when a source was asked and gave no usable answer."""

    def __init__(self, message: str, reason: Reason, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, reason)
        self.retry_after_s = retry_after_s


class AgainError(SourceError):
    """Raised when the next try may well succeed, not before `retry_after_s` seconds."""


class LaterError(SourceError):
    """Raised when the source is under maintenance: trying goes on slowly."""


class NeverError(SourceError):
    """Raised when asking again changes nothing: a wrong address, a testnet, a refused parameter."""


class UnknownTickerError(NeverError):
    """Raised when the source does not know the ticker."""


class JobsFailedError(Exception):
    """Raised when jobs of a minute failed. Each failure was logged; the message names the jobs."""


class OutboxError(Exception):
    """Raised when Redis, where the outbox is, cannot be reached or refuses to read or write."""


class OutboxFullError(OutboxError):
    """Raised when the outbox holds as much as it may: what is in it stays, what came is not taken."""
