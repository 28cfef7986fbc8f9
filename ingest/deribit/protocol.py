"""What Deribit's answers mean, without I/O: status, headers and body in; values or a typed error out.

Sources: https://docs.deribit.com (methods, error codes); HTTP statuses as other clients met them.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any, Never

from pydantic import ValidationError

from db.tables import NAME, Reason
from ingest.deribit.models import ChartData, Envelope, IndexPrice, Names, RpcError
from ingest.errors import AgainError, LaterError, NeverError, SourceError, UnknownTickerError
from ingest.source import ChartPoint

BODY_LIMIT = 4 << 20
"""Bytes. The longest real answer, a year's chart, is far below."""

WINDOWS = {"1h": 3600, "1d": 86_400, "2d": 172_800, "1m": 2_592_000, "1y": 31_536_000}
"""Chart windows, finest first, with the seconds they reach back; `all` reaches everything."""

RATE_LIMIT_CODES = frozenset({10028, 10066})
MAINTENANCE_CODES = frozenset({11051, 11056, 13025, 13503})
NEVER_CODES = frozenset({-32602, -32601, 11029, 11050})
TIMEOUT_CODES = frozenset({13888})
SERVER_ERROR_CODES = frozenset({-32603, 11094, 13028})

RETRY_AFTER_MAX_S = 60.0
RATE_LIMIT_PAUSE_S = 1.0
MAINTENANCE_PAUSE_S = 10.0


def window_reaching(age_s: float) -> str:
    """The finest chart window that still reaches back `age_s` seconds."""
    return next((name for name, reach_s in WINDOWS.items() if age_s <= reach_s), "all")


def open_envelope(status: int, headers: Mapping[str, str], body: bytes) -> Envelope:
    """The envelope of a good answer.

    The body is read first, whatever the status: Deribit sends errors with 400 too. Raises a SourceError that says what to do.
    """
    try:
        envelope = Envelope.model_validate(_json(body))
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        _raise_for_status(status, headers, body)
        raise _malformed(body, str(error).partition("\n")[0]) from error
    if envelope.testnet:
        raise NeverError(
            "DERIBIT_RPC_URL: the answer is from Deribit's testnet, whose prices are not real: set it to the production API",
            Reason.TESTNET,
        )
    if envelope.error is not None:
        raise _refused(envelope.error, headers)
    _raise_for_status(status, headers, body)
    if envelope.result is None:
        raise _malformed(body, "neither result nor error")
    return envelope


def price(envelope: Envelope) -> Decimal:
    """The index price, digit by digit as it was sent."""
    try:
        return IndexPrice.model_validate(envelope.result).index_price
    except ValidationError as error:
        raise _malformed_result(envelope, error) from error


def chart(envelope: Envelope) -> list[ChartPoint]:
    """The averages, ascending; a point that makes no sense is left out."""
    try:
        points = ChartData.validate_python(envelope.result)
    except ValidationError as error:
        points = [point for point in map(_point, envelope.result if isinstance(envelope.result, list) else []) if point]
        if not points:
            raise _malformed_result(envelope, error) from error
    return [ChartPoint(at, average) for at, average in sorted(points)]


def names(envelope: Envelope) -> frozenset[str]:
    """The index names; what could be none is left out."""
    try:
        found = Names.validate_python(envelope.result)
    except ValidationError as error:
        raise _malformed_result(envelope, error) from error
    return frozenset(name for name in found if re.fullmatch(NAME, name))


def _point(point: Any) -> tuple[int, Decimal] | None:
    try:
        return ChartData.validate_python([point])[0]
    except ValidationError:
        return None


def _json(body: bytes) -> Any:
    if len(body) > BODY_LIMIT:
        raise ValueError(f"longer than {BODY_LIMIT} bytes")
    # Decimal from the digits sent, never through float. A price may come without a point: `60000`.
    value = json.loads(body, parse_float=_decimal, parse_constant=_no_number)
    if isinstance(value, dict) and isinstance(value.get("result"), dict | list):
        value["result"] = _integers_as_decimals(value["result"])
    return value


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]} has an exponent that no number has") from None


def _integers_as_decimals(result: Any) -> Any:
    """Prices only: a chart point's first member is an instant and stays an integer."""
    if isinstance(result, dict):
        return {key: Decimal(value) if type(value) is int else value for key, value in result.items()}
    return [
        [point[0], Decimal(point[1])]
        if isinstance(point, list) and len(point) == 2 and type(point[1]) is int  # noqa: PLR2004  a pair
        else point
        for point in result
    ]


def _no_number(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON number")


def _refused(error: RpcError, headers: Mapping[str, str]) -> SourceError:
    message = f"Deribit answered error {error.code} {error.message}".rstrip()
    if error.data:
        message = f"{message} {json.dumps(error.data, default=str)[:500]}"
    match error.code:
        case code if code in RATE_LIMIT_CODES:
            pause_s = _retry_after_s(headers) or RATE_LIMIT_PAUSE_S
            return AgainError(message, Reason.RATE_LIMITED, retry_after_s=pause_s)
        case code if code in MAINTENANCE_CODES:
            return LaterError(message, Reason.MAINTENANCE, retry_after_s=MAINTENANCE_PAUSE_S)
        case -32602 if isinstance(error.data, dict) and error.data.get("param") == "index_name":
            return UnknownTickerError(message, Reason.REFUSED)
        case code if code in NEVER_CODES:
            return NeverError(message, Reason.REFUSED)
        case code if code in TIMEOUT_CODES:
            return AgainError(message, Reason.TIMEOUT)
        case code if code in SERVER_ERROR_CODES:
            return AgainError(message, Reason.HTTP_5XX)
        case _:
            return AgainError(message, Reason.REFUSED)


def _raise_for_status(status: int, headers: Mapping[str, str], body: bytes) -> None:
    message = f"Deribit answered HTTP {status} {_shown(body)}"
    retry_after_s = _retry_after_s(headers)
    match status:
        case 429:
            raise AgainError(message, Reason.RATE_LIMITED, retry_after_s=retry_after_s or RATE_LIMIT_PAUSE_S)
        case _ if status >= 500:  # noqa: PLR2004  server errors
            raise AgainError(message, Reason.HTTP_5XX, retry_after_s=retry_after_s)
        case _ if 300 <= status < 400:  # noqa: PLR2004  redirects
            where = headers.get("Location", "nowhere")[:200]
            raise NeverError(f"DERIBIT_RPC_URL: it redirects to {where!r}: set it to the API itself", Reason.REFUSED)
        case 404:
            raise NeverError(f"DERIBIT_RPC_URL: there is no such method at this address: {message}", Reason.REFUSED)
        case _ if status >= 400:  # noqa: PLR2004  refusals
            raise AgainError(message, Reason.REFUSED, retry_after_s=retry_after_s)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3); 0 where there is none that can be read.

    A date counts from the answer's own Date, for the local clock may be wrong; no pause is longer than RETRY_AFTER_MAX_S.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:6]), RETRY_AFTER_MAX_S)
    try:
        pause = parsedate_to_datetime(value) - parsedate_to_datetime(headers["Date"])
        return min(max(0.0, pause.total_seconds()), RETRY_AFTER_MAX_S)
    except (ValueError, TypeError, KeyError):
        return 0.0


def _malformed(body: bytes, why: str) -> AgainError:
    return AgainError(f"Deribit's answer makes no sense ({why}): {_shown(body)}", Reason.MALFORMED)


def _malformed_result(envelope: Envelope, error: ValidationError) -> AgainError:
    return _malformed(str(envelope.result).encode(), error.errors()[0]["msg"])


def _shown(body: bytes) -> str:
    text = " ".join(body[:200].decode("utf-8", "replace").split())
    return repr(text) if text else "with an empty body"
