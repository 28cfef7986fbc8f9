"""Why there is no price, told apart by what to do about it.

SourceError             the source gave no usable answer
├── AgainError          soon: time-outs, resets, 5xx, rate limits, answers that make no sense
├── LaterError          slowly, and say so loudly: maintenance
└── NeverError          not before somebody changes the configuration
    └── UnknownTickerError
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a minute has no price: a closed list."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    HTTP_5XX = "http_5xx"
    RATE_LIMITED = "rate_limited"
    MALFORMED = "malformed"
    TESTNET = "testnet"
    MAINTENANCE = "maintenance"
    CLOCK = "clock"


class SourceError(Exception):
    """Raised when a source was asked and gave no usable answer. The message carries the evidence."""

    def __init__(self, message: str, reason: Reason, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class AgainError(SourceError):
    """Raised when the next try may well succeed, not before `retry_after_s` seconds."""


class LaterError(SourceError):
    """Raised when the source is under maintenance: trying goes on slowly."""


class NeverError(SourceError):
    """Raised when asking again changes nothing: a wrong address, a testnet, a refused parameter."""


class UnknownTickerError(NeverError):
    """Raised when the source does not know the ticker."""
