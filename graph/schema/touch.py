"""The type Touch: whether and when an index reached a price."""

from decimal import Decimal
from enum import Enum
from typing import Final, Self

import strawberry

from db import times
from db.queries import touches
from db.rows import validate_price
from graph.engine.field_rules import Arguments
from graph.engine.limits import MAX_TOUCH_MINUTES
from graph.engine.windows import Window
from graph.errors import BadInputError, RangeTooLargeError
from graph.schema.context import Info
from graph.schema.scalars import UnixTime

SEAL_TIME_S: Final = 10
"""How long after its end a minute may still lack its range."""


@strawberry.enum(description="Whether an index reached a price.")
class TouchState(Enum):
    """Whether an index reached a price."""

    TOUCHED = strawberry.enum_value(
        "TOUCHED", description="It reached the price first in the minute `ts`: every minute before was watched completely."
    )
    NOT_TOUCHED = strawberry.enum_value(
        "NOT_TOUCHED", description="It did not reach the price: every minute was watched completely."
    )
    NOT_KNOWN = strawberry.enum_value(
        "NOT_KNOWN",
        description="It may have reached the price in a minute that was not watched completely: first in `unwatched`. `ts` is "
        "the first minute in which it is known to have reached the price, if there is one.",
    )


@strawberry.type(
    description="Whether and when an index reached a price, from below or from above, in the minutes that start in a window. "
    "Ticks and minute prices are the evidence."
)
class Touch:
    """Whether and when an index reached a price."""

    state: TouchState = strawberry.field(description="What is known.")
    ts: UnixTime | None = strawberry.field(
        description="The first minute in which the index is known to have reached the price."
    )
    start: Decimal | None = strawberry.field(
        description="The earliest known value of the window. It decides whether the price is reached from below or above."
    )
    unwatched: UnixTime | None = strawberry.field(
        description="The first minute that was not watched completely; null if all were."
    )
    until: UnixTime = strawberry.field(
        description="End of the examined minutes (exclusive): `to`, or the newest minute that ended ten seconds ago."
    )

    @classmethod
    async def read(cls, info: Info, ticker: str, price: Decimal, window: Window) -> Self:
        """Searches the window. Raises BadInputError or RangeTooLargeError."""
        try:
            level = validate_price(price)
        except ValueError as error:
            raise BadInputError(f"price ({str(price)[:40]}) {error}") from None
        low = -(-window.low // times.MINUTE) * times.MINUTE
        high = min(-(-window.high // times.MINUTE) * times.MINUTE, _last_sealed(info.context.now()))
        minutes = (high - low) // times.MINUTE
        if minutes > MAX_TOUCH_MINUTES:
            raise RangeTooLargeError(
                f"The window has {minutes} minutes; the maximum is {MAX_TOUCH_MINUTES}. Request a shorter window.",
                minutes=minutes,
                most=MAX_TOUCH_MINUTES,
            )
        if minutes <= 0:
            return cls(state=TouchState.NOT_KNOWN, ts=None, start=None, unwatched=UnixTime(low), until=UnixTime(low))
        found = await touches.find_touch(info.context.db, ticker, level, low, high)
        state = TouchState.NOT_KNOWN
        if found.is_certain:
            state = TouchState.NOT_TOUCHED if found.ts is None else TouchState.TOUCHED
        return cls(
            state=state,
            ts=None if found.ts is None else UnixTime(found.ts),
            start=found.start,
            unwatched=None if found.unwatched_ts is None else UnixTime(found.unwatched_ts),
            until=UnixTime(high),
        )


def reaches_now(arguments: Arguments, now: float) -> bool:
    """Returns whether the window may contain minutes that are not over. True also for a missing or invalid `to`."""
    try:
        return times.parse(arguments.get("to")) > _last_sealed(now)
    except ValueError:
        return True


def _last_sealed(now: float) -> int:
    return times.minute_of(now - SEAL_TIME_S)
