"""Validates arguments before any SQL runs.

Each function returns the value to use, or raises an ApiError, usually BadInputError.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import strawberry
from strawberry import UNSET

from db import times
from db.queries.candles import Interval
from db.rows import INVALID_NAME, NAME_PATTERN
from graph.engine.history import HistoryWatch
from graph.engine.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_CANDLES,
    MAX_PAGE_SIZE,
    MAX_POINTS,
    MAX_RANGE_MINUTES,
    MAX_TICKERS,
    MIN_POINTS,
)
from graph.engine.windows import Window
from graph.errors import BadInputError, HistoryChangedError, RangeTooLargeError

_CURSOR_PREFIX = "ts:"

T = TypeVar("T")


@strawberry.enum(description="Order of a list by time.")
class Order(Enum):
    """Order of a list by time."""

    NEWEST_FIRST = strawberry.enum_value("NEWEST_FIRST", description="Newest first.")
    OLDEST_FIRST = strawberry.enum_value("OLDEST_FIRST", description="Oldest first.")


@dataclass(frozen=True)
class Page:
    """A page of a list: at most `size` rows, from its end if `backwards`. `after` and `before` are the minutes of cursors."""

    size: int
    backwards: bool
    after: int | None
    before: int | None


def unset_to_none(value: T | None) -> T | None:
    """Returns the value of an optional argument; None if it is missing or null."""
    return None if value is UNSET else value


def parse_ticker(name: str) -> str:
    """Returns the name as the exchange spells it. Raises BadInputError if it cannot be an index name."""
    canonical = name.strip().lower()
    if not re.fullmatch(NAME_PATTERN, canonical):
        raise BadInputError(f"ticker: {_quoted(name)} {INVALID_NAME}")
    return canonical


def parse_tickers(names: Sequence[str]) -> list[str]:
    """Returns the distinct names in their order. Raises BadInputError for an invalid name or too many names."""
    if len(names) > MAX_TICKERS:
        raise BadInputError(f"tickers: {len(names)} names exceed the maximum of {MAX_TICKERS}")
    return list(dict.fromkeys(parse_ticker(name) for name in names))


def parse_window(low: int | None, high: int | None) -> Window:
    """Returns the window of `from` and `to`, each of which may be missing. Raises BadInputError."""
    return Window.parse(unset_to_none(low), unset_to_none(high))


def parse_short_window(low: int, high: int | None, now: float) -> Window:
    """Returns a window of at most MAX_RANGE_MINUTES minutes. A missing `to` means now."""
    requested = parse_window(low, high)
    is_open = unset_to_none(high) is None
    end = max(low, int(now) + 1) if is_open else requested.high
    minutes = -(-end // times.MINUTE) - -(-requested.low // times.MINUTE)  # minutes that start in the window
    if minutes > MAX_RANGE_MINUTES:
        raise RangeTooLargeError(
            f"The window from {times.iso(requested.low)} to {times.iso(end)} has {minutes} minutes; the "
            f"maximum is {MAX_RANGE_MINUTES}. "
            "Request a shorter window, or page through `prices`.",
            minutes=minutes,
            most=MAX_RANGE_MINUTES,
        )
    # Bounds a missing `to` too: if the clock of this host is behind, the window is longer than computed above.
    return (
        Window(requested.low, min(requested.high, requested.low + MAX_RANGE_MINUTES * times.MINUTE)) if is_open else requested
    )


def parse_candle_window(low: int, high: int | None, interval: Interval, now: float) -> Window:
    """Returns a window in which at most MAX_CANDLES candles start, none of them after now."""
    requested = parse_window(low, high)
    end = max(requested.low, min(requested.high, int(now) + 1))
    count = interval.count(requested.low, end)
    if count > MAX_CANDLES:
        raise RangeTooLargeError(
            f"The window from {times.iso(requested.low)} to {times.iso(end)} has {count} candles of {interval.name}; the "
            f"maximum is {MAX_CANDLES}. Request a shorter window or a longer interval.",
            candles=count,
            most=MAX_CANDLES,
        )
    return Window(requested.low, end)


def parse_page(
    first: int | None, after: str | None, last: int | None, before: str | None, history: HistoryWatch | None = None
) -> Page:
    """Returns the page of Relay's arguments, by default the first DEFAULT_PAGE_SIZE. Cursors must belong to the `history`."""
    first, after, last, before = unset_to_none(first), unset_to_none(after), unset_to_none(last), unset_to_none(before)
    if first is not None and last is not None:
        raise BadInputError("first and last exclude each other: send only one of them")
    for name, size in (("first", first), ("last", last)):
        if size is not None and not 1 <= size <= MAX_PAGE_SIZE:
            raise BadInputError(f"{name} ({size}) must be from 1 to {MAX_PAGE_SIZE}")
    return Page(
        size=last if last is not None else first if first is not None else DEFAULT_PAGE_SIZE,
        backwards=last is not None,
        after=_decode_cursor("after", after, history),
        before=_decode_cursor("before", before, history),
    )


def parse_max_age(seconds: int) -> int:
    """Returns the seconds. Raises BadInputError if they are negative."""
    if seconds < 0:
        raise BadInputError(f"maxAge ({seconds}) must be 0 or more seconds")
    return seconds


def parse_max_points(count: int | None) -> int | None:
    """Returns the number of prices to which a series is thinned; None if it is missing. Raises BadInputError."""
    most = unset_to_none(count)
    if most is not None and not MIN_POINTS <= most <= MAX_POINTS:
        raise BadInputError(f"maxPoints ({most}) must be from {MIN_POINTS} to {MAX_POINTS}")
    return most


def encode_cursor(ts: int, history: HistoryWatch | None) -> str:
    """Returns the cursor of a minute in a list. It is opaque to clients.

    Prices that are added to the list do not change it. It belongs to the `history` only, if there is one.
    """
    epoch = "" if history is None else f":{history.epoch:x}"
    return base64.urlsafe_b64encode(f"{_CURSOR_PREFIX}{ts}{epoch}".encode()).decode()


def parse_event_id(text: str | None) -> int | None:
    """Returns the id of the event to resume after; None if it is missing."""
    if unset_to_none(text) is None:
        return None
    if not re.fullmatch(r"\d{1,18}", str(text), re.ASCII):
        raise BadInputError(f"after: {_quoted(str(text))} is not a valid id; send the last `id` that you received")
    return int(str(text))


def _decode_cursor(name: str, text: str | None, history: HistoryWatch | None) -> int | None:
    if text is None:
        return None
    try:
        plain = base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode()
        minute, epoch = _parse_cursor(plain)
    except (binascii.Error, ValueError):
        raise BadInputError(f"{name}: {_quoted(text)} is not a valid cursor; use one of an earlier page") from None
    # An epoch of 0 is unknown: the history was not read yet, now or when the cursor was issued.
    if history is not None and epoch not in (None, 0, history.epoch) and history.epoch:
        raise HistoryChangedError(f"{name}: {_quoted(text)}", history.forked_at, "Request the first page again")
    return minute


def _parse_cursor(plain: str) -> tuple[int, int | None]:
    """Returns the minute and the epoch of a decoded cursor. Cursors of older releases have no epoch."""
    found = re.fullmatch(rf"{_CURSOR_PREFIX}(\d{{1,10}})(?::([0-9a-f]{{1,16}}))?", plain, re.ASCII)
    if found is None or int(found[1]) >= times.END:
        raise ValueError(plain)
    return int(found[1]), None if found[2] is None else int(found[2], 16)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")  # noqa: PLR2004  enough to recognize it
