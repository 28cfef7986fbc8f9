"""Instants as integers of UNIX seconds, UTC, and the minute that a price belongs to."""

import math
from datetime import UTC, datetime

MINUTE = 60
DAY = 86_400
FIRST = 0
END = 7_289_654_400
"""2201-01-01T00:00:00Z: instants lie in [FIRST, END)."""

_MILLISECONDS_FROM = 10**11


def minute_of(second: float) -> int:
    """The minute that the instant lies in, as its first second."""
    return int(second // MINUTE) * MINUTE


def parse(value: object) -> int:
    """UNIX seconds from an integer or from ISO 8601 (UTC where it has no offset); fractions of a second are cut off.

    Raises ValueError saying what came and what would be right.
    """
    match value:
        case bool():
            raise ValueError(_no_time(value))
        case int() | float():
            return _bounded(value, value)
        case str():
            return _parse_text(value.strip())
        case _:
            raise ValueError(_no_time(value))


def _parse_text(text: str) -> int:
    # Up to eight digits may be an ISO date without dashes, so only longer ones count as UNIX seconds.
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(text) > len("20240115"):
        return _bounded(int(text[:20]), text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_no_time(text)) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return _bounded(instant.timestamp(), text)


def _bounded(second: float, came: object) -> int:
    if not math.isfinite(second):
        raise ValueError(_no_time(came))
    if FIRST <= second < END:
        return math.floor(second)
    if _MILLISECONDS_FROM <= second < END * 1000:
        raise ValueError(f"{_shortened(came)} can only be milliseconds: divide by 1000, times are UNIX seconds")
    raise ValueError(f"{_shortened(came)} lies outside the years 1970 to 2200")


def _no_time(value: object) -> str:
    return f"{_shortened(value)} is no time: write UNIX seconds (1705318800) or ISO 8601 (2024-01-15T11:40:00Z)"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004  a line's worth


def iso(second: int) -> str:
    """`2024-01-15T11:40:00Z`."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_us(microsecond: int) -> str:
    """`2024-01-15T11:40:00.123456Z`, from microseconds."""
    second, fraction = divmod(microsecond, 1_000_000)
    return f"{iso(second)[:-1]}.{fraction:06d}Z"


def minutes(count: int) -> str:
    """`1 minute`, `2 minutes`."""
    return f"{count:,} minute{'' if count == 1 else 's'}"
