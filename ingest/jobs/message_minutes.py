"""Which minute a message is to be done for: its own, or the present one where its sender's clock is wrong."""

import logging
import math
from typing import Final

from db import times
from ingest.errors import SourceError
from ingest.source import Source

log = logging.getLogger(__name__)

AHEAD_S: Final = 60


class MessageMinutes:
    """The minutes of one actor's messages, in one process.

    A message may have waited, or its sender's clock may be wrong: the exchange's clock tells. Were each late message left
    out, a scheduler whose clock is behind would stop everything; so the first of them in a minute does the present minute.
    """

    def __init__(self) -> None:
        self._begun = times.FIRST

    async def choose(self, minute: int, source: Source) -> int | None:
        """The minute to do; None where the message's is over and the present one was begun before.

        What was last heard of the exchange's clock does not go on while a host is suspended, so a message that seems to be
        ahead is held against a new answer; where there is none, it is done as it is.
        """
        clock = source.clock
        now = clock.now(minute, within_s=math.inf)
        if now is not None and minute > now + AHEAD_S:
            try:
                await source.names()
            except SourceError:
                now = None
            else:
                now = clock.now(minute, within_s=math.inf)
        if now is not None and minute > now + AHEAD_S:
            log.warning(
                "the message is of %s, and by the exchange's clock it is %s: the scheduler's clock is ahead",
                *(times.iso(minute), times.iso(int(now))),
            )
            minute = times.minute_of(now)
        elif clock.has_passed(minute, within_s=math.inf):
            present = times.minute_of(now) if now is not None else minute
            if present <= self._begun:
                log.info("minute %s is over: nothing to do", times.iso(minute))
                return None
            log.info("minute %s is over: %s is done instead", times.iso(minute), times.iso(present))
            minute = present
        if now is not None:  # a minute that no clock confirmed may be any
            self._begun = max(self._begun, minute)
        return minute
