"""What a client is told when its request cannot be answered.

`code` stands in GraphQL's `extensions.code`, `status` is the HTTP status of the same error over REST.

ApiError
├── BadInputError         BAD_USER_INPUT    422
├── RangeTooLargeError    RANGE_TOO_LARGE   422
├── NotFoundError         NOT_FOUND         404   REST only: GraphQL answers null
│   └── UnknownTickerError  UNKNOWN_TICKER  404
├── ForbiddenError        FORBIDDEN         403
├── TimedOutError         TIMEOUT           504
└── UnavailableError      UNAVAILABLE       503
"""

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

SHOWN = 20
"""Names listed in a message at most."""


class ApiError(Exception):
    """Raised to tell the client what was wrong and what would be right."""

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str, **extensions: Any) -> None:
        super().__init__(message)
        self.extensions = {"code": self.code, **extensions}


class BadInputError(ApiError):
    """Raised when an argument's value cannot be."""

    code = "BAD_USER_INPUT"
    status = 422


class RangeTooLargeError(ApiError):
    """Raised when a window holds more than one answer may."""

    code = "RANGE_TOO_LARGE"
    status = 422


class NotFoundError(ApiError):
    """Raised when there is nothing at what was asked for."""

    code = "NOT_FOUND"
    status = 404


class UnknownTickerError(NotFoundError):
    """Raised when a ticker was never tracked nor imported."""

    code = "UNKNOWN_TICKER"

    def __init__(self, name: str, tracked: Sequence[str]) -> None:
        near = difflib.get_close_matches(name, tracked, n=3)
        hint = f"; did you mean {' or '.join(near)}? Tracked" if near else "; tracked"
        shown = ", ".join(tracked[:SHOWN]) + (", …" if len(tracked) > SHOWN else "")
        super().__init__(f"{name} is not known{hint} are: {shown or 'none yet'}", tracked=list(tracked[:SHOWN]))


class ForbiddenError(ApiError):
    """Raised when a request needs the ADMIN_TOKEN and does not bring it."""

    code = "FORBIDDEN"
    status = 403


class TimedOutError(ApiError):
    """Raised when the database took longer than a request may."""

    code = "TIMEOUT"
    status = 504


class UnavailableError(ApiError):
    """Raised when the database, or the queue where it is needed, cannot be reached."""

    code = "UNAVAILABLE"
    status = 503
