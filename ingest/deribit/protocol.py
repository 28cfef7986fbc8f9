"""The meaning of Deribit's responses, without I/O: status, headers and body in; values or a typed error out.

Sources: https://docs.deribit.com (methods, error codes); HTTP statuses as observed by other clients.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any, Never

from pydantic import ValidationError

from db.queries.delivery_prices import DELIVERY_SECOND
from db.rows import NAME_PATTERN, Reason, validate_price
from ingest.deribit.models import ChartData, DeliveryPrice, Envelope, IndexPrice, Names, RpcError
from ingest.errors import PermanentError, RetryableError, SourceError, UnknownTickerError
from ingest.source import ChartPoint

MAX_BODY_BYTES = 4 << 20
"""The longest real response, a year's chart, is far shorter."""

WINDOWS = {"1h": 3600, "1d": 86_400, "2d": 172_800, "1m": 2_592_000, "1y": 31_536_000}
"""Chart windows, finest first, with the seconds they reach back; `all` reaches everything."""

RATE_LIMIT_CODES = frozenset({10028, 10066})
MAINTENANCE_CODES = frozenset({11051, 11056, 13025, 13503})
PERMANENT_CODES = frozenset({-32602, -32601, 11029, 11050})
TIMEOUT_CODES = frozenset({13888})
SERVER_ERROR_CODES = frozenset({-32603, 11094, 13028})

MAX_RETRY_AFTER_S = 60.0
RATE_LIMIT_BACKOFF_S = 1.0
MAINTENANCE_BACKOFF_S = 10.0


def finest_window(age_s: float) -> str:
    """Returns the finest chart window that reaches back `age_s` seconds."""
    return next((name for name, reach_s in WINDOWS.items() if age_s <= reach_s), "all")


def parse_envelope(status: int, headers: Mapping[str, str], body: bytes) -> Envelope:
    """Returns the envelope of a successful response. Raises a SourceError for any other response.

    Parses the body before it checks the status, because Deribit also sends errors with status 400.
    """
    try:
        envelope = Envelope.model_validate(_json(body))
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        _raise_for_status(status, headers, body)
        raise _malformed(body, str(error).partition("\n")[0]) from error
    if envelope.testnet:
        raise PermanentError(
            "DERIBIT_RPC_URL: the response is from Deribit's testnet, whose prices are not real: set it to the production API",
            Reason.TESTNET,
        )
    if envelope.error is not None:
        raise _source_error(envelope.error, headers)
    _raise_for_status(status, headers, body)
    if envelope.result is None:
        raise _malformed(body, "neither result nor error")
    return envelope


def price(envelope: Envelope) -> tuple[Decimal, Decimal | None]:
    """Returns the index price with exactly the digits that were sent, and the estimated delivery price if it differs.

    An invalid estimate is ignored.
    """
    try:
        found = IndexPrice.model_validate(envelope.result)
    except ValidationError as error:
        raise _malformed_result(envelope, error) from error
    estimate = found.estimated_delivery_price
    try:
        estimate = validate_price(estimate) if isinstance(estimate, Decimal) else None
    except ValueError:
        estimate = None
    return found.index_price, None if estimate == found.index_price else estimate


def delivery_prices(envelope: Envelope) -> dict[int, Decimal]:
    """Returns the delivery prices by their instant, 08:00 UTC of their date, in UNIX seconds. Skips malformed elements."""
    data = envelope.result.get("data") if isinstance(envelope.result, dict) else None
    if not isinstance(data, list):
        raise _malformed(str(envelope.result).encode(), "the delivery prices are no list")
    found = {}
    for element in data:
        with suppress(ValidationError, ValueError):
            parsed = DeliveryPrice.model_validate(_integers_as_decimals(element) if isinstance(element, dict) else element)
            midnight = int(datetime.combine(parsed.date, time(), UTC).timestamp())
            found[midnight + DELIVERY_SECOND] = validate_price(parsed.delivery_price)
    return found


def chart(envelope: Envelope) -> list[ChartPoint]:
    """Returns the averages in ascending order. Skips malformed points."""
    try:
        points = ChartData.validate_python(envelope.result)
    except ValidationError as error:
        points = [point for point in map(_point, envelope.result if isinstance(envelope.result, list) else []) if point]
        if not points:
            raise _malformed_result(envelope, error) from error
    return [ChartPoint(at, average) for at, average in sorted(points)]


def names(envelope: Envelope) -> frozenset[str]:
    """Returns the index names. Skips invalid ones."""
    try:
        found = Names.validate_python(envelope.result)
    except ValidationError as error:
        raise _malformed_result(envelope, error) from error
    return frozenset(name for name in found if re.fullmatch(NAME_PATTERN, name))


def _point(point: Any) -> tuple[int, Decimal] | None:
    try:
        return ChartData.validate_python([point])[0]
    except ValidationError:
        return None


def _json(body: bytes) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"longer than {MAX_BODY_BYTES} bytes")
    value = load_json(body)
    if isinstance(value, dict) and isinstance(value.get("result"), dict | list):
        value["result"] = _integers_as_decimals(value["result"])
    return value


def load_json(text: str | bytes) -> Any:
    """Parses JSON. Numbers become Decimal with the digits sent, never through float, or int without a decimal point: `60000`.

    Raises ValueError, also for NaN and Infinity, or RecursionError.
    """
    return json.loads(text, parse_float=_decimal, parse_constant=_reject_constant)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]} has an exponent that is out of range") from None


def _integers_as_decimals(result: Any) -> Any:
    """Converts prices only: the first member of a chart point is a time and stays an integer."""
    if isinstance(result, dict):
        return {key: Decimal(value) if type(value) is int else value for key, value in result.items()}
    return [
        [point[0], Decimal(point[1])]
        if isinstance(point, list) and len(point) == 2 and type(point[1]) is int  # noqa: PLR2004  a pair
        else point
        for point in result
    ]


def _reject_constant(constant: str) -> Never:
    raise ValueError(f"{constant} is not a JSON number")


def _source_error(error: RpcError, headers: Mapping[str, str]) -> SourceError:
    message = f"Deribit returned error {error.code} {error.message}".rstrip()
    if error.data:
        message = f"{message} {json.dumps(error.data, default=str)[:500]}"
    match error.code:
        case code if code in RATE_LIMIT_CODES:
            backoff_s = _retry_after_s(headers) or RATE_LIMIT_BACKOFF_S
            return RetryableError(message, Reason.RATE_LIMITED, retry_after_s=backoff_s)
        case code if code in MAINTENANCE_CODES:
            return RetryableError(message, Reason.MAINTENANCE, retry_after_s=MAINTENANCE_BACKOFF_S)
        case -32602 if isinstance(error.data, dict) and error.data.get("param") == "index_name":
            return UnknownTickerError(message, Reason.REFUSED)
        case code if code in PERMANENT_CODES:
            return PermanentError(message, Reason.REFUSED)
        case code if code in TIMEOUT_CODES:
            return RetryableError(message, Reason.TIMEOUT)
        case code if code in SERVER_ERROR_CODES:
            return RetryableError(message, Reason.HTTP_5XX)
        case _:
            return RetryableError(message, Reason.REFUSED)


def _raise_for_status(status: int, headers: Mapping[str, str], body: bytes) -> None:
    message = f"Deribit returned HTTP {status} {_excerpt(body)}"
    retry_after_s = _retry_after_s(headers)
    match status:
        case 429:
            raise RetryableError(message, Reason.RATE_LIMITED, retry_after_s=retry_after_s or RATE_LIMIT_BACKOFF_S)
        case _ if status >= 500:  # noqa: PLR2004  server errors
            raise RetryableError(message, Reason.HTTP_5XX, retry_after_s=retry_after_s)
        case _ if 300 <= status < 400:  # noqa: PLR2004  redirects
            where = headers.get("Location", "nowhere")[:200]
            raise PermanentError(
                f"DERIBIT_RPC_URL: the server redirects to {where!r}: set the URL of the API itself", Reason.REFUSED
            )
        case 404:
            raise PermanentError(
                f"DERIBIT_RPC_URL: the API method does not exist at this URL, check its path: {message}", Reason.REFUSED
            )
        case _ if status >= 400:  # noqa: PLR2004  client errors
            raise RetryableError(message, Reason.REFUSED, retry_after_s=retry_after_s)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Returns the seconds of a Retry-After header (RFC 9110, 10.2.3), at most MAX_RETRY_AFTER_S; 0 if it is missing or invalid.

    A date is compared with the Date header of the response, because the local clock may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:6]), MAX_RETRY_AFTER_S)
    try:
        pause = parsedate_to_datetime(value) - parsedate_to_datetime(headers["Date"])
        return min(max(0.0, pause.total_seconds()), MAX_RETRY_AFTER_S)
    except (ValueError, TypeError, KeyError):
        return 0.0


def _malformed(body: bytes, reason: str) -> RetryableError:
    return RetryableError(f"malformed response from Deribit ({reason}): {_excerpt(body)}", Reason.MALFORMED)


def _malformed_result(envelope: Envelope, error: ValidationError) -> RetryableError:
    return _malformed(str(envelope.result).encode(), error.errors()[0]["msg"])


def _excerpt(body: bytes) -> str:
    text = " ".join(body[:200].decode("utf-8", "replace").split())
    return repr(text) if text else "with an empty body"
