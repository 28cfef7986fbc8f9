"""Arguments checked before any SQL runs. Each function gives the value to use or raises a BadInputError or its like."""

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
from db.tables import IS_NO_NAME, NAME
from graph.engine.history import HistoryWatch
from graph.engine.limits import CANDLES_MOST, PAGE_DEFAULT, PAGE_MOST, RANGE_MOST, TICKERS_MOST
from graph.errors import BadInputError, HistoryChangedError, RangeTooLargeError

_CURSOR = "ts:"

T = TypeVar("T")


@strawberry.enum(description="Which end of a window comes first.")
class Order(Enum):
    """Which end of a window comes first."""

    NEWEST_FIRST = strawberry.enum_value("NEWEST_FIRST", description="From the newest minute back.")
    OLDEST_FIRST = strawberry.enum_value("OLDEST_FIRST", description="From the oldest minute on.")


@dataclass(frozen=True)
class Window:
    """The minutes in [low, high), UNIX seconds."""

    low: int
    high: int


@dataclass(frozen=True)
class Page:
    """A part of a window: at most `size` prices, from its end where `backwards`."""

    size: int
    backwards: bool
    after: int | None
    before: int | None


def given(value: T | None) -> T | None:
    """The value of an argument that may be left out; None where it was, or was null."""
    return None if value is UNSET else value


def ticker(name: str) -> str:
    """A name that could be an index's, as the exchange spells it."""
    canonical = name.strip().lower()
    if not re.fullmatch(NAME, canonical):
        raise BadInputError(f"ticker: {_shown(name)} {IS_NO_NAME}")
    return canonical


def tickers(names: Sequence[str]) -> list[str]:
    """Names that could be indexes, each once, in their order."""
    if len(names) > TICKERS_MOST:
        raise BadInputError(f"tickers: {len(names)} names are too many; ask for at most {TICKERS_MOST}")
    return list(dict.fromkeys(ticker(name) for name in names))


def window(low: int | None, high: int | None) -> Window:
    """`from` and `to`, either of which may be open. Nothing lies beyond now, so an open end needs no clock."""
    start, end = given(low), given(high)
    found = Window(times.FIRST if start is None else start, times.END if end is None else end)
    if found.low >= found.high:
        raise BadInputError(f"from: {times.iso(found.low)} should be before to: {times.iso(found.high)}")
    return found


def short_window(low: int, high: int | None, now: float) -> Window:
    """A window of at most RANGE_MOST minutes; `to` left out means now."""
    asked = window(low, high)
    is_open = given(high) is None
    end = max(low, int(now) + 1) if is_open else asked.high
    minutes = -(-end // times.MINUTE) - -(-asked.low // times.MINUTE)  # those that begin in the window
    if minutes > RANGE_MOST:
        raise RangeTooLargeError(
            f"from {times.iso(asked.low)} to {times.iso(end)} are {minutes} minutes; ask for at most {RANGE_MOST} at "
            "once, or page through `prices`",
            minutes=minutes,
            most=RANGE_MOST,
        )
    # An open end is bounded all the same: by the clock of this host alone it would be as long as that clock is behind.
    return Window(asked.low, min(asked.high, asked.low + RANGE_MOST * times.MINUTE)) if is_open else asked


def window_of_candles(low: int, high: int | None, interval: Interval, now: float) -> Window:
    """A window in which at most CANDLES_MOST candles begin, none of them after now."""
    asked = window(low, high)
    end = max(asked.low, min(asked.high, int(now) + 1))
    count = interval.count(asked.low, end)
    if count > CANDLES_MOST:
        raise RangeTooLargeError(
            f"From {times.iso(asked.low)} to {times.iso(end)} begin {count} candles of {interval.name}; ask for at most "
            f"{CANDLES_MOST} at once, or for longer ones",
            candles=count,
            most=CANDLES_MOST,
        )
    return Window(asked.low, end)


def page(
    first: int | None, after: str | None, last: int | None, before: str | None, history: HistoryWatch | None = None
) -> Page:
    """Relay's arguments; without `first` and `last` the first PAGE_DEFAULT. Cursors are those of the `history`."""
    first, after, last, before = given(first), given(after), given(last), given(before)
    if first is not None and last is not None:
        raise BadInputError("first, last: give one of them, not both")
    for name, size in (("first", first), ("last", last)):
        if size is not None and not 1 <= size <= PAGE_MOST:
            raise BadInputError(f"{name}: {size} should be from 1 to {PAGE_MOST}")
    return Page(
        size=last if last is not None else first if first is not None else PAGE_DEFAULT,
        backwards=last is not None,
        after=_position("after", after, history),
        before=_position("before", before, history),
    )


def max_age(seconds: int) -> int:
    """Seconds, 0 or more."""
    if seconds < 0:
        raise BadInputError(f"maxAge: {seconds} should be 0 or more seconds")
    return seconds


def cursor(ts: int, history: HistoryWatch) -> str:
    """Where a minute stands in a list: opaque to clients, true whatever is added around it, for one history alone."""
    return base64.urlsafe_b64encode(f"{_CURSOR}{ts}:{history.epoch:x}".encode()).decode()


def event_id(text: str | None) -> int | None:
    """The id of an event to go on from; None where none is given."""
    if given(text) is None:
        return None
    if not re.fullmatch(r"\d{1,18}", str(text), re.ASCII):
        raise BadInputError(f"after: {_shown(str(text))} is no id; send the last `id` that you were given")
    return int(str(text))


def _position(name: str, text: str | None, history: HistoryWatch | None) -> int | None:
    if text is None:
        return None
    try:
        plain = base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode()
        minute, epoch = _minute(plain)
    except (binascii.Error, ValueError):
        raise BadInputError(f"{name}: {_shown(text)} is no cursor; use a `cursor` or `endCursor` that `prices` gave") from None
    if history is not None and epoch not in (None, 0, history.epoch) and history.epoch:
        raise HistoryChangedError(f"{name}: {_shown(text)}", history.forked_at, "Ask for the first page again")
    return minute


def _minute(plain: str) -> tuple[int, int | None]:
    """The minute and the epoch of a cursor; one of an older release has no epoch."""
    found = re.fullmatch(rf"{_CURSOR}(\d{{1,10}})(?::([0-9a-f]{{1,16}}))?", plain, re.ASCII)
    if found is None or int(found[1]) >= times.END:
        raise ValueError(plain)
    return int(found[1]), None if found[2] is None else int(found[2], 16)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")  # noqa: PLR2004  enough to recognise it
