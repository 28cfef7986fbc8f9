"""What a client is told when its request cannot be answered.

`code` stands in GraphQL's `extensions.code`, `status` is the HTTP status of the same error over REST.

ApiError
├── BadInputError         BAD_USER_INPUT    422
├── RangeTooLargeError    RANGE_TOO_LARGE   422
├── ResumeTooOldError     RESUME_TOO_OLD    410
├── HistoryChangedError   HISTORY_CHANGED   410
├── NotFoundError         NOT_FOUND         404   REST only: GraphQL answers null
│   └── UnknownTickerError  UNKNOWN_TICKER  404
├── TooComplexError       QUERY_TOO_COMPLEX 400
├── UnauthenticatedError  UNAUTHENTICATED   401
├── ForbiddenError        FORBIDDEN         403
├── RateLimitedError      RATE_LIMITED      429
├── TimedOutError         TIMEOUT           504
├── UnavailableError      UNAVAILABLE       503
│   └── BusyError
├── InternalError         INTERNAL_SERVER_ERROR 500
├── PersistedQueryNotFoundError  PERSISTED_QUERY_NOT_FOUND
└── RequestError          what HTTP has a status for, before anything is answered
    ├── BadRequestError       BAD_REQUEST             400
    ├── MethodError           METHOD_NOT_ALLOWED      405
    ├── NotAcceptableError    NOT_ACCEPTABLE          406
    ├── TooLargeError         PAYLOAD_TOO_LARGE       413
    └── MediaTypeError        UNSUPPORTED_MEDIA_TYPE  415
"""

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

SHOWN = 20
"""Names listed in a message at most."""
RETRY_AFTER_S = 2


class ApiError(Exception):
    """Raised to tell the client what was wrong and what would be right; `headers` go with it over HTTP."""

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.extensions = {"code": self.code, **extensions}


class BadInputError(ApiError):
    """Raised when an argument's value cannot be."""

    code = "BAD_USER_INPUT"
    status = 422


class RangeTooLargeError(ApiError):
    """Raised when a window holds more than one answer may."""

    code = "RANGE_TOO_LARGE"
    status = 422


class ResumeTooOldError(ApiError):
    """Raised when what came after an id is not known any more."""

    code = "RESUME_TOO_OLD"
    status = 410

    def __init__(self, after: int, oldest: int) -> None:
        super().__init__(
            f"after: what came right after {after} is forgotten; the oldest id to go on from is {oldest}. Read the prices in "
            "between with `prices` or `range`",
            oldest=str(oldest),
        )


class HistoryChangedError(ApiError):
    """Raised when an id or a cursor belongs to a history that was lost by a restore or a failover."""

    code = "HISTORY_CHANGED"
    status = 410

    def __init__(self, what: str, resume_from: int, then: str | None = None) -> None:
        """`then` says what to do; by default what a subscriber does."""
        then = then or f"Drop everything with an id above {resume_from}, then resume with after: {resume_from}"
        super().__init__(
            f"{what} belongs to a history that a restore or a failover replaced. {then}", resumeFrom=str(resume_from)
        )


class TooComplexError(ApiError):
    """Raised when a document is bigger, or asks for more, than one may."""

    code = "QUERY_TOO_COMPLEX"
    status = 400


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


class UnauthenticatedError(ApiError):
    """Raised when reading needs a key and none that is known came."""

    code = "UNAUTHENTICATED"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "Reading needs a key: send `Authorization: Bearer …` or `X-API-Key: …`", {"WWW-Authenticate": "Bearer"}
        )


class ForbiddenError(ApiError):
    """Raised when a request needs the ADMIN_TOKEN and does not bring it."""

    code = "FORBIDDEN"
    status = 403


class RateLimitedError(ApiError):
    """Raised when a caller has spent what it may, with the seconds after which this can be asked again."""

    code = "RATE_LIMITED"
    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, {"Retry-After": str(retry_after_s)}, retryAfterS=retry_after_s)


class TimedOutError(ApiError):
    """Raised when the database took longer than a request may."""

    code = "TIMEOUT"
    status = 504


class UnavailableError(ApiError):
    """Raised when the database, or the queue where it is needed, cannot be reached."""

    code = "UNAVAILABLE"
    status = 503

    def __init__(self, message: str) -> None:
        super().__init__(message, {"Retry-After": str(RETRY_AFTER_S)})


class BusyError(UnavailableError):
    """Raised when as many requests are being answered as may be at once."""


class InternalError(ApiError):
    """Raised for a mistake of ours: which one stands in the log, under the request's id."""

    code = "INTERNAL_SERVER_ERROR"
    status = 500

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Something went wrong on our side; request {request_id}.")


class PersistedQueryNotFoundError(ApiError):
    """Raised when only a document's digest came, and the document is not remembered: the client sends both then."""

    code = "PERSISTED_QUERY_NOT_FOUND"
    status = 400

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotFound")  # by this text clients know it


class RequestError(ApiError):
    """Raised when a request cannot be taken as it came."""


class BadRequestError(RequestError):
    """Raised when a request's parts are not what they should be."""

    code = "BAD_REQUEST"
    status = 400


class MethodError(RequestError):
    """Raised when a method cannot do what was asked; `Allow` says which can."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class NotAcceptableError(RequestError):
    """Raised when a client accepts nothing that can be sent."""

    code = "NOT_ACCEPTABLE"
    status = 406


class TooLargeError(RequestError):
    """Raised when a body is longer than one may be."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class MediaTypeError(RequestError):
    """Raised when a body is of a kind that is not taken."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
