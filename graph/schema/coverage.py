"""Completeness of a window: counts of minutes, and gaps with their reasons."""

from enum import Enum
from typing import Annotated, Self

import strawberry
from strawberry import UNSET
from strawberry.relay import PageInfo

from db import times
from db.pool import Record
from db.queries import coverage, gaps
from db.queries.coverage import CoverageCounts
from db.queries.snapshots import Snapshot
from graph.engine import limits
from graph.engine.field_rules import FieldRules, declare
from graph.engine.windows import Window
from graph.errors import BadInputError
from graph.schema import arguments
from graph.schema.context import Info
from graph.schema.scalars import UnixTime
from graph.schema.source import Source


@strawberry.enum(description="Why a minute had no price when it ended.")
class GapReason(Enum):
    """Why a minute had no price when it ended."""

    TIMEOUT = strawberry.enum_value("TIMEOUT", description="Deribit did not respond in time.")
    REFUSED = strawberry.enum_value("REFUSED", description="Deribit rejected the request or could not be reached.")
    HTTP_5XX = strawberry.enum_value("HTTP_5XX", description="Deribit, or a proxy in front of it, returned a server error.")
    RATE_LIMITED = strawberry.enum_value("RATE_LIMITED", description="Deribit's rate limit was exceeded.")
    MALFORMED = strawberry.enum_value("MALFORMED", description="Deribit's response was malformed.")
    TESTNET = strawberry.enum_value("TESTNET", description="The response was from Deribit's testnet, which has no real prices.")
    MAINTENANCE = strawberry.enum_value("MAINTENANCE", description="Deribit was under maintenance.")
    CLOCK = strawberry.enum_value("CLOCK", description="The minute of the response could not be determined.")
    STORAGE = strawberry.enum_value("STORAGE", description="The price was received but could not be stored.")
    NOT_COLLECTED = strawberry.enum_value("NOT_COLLECTED", description="No worker ran, or no message for the minute arrived.")
    NOT_IMPORTED = strawberry.enum_value(
        "NOT_IMPORTED", description="The ticker was not tracked, and the import that covers the minute has no price of it."
    )


@strawberry.enum(description="State of a gap.")
class GapState(Enum):
    """State of a gap."""

    OPEN = strawberry.enum_value("OPEN", description="Missing; a backfill from Deribit's chart is pending.")
    FILLED = strawberry.enum_value("FILLED", description="The prices were stored later; see `Price.source`.")
    GIVEN_UP = strawberry.enum_value(
        "GIVEN_UP", description="Missing, and no backfill will follow; an import can still fill it."
    )


@strawberry.type(description="Consecutive minutes without a price when they ended, with the same reason and state.")
class Gap:
    """Consecutive minutes without a price."""

    from_: UnixTime = strawberry.field(name="from", description="Its first minute.")
    to: UnixTime = strawberry.field(description="The end of its last minute (exclusive).")
    reason: GapReason = strawberry.field(description="Why there was no price.")
    state: GapState = strawberry.field(description="The state of the gap.")

    @strawberry.field(description="Number of minutes.")
    def minutes(self) -> int:
        return (self.to - self.from_) // times.MINUTE

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Builds a gap from a record of `db.queries.gaps`."""
        return cls(
            from_=UnixTime(record["low"]),
            to=UnixTime(record["high"]),
            reason=GapReason[record["reason"].upper()],
            state=GapState[record["state"]],
        )


@strawberry.type(description="A gap and its cursor.")
class GapEdge:
    """A gap and its cursor."""

    cursor: str = strawberry.field(description="Cursor of the gap.")
    node: Gap = strawberry.field(description="The gap.")


@strawberry.type(description="A page of gaps, oldest first.")
class GapConnection:
    """A page of gaps."""

    nodes: list[Gap] = strawberry.field(
        description="The gaps of the page.", metadata=declare(FieldRules(cost=limits.cost_of_page))
    )
    has_more: strawberry.Private[bool]
    has_previous: strawberry.Private[bool]
    snapshot: strawberry.Private[Snapshot | None]

    @strawberry.field(
        description="The gaps of the page, each with its cursor.", metadata=declare(FieldRules(cost=limits.cost_of_page))
    )
    def edges(self, info: Info) -> list[GapEdge]:
        return [GapEdge(cursor=self._cursor(info, node), node=node) for node in self.nodes]

    @strawberry.field(description="Position of the page in the list.")
    def page_info(self, info: Info) -> PageInfo:
        return PageInfo(
            has_next_page=self.has_more,
            has_previous_page=self.has_previous,
            start_cursor=self._cursor(info, self.nodes[0]) if self.nodes else None,
            end_cursor=self._cursor(info, self.nodes[-1]) if self.nodes else None,
        )

    def _cursor(self, info: Info, gap: Gap) -> str:
        return arguments.encode_cursor(gap.to, None if self.snapshot else info.context.resources.history)


@strawberry.type(description="Consecutive minutes whose prices have the same source, which is not `LIVE`.")
class Part:
    """Consecutive minutes from one source."""

    from_: UnixTime = strawberry.field(name="from", description="Its first minute.")
    to: UnixTime = strawberry.field(description="The end of its last minute (exclusive).")
    source: Source = strawberry.field(description="Source of the prices; never `LIVE`.")


@strawberry.type(description="The expected minutes of a UTC day within a window.")
class CoverageDay:
    """The expected minutes of a UTC day."""

    day: UnixTime = strawberry.field(description="The first second of the day.")
    expected: int = strawberry.field(description="Minutes in which the ticker was tracked, or that an import covers.")
    stored: int = strawberry.field(description="Expected minutes that are stored.")


@strawberry.type(
    description="Completeness of a window, up to the last minute that is over. The expected minutes are those in which the "
    "ticker was tracked, and those that an import covers. Each of them is either stored or part of a gap with a reason."
)
class Coverage:
    """Completeness of a window."""

    ticker: strawberry.Private[str]
    counts: strawberry.Private[CoverageCounts]
    snapshot: strawberry.Private[Snapshot | None]

    @strawberry.field(name="from", description="First minute of the window.")
    def from_(self) -> UnixTime:
        return UnixTime(self.counts.low)

    @strawberry.field(description="End of the window's last minute that is over (exclusive).")
    def to(self) -> UnixTime:
        return UnixTime(self.counts.high)

    @strawberry.field(description="Minutes in which the ticker was tracked, or that an import covers.")
    def expected(self) -> int:
        return self.counts.expected

    @strawberry.field(
        description="Expected minutes that are stored: the sum of `live`, `backfilled`, `imported` and `fromPeers`."
    )
    def stored(self) -> int:
        return self.counts.stored

    @strawberry.field(description="Expected minutes that were fetched in their own minute.")
    def live(self) -> int:
        return self.counts.live

    @strawberry.field(description="Expected minutes that were missed at first and backfilled from Deribit's chart.")
    def backfilled(self) -> int:
        return self.counts.backfilled

    @strawberry.field(description="Expected minutes that were imported.")
    def imported(self) -> int:
        return self.counts.imported

    @strawberry.field(description="Expected minutes that were missed at first and filled with live prices of a peer.")
    def from_peers(self) -> int:
        return self.counts.from_peers

    @strawberry.field(description="Stored minutes that were not expected, such as those collected manually.")
    def extra(self) -> int:
        return self.counts.extra

    @strawberry.field(
        description="Expected minutes that were watched completely: ticks cover them, with no silence of over five seconds.",
        metadata=declare(FieldRules(cost=limits.cost_of_coverage)),
    )
    async def watched(self, info: Info) -> int:
        return await coverage.count_watched(info.context.db, self.ticker, self.counts.low, self.counts.high, self.snapshot)

    @strawberry.field(description="Expected minutes that are not stored.")
    def missing(self) -> int:
        return self.counts.missing

    @strawberry.field(description="`stored` divided by `expected`, from 0 to 1; null if no minute was expected.")
    def ratio(self) -> float | None:
        return self.counts.stored / self.counts.expected if self.counts.expected else None

    @strawberry.field(
        description="The UTC days of the window with expected minutes, oldest first.",
        metadata=declare(FieldRules(cost=limits.cost_of_coverage_days)),
    )
    async def days(self, info: Info) -> list[CoverageDay]:
        found = await coverage.days(info.context.db, self.ticker, self.counts.low, self.counts.high, self.snapshot)
        return [CoverageDay(day=UnixTime(one["day"]), expected=one["expected"], stored=one["stored"]) for one in found]

    @strawberry.field(description="The gaps of the window, oldest first. Each has one reason and one state.")
    async def gaps(
        self,
        info: Info,
        states: Annotated[
            list[GapState] | None,
            strawberry.argument(description="Only gaps in these states. Default: all, including filled gaps."),
        ] = UNSET,
        first: Annotated[int, strawberry.argument(description="Page size, 1 to 1,000.")] = 100,
        after: Annotated[str | None, strawberry.argument(description="The page starts after this cursor.")] = UNSET,
    ) -> GapConnection:
        page = arguments.parse_page(first, after, None, None, info.context.resources.history)
        state_names = [state.name for state in arguments.unset_to_none(states) or GapState]
        # A cursor contains the end of a gap, where the next gap may start.
        low = self.counts.low if page.after is None else max(self.counts.low, page.after)
        found = await gaps.periods(
            info.context.db, self.ticker, low, self.counts.high, state_names, page.size + 1, snapshot=self.snapshot
        )
        return GapConnection(
            nodes=[Gap.from_record(record) for record in found[: page.size]],
            has_more=len(found) > page.size,
            has_previous=page.after is not None,
            snapshot=self.snapshot,
        )

    @strawberry.field(
        description="Minutes of the window that were not fetched live (backfilled, imported, from peers), oldest first."
    )
    async def parts(
        self,
        info: Info,
        first: Annotated[int, strawberry.argument(description="Maximum number of parts, 1 to 1,000.")] = 1_000,
        merge_within: Annotated[
            int,
            strawberry.argument(
                description="Parts of a source with at most this many other minutes between them count as one: for a drawing, "
                "the minutes of a pixel.",
                name="mergeWithin",
            ),
        ] = 0,
    ) -> list[Part]:
        size = arguments.parse_page(first, None, None, None).size
        if merge_within < 0:
            raise BadInputError(f"mergeWithin ({merge_within}) must be 0 or more minutes")
        found = await coverage.non_live_periods(
            info.context.db, self.ticker, self.counts.low, self.counts.high, size, merge_within, self.snapshot
        )
        return [Part(from_=UnixTime(one["low"]), to=UnixTime(one["high"]), source=Source[one["source"]]) for one in found]

    @classmethod
    async def read(cls, info: Info, ticker: str, window: Window, snapshot: Snapshot | None = None) -> Self:
        """Counts the minutes of the window."""
        now = info.context.now() if snapshot is None else snapshot.at
        counts = await coverage.count(info.context.db, ticker, window.low, window.high, now, snapshot)
        return cls(ticker=ticker, counts=counts, snapshot=snapshot)
