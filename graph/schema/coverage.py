"""How complete a window is: counts, and gaps with their reasons."""

from enum import Enum
from typing import Annotated, Self

import strawberry
from strawberry import UNSET
from strawberry.relay import PageInfo

from db import times
from db.pool import Record
from db.queries import coverage, gaps
from db.queries.coverage import Counted
from graph.schema import arguments
from graph.schema.arguments import Window
from graph.schema.context import Info
from graph.schema.scalars import UnixTime
from graph.schema.source import Source


@strawberry.enum(description="Why a minute had no price when it was over.")
class GapReason(Enum):
    """Why a minute had no price when it was over."""

    TIMEOUT = strawberry.enum_value("TIMEOUT", description="Deribit did not answer in time.")
    REFUSED = strawberry.enum_value("REFUSED", description="Deribit refused, or could not be reached.")
    HTTP_5XX = strawberry.enum_value("HTTP_5XX", description="Deribit, or what stands before it, had an error.")
    RATE_LIMITED = strawberry.enum_value("RATE_LIMITED", description="Deribit wanted fewer calls.")
    MALFORMED = strawberry.enum_value("MALFORMED", description="The answer made no sense.")
    TESTNET = strawberry.enum_value("TESTNET", description="The answer was of Deribit's testnet, whose prices are not real.")
    MAINTENANCE = strawberry.enum_value("MAINTENANCE", description="Deribit was under maintenance.")
    CLOCK = strawberry.enum_value("CLOCK", description="It could not be told which minute the answer belonged to.")
    STORAGE = strawberry.enum_value("STORAGE", description="The price came and could not be kept.")
    NOT_COLLECTED = strawberry.enum_value("NOT_COLLECTED", description="Nobody asked: nothing of ours was running.")


@strawberry.enum(description="What became of a gap.")
class GapState(Enum):
    """What became of a gap."""

    OPEN = strawberry.enum_value("OPEN", description="Missing, and looked for in Deribit's chart.")
    FILLED = strawberry.enum_value("FILLED", description="Filled since; its prices tell from where.")
    GIVEN_UP = strawberry.enum_value(
        "GIVEN_UP", description="Missing, and no chart of Deribit's is fine enough any more; an import may still fill it."
    )


@strawberry.type(description="Minutes without a price when they were over, one after another, of one reason and state.")
class Gap:
    """A period of gaps."""

    from_: UnixTime = strawberry.field(name="from", description="Its first minute.")
    to: UnixTime = strawberry.field(description="The end of its last minute; itself not in it.")
    reason: GapReason = strawberry.field(description="Why there was no price.")
    state: GapState = strawberry.field(description="What became of it.")

    @strawberry.field(description="How many minutes they are.")
    def minutes(self) -> int:
        return (self.to - self.from_) // times.MINUTE

    @classmethod
    def of(cls, record: Record) -> Self:
        """From a record of `db.queries.gaps`."""
        return cls(
            from_=UnixTime(record["low"]),
            to=UnixTime(record["high"]),
            reason=GapReason[record["reason"].upper()],
            state=GapState[record["state"]],
        )


@strawberry.type(description="A gap and its place in the list.")
class GapEdge:
    """A gap and its place in the list."""

    cursor: str = strawberry.field(description="Its place in the list.")
    node: Gap = strawberry.field(description="The gap.")


@strawberry.type(description="A page of gaps, oldest first, like the pages of `prices`.")
class GapConnection:
    """A page of gaps."""

    nodes: list[Gap] = strawberry.field(description="The gaps of the page.")
    more: strawberry.Private[bool]
    begun: strawberry.Private[bool]

    @strawberry.field(description="The gaps of the page, each with its cursor.")
    def edges(self, info: Info) -> list[GapEdge]:
        return [GapEdge(cursor=_cursor(info, node), node=node) for node in self.nodes]

    @strawberry.field(description="Where the page stands in the list.")
    def page_info(self, info: Info) -> PageInfo:
        return PageInfo(
            has_next_page=self.more,
            has_previous_page=self.begun,
            start_cursor=_cursor(info, self.nodes[0]) if self.nodes else None,
            end_cursor=_cursor(info, self.nodes[-1]) if self.nodes else None,
        )


@strawberry.type(description="Minutes, one after another, that were not stored in their own minute, all from one source.")
class Part:
    """Minutes from one source."""

    from_: UnixTime = strawberry.field(name="from", description="Its first minute.")
    to: UnixTime = strawberry.field(description="The end of its last minute; itself not in it.")
    source: Source = strawberry.field(description="Where the prices came from: not `LIVE`.")


@strawberry.type(
    description="How complete a window is, up to the last minute that is over. Expected are the minutes in which the ticker "
    "was tracked; each of them is stored, or a gap with a reason."
)
class Coverage:
    """How complete a window is."""

    ticker: strawberry.Private[str]
    counted: strawberry.Private[Counted]

    @strawberry.field(name="from", description="First minute of the window.")
    def from_(self) -> UnixTime:
        return UnixTime(self.counted.low)

    @strawberry.field(description="End of the window's last minute that is over; itself not in it.")
    def to(self) -> UnixTime:
        return UnixTime(self.counted.high)

    @strawberry.field(description="Minutes in which the ticker was tracked.")
    def expected(self) -> int:
        return self.counted.expected

    @strawberry.field(description="Those of the expected that are stored: the sum of `live`, `backfilled` and `imported`.")
    def stored(self) -> int:
        return self.counted.stored

    @strawberry.field(description="Stored in their own minute.")
    def live(self) -> int:
        return self.counted.live

    @strawberry.field(description="Missed at first, and filled from Deribit's own chart.")
    def backfilled(self) -> int:
        return self.counted.backfilled

    @strawberry.field(description="Brought in from elsewhere.")
    def imported(self) -> int:
        return self.counted.imported

    @strawberry.field(description="Stored though not expected: from before the ticker was tracked, or between.")
    def extra(self) -> int:
        return self.counted.extra

    @strawberry.field(description="Expected and not stored.")
    def missing(self) -> int:
        return self.counted.missing

    @strawberry.field(description="Stored by expected, from 0 to 1; null where nothing was expected.")
    def ratio(self) -> float | None:
        return self.counted.stored / self.counted.expected if self.counted.expected else None

    @strawberry.field(description="The gaps of the window, oldest first, as periods of one reason and state.")
    async def gaps(
        self,
        info: Info,
        states: Annotated[
            list[GapState] | None,
            strawberry.argument(description="Only those; left out: all, also those that were filled since."),
        ] = UNSET,
        first: Annotated[int, strawberry.argument(description="At most so many, 1 to 1,000.")] = 100,
        after: Annotated[str | None, strawberry.argument(description="Cursor of the gap that the page begins after.")] = UNSET,
    ) -> GapConnection:
        page = arguments.page(first, after, None, None, info.context.resources.history)
        wanted = [state.name for state in arguments.given(states) or GapState]
        # A cursor is the gap's end: where it ends the next one can begin.
        low = self.counted.low if page.after is None else max(self.counted.low, page.after)
        found = await gaps.periods(info.context.db, self.ticker, low, self.counted.high, wanted, page.size + 1)
        return GapConnection(
            nodes=[Gap.of(record) for record in found[: page.size]],
            more=len(found) > page.size,
            begun=page.after is not None,
        )

    @strawberry.field(description="What of the window was not stored in its own minute, oldest first: backfilled and imported.")
    async def parts(
        self, info: Info, first: Annotated[int, strawberry.argument(description="At most so many, 1 to 1,000.")] = 1_000
    ) -> list[Part]:
        size = arguments.page(first, None, None, None).size
        found = await coverage.parts(info.context.db, self.ticker, self.counted.low, self.counted.high, size)
        return [Part(from_=UnixTime(one["low"]), to=UnixTime(one["high"]), source=Source[one["source"]]) for one in found]

    @classmethod
    async def of(cls, info: Info, ticker: str, window: Window) -> Self:
        """Counts the window."""
        counted = await coverage.count(info.context.db, ticker, window.low, window.high, info.context.now())
        return cls(ticker=ticker, counted=counted)


def _cursor(info: Info, gap: Gap) -> str:
    return arguments.cursor(gap.to, info.context.resources.history)
