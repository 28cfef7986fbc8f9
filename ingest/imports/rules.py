"""A fast version of the rules of `PriceRow` for text: a year has half a million rows. A test compares both."""

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation

from pydantic import ValidationError

from db import times
from db.queries.bulk_import import Row
from db.rows import PriceRow, Source, validate_price
from ingest.imports.columns import UNITS

_SECONDS = re.compile(r"\d{9,10}", re.ASCII)
_UNIX = re.compile(r"\d{9,20}(\.\d*)?", re.ASCII)
"""Up to eight digits may be an ISO date without dashes."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PLAIN = re.compile(r"(\d{1,15})(?:\.(\d{1,18}))?", re.ASCII)


def parse_candle(candle: tuple[str, str, str, str]) -> str:
    """Returns open, high, low and close in plain notation, separated by commas.

    Raises ValueError if one of them is no price, or if they do not fit together.
    """
    prices = [validate_price(_number(text.strip())) for text in candle]
    open_price, high, low, close = prices
    shown = ",".join(f"{price:f}" for price in prices)
    if not low <= min(open_price, close) <= max(open_price, close) <= high:
        raise ValueError(f"open and close are not between low and high: open, high, low, close are {shown}")
    return shown


def parse_row(time: str, price: str, unit: str | None = None, *, is_exact: bool = False, source: str | None = None) -> Row:
    """Returns the row, with the price in plain notation. Raises ValueError if the time or the price is invalid.

    `unit` is the unit of a UNIX time; None: by its size. A time without seconds may have been
    rounded to the minute, so it becomes `observed_at` only if `is_exact`. `source` is the value for `original_source`.
    """
    if (
        not is_exact
        and unit in (None, "s")
        and _SECONDS.fullmatch(time)
        and (found := _PLAIN.fullmatch(price))
        and int(time) < times.END
    ):
        second = int(time)
        whole, decimals = found[1].lstrip("0"), (found[2] or "").rstrip("0")
        if whole or decimals:
            rest = second % times.MINUTE
            value = f"{whole or 0}.{decimals}" if decimals else whole
            return second - rest, value, second * 10**6 if rest else None, source, None
    return _parse_with_model(time, price, unit, is_exact, source)


def is_same_minute(instant: str, time: str, unit: str | None) -> bool:
    """Returns whether an instant lies in the minute of a time. False if one of them is invalid."""
    try:
        return times.minute_of(_microsecond(instant, None) // 10**6) == times.minute_of(_microsecond(time, unit) // 10**6)
    except ValueError:
        return False


def _parse_with_model(time: str, price: str, unit: str | None, is_exact: bool, source: str | None) -> Row:
    microsecond = _microsecond(time, unit)
    ts = times.minute_of(microsecond // 10**6)
    number = _number(price.strip())
    values = {
        "ticker": "any",
        "ts": ts,
        "price": number,
        "observed_at": microsecond if is_exact or microsecond % (times.MINUTE * 10**6) else None,
        "source": Source.IMPORT,
    }
    try:
        row = PriceRow.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{problem['loc'][0]} {price[:40]!r}: {problem['msg'].removeprefix('Value error, ')}") from None
    return row.ts, f"{row.price:f}", row.observed_at, source, None


def _number(text: str) -> Decimal:
    try:
        # Decimal alone also accepts 1_000 and digits of other scripts.
        return Decimal(text if _NUMBER.fullmatch(text) else "no number")
    except InvalidOperation:
        raise ValueError(f"price {text[:40]!r} is not a number") from None


def _microsecond(time: str, unit: str | None) -> int:
    """Returns UNIX microseconds of a UNIX time in the unit (None: by its size) or of ISO 8601 (UTC if it has no offset)."""
    text = time.strip()
    whole, _, fraction = text.partition(".")
    if _UNIX.fullmatch(text):
        time_unit = unit or next((name for name, (_, limit) in UNITS.items() if int(whole) < limit), "s")
        value = Decimal(f"{whole}.{fraction or 0}") / UNITS[time_unit][0]
        return times.parse(int(value)) * 10**6 + int(value % 1 * 10**6)
    second = times.parse(text)
    return second * 10**6 + datetime.fromisoformat(text).microsecond
