"""Rules of alerts: their parameters, and when they hold. The worker stores what was decided, in the order of commits."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from db import times
from db.rows import MAX_PRICE, AlertDirection, AlertFormat, AlertKind

MAX_MINUTES: Final = 10_080
MAX_URL_LENGTH: Final = 2_000

PARAMETERS: Final = {
    AlertKind.CROSSES: ("level",),
    AlertKind.MOVES: ("percent", "minutes"),
    AlertKind.STALE: ("minutes",),
    AlertKind.GAP: ("minutes",),
    AlertKind.STREAM_SILENT: ("minutes",),
    AlertKind.DELIVERY_DIFFERS: ("percent",),
}
"""The parameters that each kind requires. Others must be missing."""

State = dict[str, Any]
"""What was decided last: `ts`, the newest minute that was considered; `held`, whether the condition held (null: not known yet);
`up` and `down`, whether the price can cross the level in this direction."""


@dataclass(frozen=True)
class AlertRule:
    """A rule, and where its webhook goes. Raises ValueError if the parameters do not fit."""

    kind: AlertKind
    ticker: str
    url: str
    level: Decimal | None = None
    hysteresis: Decimal = Decimal(0)
    direction: AlertDirection = AlertDirection.EITHER
    percent: Decimal | None = None
    minutes: int | None = None
    format: AlertFormat = AlertFormat.STANDARD

    def __post_init__(self) -> None:
        for name in ("level", "percent", "minutes"):
            if (getattr(self, name) is not None) != (name in PARAMETERS[self.kind]):
                needed = " and ".join(PARAMETERS[self.kind])
                raise ValueError(f"{name}: {self.kind} needs {needed}, and no other of level, percent and minutes")
        if self.kind is not AlertKind.CROSSES and (self.hysteresis or self.direction is not AlertDirection.EITHER):
            raise ValueError(f"hysteresis and direction belong to {AlertKind.CROSSES}")
        for name in ("level", "percent"):
            value = getattr(self, name)
            if value is not None and not 0 < value < MAX_PRICE:
                raise ValueError(f"{name} ({value}) must be above 0 and below {MAX_PRICE:.0e}")
        if not 0 <= self.hysteresis < (MAX_PRICE if self.level is None else self.level):
            raise ValueError(f"hysteresis ({self.hysteresis}) must be 0 or more, and less than the level")
        if self.minutes is not None and not 1 <= self.minutes <= MAX_MINUTES:
            raise ValueError(f"minutes ({self.minutes}) must be from 1 to {MAX_MINUTES}")
        if not re.fullmatch(r"https?://[^/@\s?#]+([/?]\S*)?", self.url) or len(self.url) > MAX_URL_LENGTH:
            raise ValueError("url: should look like https://example.org/hook, without a user and a password")


@dataclass(frozen=True)
class Firing:
    """Something that a rule waited for. `key` identifies it among those of the rule."""

    key: str
    ts: int
    """The minute, in UNIX seconds."""
    text: str
    price: Decimal | None = None


@dataclass(frozen=True)
class Point:
    """A stored price."""

    ts: int
    price: Decimal


def initial_state(newest: Point | None, rule: AlertRule) -> State:
    """Returns the state of a new rule. What is stored already does not fire, nor does a condition that holds already."""
    held = False if rule.kind is AlertKind.MOVES else None
    state: State = {"ts": -1 if newest is None else newest.ts, "held": held, "up": False, "down": False}
    if newest is not None and rule.level is not None:
        _arm(state, newest.price, rule.level, Decimal(0))  # the first crossing needs no distance
    return state


def decide_crossings(rule: AlertRule, state: State, points: Iterable[Point]) -> list[Firing]:
    """Returns each crossing of the level by the points, in the order of their commits, and updates the state.

    A minute that is older than one before it is ignored: it says what the price was, not what it is.
    """
    assert rule.level is not None  # noqa: S101  a rule of this kind has one
    found = []
    for point in points:
        if point.ts <= state["ts"]:
            continue
        state["ts"] = point.ts
        for direction, is_crossed in (("up", point.price >= rule.level), ("down", point.price <= rule.level)):
            if state[direction] and is_crossed:
                state[direction] = False
                if rule.direction in (AlertDirection.EITHER, AlertDirection(direction.upper())):
                    word = "rose to" if direction == "up" else "fell to"
                    text = f"{rule.ticker} {word} {point.price:f}, across {rule.level:f}"
                    found.append(Firing(f"{direction}-{point.ts}", point.ts, text, point.price))
        _arm(state, point.price, rule.level, rule.hysteresis)
    return found


def _arm(state: State, price: Decimal, level: Decimal, hysteresis: Decimal) -> None:
    if price < level and price <= level - hysteresis:
        state["up"] = True
    if price > level and price >= level + hysteresis:
        state["down"] = True


def decide_moves(rule: AlertRule, state: State, points: Sequence[Point], earlier: Sequence[Point]) -> list[Firing]:
    """Returns each move by the points, in the order of their commits, and updates the state.

    `earlier` are the prices of the minutes before and between them, oldest first. After a move, the next one fires only if the
    price has moved less in between.
    """
    assert rule.percent is not None  # noqa: S101  a rule of this kind has both
    assert rule.minutes is not None  # noqa: S101
    found = []
    for point in points:
        if point.ts <= state["ts"]:
            continue
        state["ts"] = point.ts
        low = point.ts - rule.minutes * times.MINUTE
        begin, end = (bisect_left(earlier, ts, key=_ts_of) for ts in (low, point.ts))
        window = [one.price for one in earlier[begin:end]]
        changes = [(point.price / price - 1) * 100 for price in (min(window), max(window))] if window else []
        largest = max(changes, key=abs, default=Decimal(0))
        text = f"{rule.ticker} moved by {largest:+.2f} % within {rule.minutes} minutes, to {point.price:f}"
        firing = Firing(f"move-{point.ts}", point.ts, text, point.price)
        found += decide_condition(state, holds=abs(largest) >= rule.percent, firing=firing)
    return found


def _ts_of(point: Point) -> int:
    return point.ts


def decide_condition(state: State, *, holds: bool, firing: Firing) -> list[Firing]:
    """Returns the firing if the condition has begun to hold, and updates the state. The first time only sets the state."""
    began = holds and state["held"] is False
    state["held"] = holds
    return [firing] if began else []
