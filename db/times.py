"""Conversion of times. Times are integers of UNIX seconds in UTC."""

import math
from datetime import UTC, datetime

MINUTE = 60
HOUR = 3_600
DAY = 86_400
FIRST = 0
END = 7_289_654_400
"""2201-01-01T00:00:00Z. Valid times are in [FIRST, END)."""

_MIN_MILLISECONDS = 10**11


def minute_of(second: float) -> int:
    """Returns the first second of the minute that contains the time."""
    return int(second // MINUTE) * MINUTE


def parse(value: object) -> int:
    """Parses UNIX seconds or ISO 8601 (UTC if it has no offset) and truncates fractions of a second.

    Raises ValueError with the value and the accepted formats.
    """
    match value:
        case bool():
            raise ValueError(_invalid_time_message(value))
        case int() | float():
            return _check_range(value, value)
        case str():
            return _parse_text(value.strip())
        case _:
            raise ValueError(_invalid_time_message(value))


def _parse_text(text: str) -> int:
    # Up to eight digits may be an ISO date without dashes, so only longer numbers are UNIX seconds.
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(text) > len("20240115"):
        return _check_range(int(text[:20]), text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_invalid_time_message(text)) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return _check_range(instant.timestamp(), text)


def _check_range(second: float, value: object) -> int:
    if not math.isfinite(second):
        raise ValueError(_invalid_time_message(value))
    if FIRST <= second < END:
        return math.floor(second)
    if _MIN_MILLISECONDS <= second < END * 1000:
        raise ValueError(f"{_shorten(value)} appears to be in milliseconds. Divide by 1000; times are UNIX seconds")
    raise ValueError(f"{_shorten(value)} is outside the years 1970 to 2200")


def _invalid_time_message(value: object) -> str:
    return f"{_shorten(value)} is not a valid time. Use UNIX seconds (1705318800) or ISO 8601 (2024-01-15T11:40:00Z)"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004  maximum length in a message


def iso(second: int) -> str:
    """Formats UNIX seconds as `2024-01-15T11:40:00Z`."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_us(microsecond: int) -> str:
    """Formats UNIX microseconds as `2024-01-15T11:40:00.123456Z`."""
    second, fraction = divmod(microsecond, 1_000_000)
    return f"{iso(second)[:-1]}.{fraction:06d}Z"


def format_minutes(count: int) -> str:
    """Formats a count as `1 minute` or `2 minutes`."""
    return f"{count:,} minute{'' if count == 1 else 's'}"
