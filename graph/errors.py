"""What a client is told when its request cannot be answered. `code` stands in `extensions.code`.

ApiError
├── BadInputError         BAD_USER_INPUT
├── RangeTooLargeError    RANGE_TOO_LARGE
├── UnknownTickerError    UNKNOWN_TICKER
├── TimedOutError         TIMEOUT
└── UnavailableError      UNAVAILABLE
"""

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

SHOWN = 20
"""Names listed in a message at most."""


class ApiError(Exception):
    """Raised to tell the client what was wrong and what would be right."""

    code: ClassVar[str]

    def __init__(self, message: str, **extensions: Any) -> None:
        super().__init__(message)
        self.extensions = {"code": self.code, **extensions}


class BadInputError(ApiError):
    """Raised when an argument's value cannot be."""

    code = "BAD_USER_INPUT"


class RangeTooLargeError(ApiError):
    """Raised when a window holds more minutes than one answer may."""

    code = "RANGE_TOO_LARGE"


class UnknownTickerError(ApiError):
    """Raised when a ticker was never tracked nor imported."""

    code = "UNKNOWN_TICKER"

    def __init__(self, name: str, tracked: Sequence[str]) -> None:
        near = difflib.get_close_matches(name, tracked, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        shown = ", ".join(tracked[:SHOWN]) + (", …" if len(tracked) > SHOWN else "")
        super().__init__(
            f"{name} is not known{hint} Tracked are: {shown or 'none yet'}"
            if near
            else f"{name} is not known; tracked are: {shown or 'none yet'}",
            tracked=list(tracked[:SHOWN]),
        )


class TimedOutError(ApiError):
    """Raised when the database took longer than a request may."""

    code = "TIMEOUT"


class UnavailableError(ApiError):
    """Raised when the database cannot be reached."""

    code = "UNAVAILABLE"
