"""What `PriceRow` demands, for text and fast: a year has half a million rows. A test compares both."""

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from pydantic import ValidationError

from db import times
from db.queries.importing import Row
from db.tables import PriceRow, Source

UNITS: Final = {"s": (1, 10**11), "ms": (10**3, 10**14), "us": (10**6, 10**17), "ns": (10**9, 10**20)}
"""Units of UNIX times: how many there are in a second, and the number below which one is taken for such a time."""
_SECONDS = re.compile(r"\d{9,10}", re.ASCII)
_UNIX = re.compile(r"\d{9,20}(\.\d*)?", re.ASCII)
"""Up to eight digits may be an ISO date without dashes."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PLAIN = re.compile(r"(\d{1,15})(?:\.(\d{1,18}))?", re.ASCII)


def checked(time: str, price: str, unit: str | None = None) -> Row:
    """The row, its price in plain notation; ValueError says what is wrong. `unit`: of the time; None: by its size.

    The minute is the time's; the instant is kept where it has seconds, for a full minute may be all that was known.
    """
    if unit in (None, "s") and _SECONDS.fullmatch(time) and (found := _PLAIN.fullmatch(price)) and int(time) < times.END:
        second = int(time)
        whole, decimals = found[1].lstrip("0"), (found[2] or "").rstrip("0")
        if whole or decimals:
            rest = second % times.MINUTE
            value = f"{whole or 0}.{decimals}" if decimals else whole
            return second - rest, value, second * 10**6 if rest else None
    return _by_the_model(time, price, unit)


def is_same_minute(instant: str, time: str, unit: str | None) -> bool:
    """Whether an instant lies in the minute of a time; not where one of them is none."""
    try:
        return times.minute_of(_microsecond(instant, None) // 10**6) == times.minute_of(_microsecond(time, unit) // 10**6)
    except ValueError:
        return False


def _by_the_model(time: str, price: str, unit: str | None) -> Row:
    microsecond = _microsecond(time, unit)
    ts = times.minute_of(microsecond // 10**6)
    number = _number(price.strip())
    values = {
        "ticker": "any",
        "ts": ts,
        "price": number,
        "observed_at": microsecond if microsecond % (times.MINUTE * 10**6) else None,
        "source": Source.IMPORT,
    }
    try:
        row = PriceRow.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{problem['loc'][0]} {price[:40]!r}: {problem['msg'].removeprefix('Value error, ')}") from None
    return row.ts, f"{row.price:f}", row.observed_at


def _number(text: str) -> Decimal:
    try:
        # Decimal alone reads 1_000 and digits of other scripts as well.
        return Decimal(text if _NUMBER.fullmatch(text) else "no number")
    except InvalidOperation:
        raise ValueError(f"price {text[:40]!r} is no number") from None


def _microsecond(time: str, unit: str | None) -> int:
    """Of a UNIX time in the unit (None: by its size), whole or not, or of ISO 8601 (UTC where it has no offset)."""
    text = time.strip()
    whole, _, fraction = text.partition(".")
    if _UNIX.fullmatch(text):
        of = unit or next((name for name, (_, below) in UNITS.items() if int(whole) < below), "s")
        value = Decimal(f"{whole}.{fraction or 0}") / UNITS[of][0]
        return times.parse(int(value)) * 10**6 + int(value % 1 * 10**6)
    second = times.parse(text)
    return second * 10**6 + datetime.fromisoformat(text).microsecond
