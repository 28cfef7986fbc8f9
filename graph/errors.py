"""Errors that the API returns to clients.

GraphQL returns `code` as `extensions.code`. REST returns the same error with the HTTP status `status`.

ApiError
├── BadInputError         BAD_USER_INPUT    422
├── RangeTooLargeError    RANGE_TOO_LARGE   422
├── ResumeTooOldError     RESUME_TOO_OLD    410
├── AsOfTooOldError       AS_OF_TOO_OLD     410
├── HistoryChangedError   HISTORY_CHANGED   410
├── NotFoundError         NOT_FOUND         404   REST only: GraphQL returns null
│   └── UnknownTickerError  UNKNOWN_TICKER  404
├── TooComplexError       QUERY_TOO_COMPLEX 400
├── UnauthenticatedError  UNAUTHENTICATED   401
├── ForbiddenError        FORBIDDEN         403
├── RateLimitedError      RATE_LIMITED      429
├── TimedOutError         TIMEOUT           504
├── UnavailableError      UNAVAILABLE       503
│   └── BusyError
├── InternalError         INTERNAL_SERVER_ERROR 500
├── PersistedQueryNotFoundError  PERSISTED_QUERY_NOT_FOUND 400
└── RequestError          HTTP errors, raised before an operation runs
    ├── BadRequestError           BAD_REQUEST             400
    ├── MethodNotAllowedError     METHOD_NOT_ALLOWED      405
    ├── NotAcceptableError        NOT_ACCEPTABLE          406
    ├── PayloadTooLargeError      PAYLOAD_TOO_LARGE       413
    └── UnsupportedMediaTypeError UNSUPPORTED_MEDIA_TYPE  415
"""

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

MAX_NAMES_SHOWN = 20
RETRY_AFTER_S = 2


class ApiError(Exception):
    """Base of the errors that clients see. The HTTP response includes `headers`; GraphQL includes `extensions`."""

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.extensions = {"code": self.code, **extensions}


class BadInputError(ApiError):
    """Raised when an argument has an invalid value."""

    code = "BAD_USER_INPUT"
    status = 422


class RangeTooLargeError(ApiError):
    """Raised when a window contains more minutes or candles than one response may return."""

    code = "RANGE_TOO_LARGE"
    status = 422


class ResumeTooOldError(ApiError):
    """Raised when the events after an id are no longer stored."""

    code = "RESUME_TOO_OLD"
    status = 410

    def __init__(self, after: int, oldest: int) -> None:
        super().__init__(
            f"after: the events after {after} are no longer stored; the oldest id to resume from is {oldest}. Read the prices "
            "in between with `prices` or `range`",
            oldest=str(oldest),
        )


class AsOfTooOldError(ApiError):
    """Raised when a query as of an earlier data version needs minutes that retention has deleted since."""

    code = "AS_OF_TOO_OLD"
    status = 410

    def __init__(self, name: str, version: int, ticker: str, horizon: str, oldest: int) -> None:
        super().__init__(
            f"{name} ({version}): the minutes of {ticker} before {horizon} are deleted. Request a window from {horizon} on, or "
            f"as of {oldest} or newer",
            oldest=str(oldest),
        )


class HistoryChangedError(ApiError):
    """Raised when an id or a cursor belongs to a history that a restore or a failover replaced."""

    code = "HISTORY_CHANGED"
    status = 410

    def __init__(self, subject: str, resume_from: int, advice: str | None = None) -> None:
        """Names the invalid `subject` and says what to do: `advice`, by default the steps for a subscriber."""
        advice = advice or f"Drop everything with an id above {resume_from}, then resume with after: {resume_from}"
        super().__init__(
            f"{subject} belongs to a history that a restore or a failover replaced. {advice}", resumeFrom=str(resume_from)
        )


class TooComplexError(ApiError):
    """Raised when a document exceeds the size or cost limit of a query."""

    code = "QUERY_TOO_COMPLEX"
    status = 400


class NotFoundError(ApiError):
    """Raised when the requested resource does not exist."""

    code = "NOT_FOUND"
    status = 404


class UnknownTickerError(NotFoundError):
    """Raised when a ticker is unknown or, in a fetch request, not tracked now. The message suggests similar names."""

    code = "UNKNOWN_TICKER"

    def __init__(self, name: str, tracked: Sequence[str]) -> None:
        similar = difflib.get_close_matches(name, tracked, n=3)
        hint = f". Did you mean {' or '.join(similar)}? Tracked" if similar else ". Tracked"
        shown = ", ".join(tracked[:MAX_NAMES_SHOWN]) + (", …" if len(tracked) > MAX_NAMES_SHOWN else "")
        super().__init__(
            f"Unknown ticker: {name}{hint} tickers: {shown or 'none yet'}", tracked=list(tracked[:MAX_NAMES_SHOWN])
        )


class UnauthenticatedError(ApiError):
    """Raised when API_KEYS is set and the request has no valid key."""

    code = "UNAUTHENTICATED"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "An API key is required: send `Authorization: Bearer …` or `X-API-Key: …`", {"WWW-Authenticate": "Bearer"}
        )


class ForbiddenError(ApiError):
    """Raised when a fetch request lacks the required ADMIN_TOKEN, or comes from another site while none is required."""

    code = "FORBIDDEN"
    status = 403


class RateLimitedError(ApiError):
    """Raised when a client exceeds its rate limit or another limit per client. It may retry after `retry_after_s` seconds."""

    code = "RATE_LIMITED"
    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, {"Retry-After": str(retry_after_s)}, retryAfterS=retry_after_s)


class TimedOutError(ApiError):
    """Raised when a request, or one of its SQL statements, exceeds its timeout."""

    code = "TIMEOUT"
    status = 504


class UnavailableError(ApiError):
    """Raised when the database, or the queue if the request needs it, is unavailable."""

    code = "UNAVAILABLE"
    status = 503

    def __init__(self, message: str) -> None:
        super().__init__(message, {"Retry-After": str(RETRY_AFTER_S)})


class BusyError(UnavailableError):
    """Raised when a concurrency limit of the API process is reached."""


class InternalError(ApiError):
    """Raised for an internal error. The log has the details under the request id."""

    code = "INTERNAL_SERVER_ERROR"
    status = 500

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Internal server error. Report the request id {request_id}.")


class PersistedQueryNotFoundError(ApiError):
    """Raised when a client sends only a digest and its document is not cached. The client then sends both."""

    code = "PERSISTED_QUERY_NOT_FOUND"
    status = 400

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotFound")  # clients recognize the error by this text


class RequestError(ApiError):
    """Base of the errors in an HTTP request, raised before an operation runs."""


class BadRequestError(RequestError):
    """Raised when a part of a request is missing or malformed."""

    code = "BAD_REQUEST"
    status = 400


class MethodNotAllowedError(RequestError):
    """Raised when a path does not support the method. The header `Allow` lists the supported methods."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class NotAcceptableError(RequestError):
    """Raised when a client accepts none of the available media types."""

    code = "NOT_ACCEPTABLE"
    status = 406


class PayloadTooLargeError(RequestError):
    """Raised when a request body exceeds the size limit."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class UnsupportedMediaTypeError(RequestError):
    """Raised when a request body has an unsupported media type, charset or content coding."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
