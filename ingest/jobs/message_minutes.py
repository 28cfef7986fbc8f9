"""Chooses the minute that a message is processed for: its own, or the current one if it is late or from a wrong clock."""

import logging
from typing import Final

from db import times
from ingest.errors import SourceError
from ingest.source import Exchange

log = logging.getLogger(__name__)

MAX_MESSAGE_AHEAD_S: Final = 60


class MinuteChooser:
    """Chooses the minutes of one actor's messages, in one process.

    A message may be late, or its sender's clock may be wrong; the exchange's clock decides. If all late messages were skipped,
    a scheduler whose clock is behind would stop everything, so the first one in a minute is processed for the current minute.
    """

    def __init__(self) -> None:
        self._last_minute = times.FIRST

    async def choose_minute(self, minute: int, source: Exchange) -> int | None:
        """Returns the minute to process; None if the message's minute is over and the current one was already chosen.

        The extrapolated exchange clock stops while a host is suspended. So a message that seems to be ahead is compared with a
        new response; without one, it is processed for its own minute.
        """
        clock = source.clock
        now = clock.now(minute)
        if now is not None and minute > now + MAX_MESSAGE_AHEAD_S:
            try:
                await source.names()
            except SourceError:
                now = None
            else:
                now = clock.now(minute)
        if now is not None and minute > now + MAX_MESSAGE_AHEAD_S:
            log.warning(
                "the message is for %s, but the exchange's clock is at %s: the scheduler's clock is ahead",
                *(times.iso(minute), times.iso(int(now))),
            )
            minute = times.minute_of(now)
        elif clock.has_passed(minute):
            current = times.minute_of(now) if now is not None else minute
            if current <= self._last_minute:
                log.info("minute %s is over: nothing to do", times.iso(minute))
                return None
            log.info("minute %s is over: processing %s instead", times.iso(minute), times.iso(current))
            minute = current
        if now is not None:  # a minute that no clock confirmed may be wrong
            self._last_minute = max(self._last_minute, minute)
        return minute
