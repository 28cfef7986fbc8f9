"""Calendars: when days, weeks and months begin in a time zone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from typing import Final, Self
from zoneinfo import ZoneInfo

from db import times
from db.queries.candles import Interval
from graph.errors import BadInputError

_DAY_MINUTES: Final = 1_440
_WHOLE_DAY: Final = timedelta(days=1)
_UTC: Final = ZoneInfo("UTC")


class WeekStart(Enum):
    """The first day of a week: its number, as `date.weekday()` counts."""

    MONDAY = 0
    SUNDAY = 6


@dataclass(frozen=True)
class Calendar:
    """When days, weeks and months begin.

    If clocks skip the local time of a start, the candle starts at the time that they show instead. If they repeat it, the
    candle starts at the first occurrence; candles of an hour or less start at both.
    """

    zone: ZoneInfo
    week_start: WeekStart = WeekStart.MONDAY
    day_start: int = 0
    """Minutes from midnight to the start of a day."""

    @property
    def is_utc(self) -> bool:
        """Whether its candles are those of UTC, with weeks from Monday on."""
        return self == Calendar(_UTC)

    @classmethod
    def parse(cls, zone: str, week_start: WeekStart = WeekStart.MONDAY, day_start: str = "00:00") -> Self:
        """Returns the calendar of an IANA time zone. `day_start` is a local time like `08:00`. Raises BadInputError."""
        found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", day_start, re.ASCII)
        if found is None:
            raise BadInputError(f"start of the day: {day_start[:40]!r} is not a time like '08:00'")
        try:
            # The pattern also keeps ZoneInfo from looking for strange file names.
            known = re.fullmatch(r"[A-Za-z][\w+/-]{0,63}", zone, re.ASCII) and ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            known = None
        if not known:
            raise BadInputError(f"time zone: {zone[:40]!r} is not an IANA name like 'Europe/Berlin'")
        return cls(known, week_start, int(found[1]) * 60 + int(found[2]))

    def starts(self, interval: Interval, low: int, high: int) -> list[int] | None:
        """Returns the starts of the candles in [low, high), and the end of the last one; `[]` if none starts there.

        None if the calendar is that of UTC.
        """
        if self.is_utc:
            return None
        found: list[int] = []
        for start in self._starts_from(interval, low):
            if start >= low and (not found or start > found[-1]):
                found.append(start)
            if start >= high:
                break
        return found if len(found) > 1 else []

    def _starts_from(self, interval: Interval, low: int) -> Iterator[int]:
        """Yields starts from one at or before `low` on, in order. A start may be repeated where clocks change."""
        length = interval.value.seconds // times.MINUTE
        steps = range(self.day_start, self.day_start + _DAY_MINUTES, min(_DAY_MINUTES, length))
        for day in self._days_from(interval, low):
            midnight = datetime.combine(day, time())
            starts = set[int]()
            for minute in steps:
                local = (midnight + timedelta(minutes=minute)).replace(tzinfo=self.zone)
                starts.add(first := int(local.timestamp()))
                if length <= times.HOUR // times.MINUTE and (again := int(local.replace(fold=1).timestamp())) > first:
                    starts.add(again)  # clocks repeat this local time; if they skip it, `again` is earlier
            yield from sorted(starts)

    def _days_from(self, interval: Interval, low: int) -> Iterator[date]:
        """Yields the local days on which candles start, the first one before `low`."""
        day = datetime.fromtimestamp(low, UTC).date() - 2 * _WHOLE_DAY
        if interval is Interval.ONE_MONTH:
            while True:
                day = day.replace(day=1)
                yield day
                day += timedelta(days=31)
        is_weekly = interval is Interval.ONE_WEEK
        if is_weekly:
            day -= timedelta(days=(day.weekday() - self.week_start.value) % 7)
        while True:
            yield day
            day += 7 * _WHOLE_DAY if is_weekly else _WHOLE_DAY
