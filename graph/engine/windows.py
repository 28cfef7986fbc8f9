"""Windows of time, as all interfaces read them."""

from dataclasses import dataclass
from typing import Self

from db import times
from graph.errors import BadInputError


@dataclass(frozen=True)
class Window:
    """The minutes in [low, high), UNIX seconds."""

    low: int
    high: int

    @classmethod
    def parse(cls, start: int | None, end: int | None) -> Self:
        """Returns the window from `start` (None: unbounded) to `end` (exclusive; None: unbounded). Raises BadInputError.

        Nothing is stored after now, so a missing end needs no clock.
        """
        found = cls(times.FIRST if start is None else start, times.END if end is None else end)
        if found.low >= found.high:
            raise BadInputError(f"from ({times.iso(found.low)}) must be before to ({times.iso(found.high)})")
        return found
