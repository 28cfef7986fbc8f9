"""The types of the contract, made from records."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Self

import strawberry
from strawberry.relay import PageInfo

from db.pool import Record
from db.queries import prices, tickers
from db.queries.prices import Listed
from db.queries.shapes import Shape
from graph import metrics
from graph.engine.splicing import shape_of, spliced
from graph.schema import arguments
from graph.schema.arguments import Order, Page, Window
from graph.schema.context import Info
from graph.schema.coverage import Coverage, Gap
from graph.schema.scalars import DateTime, UnixTime
from graph.schema.source import Source

PRICE_COLUMNS = {
    "id": prices.AS_TEXT["id"],
    "ticker": prices.AS_TEXT["ticker"],
    "ts": prices.AS_TEXT["ts"],
    "time": prices.AS_TEXT["time"],
    "price": prices.AS_TEXT["price"],
    "observedAt": prices.AS_TEXT["observed_at"],
    "source": prices.AS_TEXT["source"],
}
"""What PostgreSQL can write of a Price by itself."""


@strawberry.type(description="The index price of a ticker in a minute. It never changes once it is stored.")
class Price:
    """The index price of a ticker in a minute."""

    id: strawberry.ID = strawberry.field(
        description="An integer that grows with every commit over all tickers; unique, not without jumps."
    )
    ticker: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    ts: UnixTime = strawberry.field(description="The minute the price belongs to: its first second.")
    price: Decimal = strawberry.field(description="In the quote currency (`usd` of `btc_usd`), as Deribit said it.")
    source: Source = strawberry.field(description="Where the price came from.")
    observed_us: strawberry.Private[int | None]

    @strawberry.field(description="The minute the price belongs to, as ISO 8601.")
    def time(self) -> DateTime:
        return DateTime(self.ts * 10**6)

    @strawberry.field(
        description="When Deribit said it, by its own clock, inside the minute; null where only the minute is known."
    )
    def observed_at(self) -> DateTime | None:
        return None if self.observed_us is None else DateTime(self.observed_us)

    @staticmethod
    def shape(info: Info, *, below: str = "") -> Shape | None:
        """What is selected of prices, where PostgreSQL can write it."""
        shape = shape_of(info._raw_info, "Price", PRICE_COLUMNS, below=below)  # noqa: SLF001  Strawberry's way to graphql-core
        metrics.lists.labels("objects" if shape is None else "postgresql").inc()
        return shape

    @classmethod
    def of(cls, record: Record) -> Self:
        """From a record with the columns of `price`."""
        return cls(
            id=strawberry.ID(str(record["id"])),
            ticker=record["ticker"],
            ts=UnixTime(record["ts"]),
            price=record["price"],
            source=Source[record["source"]],
            observed_us=record["observed_at"],
        )


@strawberry.type(description="An index that is collected now, or was once.")
class Ticker:
    """An index that is collected now, or was once."""

    name: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    since: UnixTime | None = strawberry.field(
        description="First minute of the present period of collecting, or of the last one; null: only imported."
    )
    tracked: bool = strawberry.field(description="Whether it is collected now.")
    latest: Price | None = strawberry.field(description="Its newest price; null where there is none yet.")
    age_s: int | None = strawberry.field(
        description="Seconds from the newest price's minute (its first second) to now; null where there is none yet."
    )
    stale: bool = strawberry.field(
        description="Whether it is tracked and its newest minute is older than it should be (180 seconds by default)."
    )

    @strawberry.field(description="Its newest gap, filled or not; null where it never had one.")
    async def last_gap(self, info: Info) -> Gap | None:
        record = await info.context.last_gaps.load(self.name)
        return None if record is None else Gap.of(record)

    @classmethod
    def of(cls, record: Record, now: float, stale_after_s: int) -> Self:
        """From a record of `db.queries.tickers`."""
        latest = None if record["ts"] is None else Price.of(record)
        return cls(
            name=record["name"],
            since=record["since"],
            tracked=record["tracked"],
            latest=latest,
            age_s=None if latest is None else max(0, int(now) - latest.ts),
            stale=tickers.is_stale(record, now, stale_after_s),
        )


@strawberry.type(description="A price and its place in the list.")
class PriceEdge:
    """A price and its place in the list."""

    cursor: str = strawberry.field(description="Its place; stays true whatever is added to the list.")
    node: Price = strawberry.field(description="The price.")


@strawberry.type(
    description="A page of prices, as the Relay cursor connections specification has it "
    "(https://relay.dev/graphql/connections.htm), with `nodes` beside `edges`."
)
class PriceConnection:
    """A page of prices."""

    nodes: list[Price] = strawberry.field(description="The prices of the page.")
    low: strawberry.Private[int | None]
    high: strawberry.Private[int | None]
    ticker: strawberry.Private[str]
    window: strawberry.Private[Window]
    order: strawberry.Private[Order]
    page: strawberry.Private[Page]
    more: strawberry.Private[bool]

    @strawberry.field(description="The prices of the page, each with its cursor.")
    def edges(self, info: Info) -> list[PriceEdge]:
        history = info.context.resources.history
        return [PriceEdge(cursor=arguments.cursor(node.ts, history), node=node) for node in self.nodes]

    @strawberry.field(description="Where the page stands in the list; both flags tell what is really stored.")
    async def page_info(self, info: Info) -> PageInfo:
        ahead, behind = self.page.before, self.page.after
        if self.page.backwards:
            ahead, behind = behind, ahead
        further = self.more or await self._any_beyond(info, ahead, after=self.page.backwards)
        before = await self._any_beyond(info, behind, after=not self.page.backwards)
        return PageInfo(
            has_next_page=before if self.page.backwards else further,
            has_previous_page=further if self.page.backwards else before,
            start_cursor=_cursor(info, self.high if self.order is Order.NEWEST_FIRST else self.low),
            end_cursor=_cursor(info, self.low if self.order is Order.NEWEST_FIRST else self.high),
        )

    @strawberry.field(description="How complete the list's whole window is.")
    async def coverage(self, info: Info) -> Coverage:
        return await Coverage.of(info, self.ticker, self.window)

    async def _any_beyond(self, info: Info, position: int | None, *, after: bool) -> bool:
        """Whether the window holds a price on the far side of a cursor that cut the page off, the cursor's own included."""
        if position is None:
            return False
        older = (self.order is Order.OLDEST_FIRST) == after
        low, high = (self.window.low, position + 1) if older else (position, self.window.high)
        return await prices.any_in(info.context.db, self.ticker, max(low, self.window.low), min(high, self.window.high))

    @classmethod
    def of(cls, records: Sequence[Record], ticker: str, window: Window, order: Order, page: Page) -> Self:
        """From records read in reading direction, one more than the page holds where there are more."""
        held = [Price.of(record) for record in records[: page.size]]
        minutes = [price.ts for price in held]
        return cls(
            nodes=held[::-1] if page.backwards else held,
            low=min(minutes, default=None),
            high=max(minutes, default=None),
            ticker=ticker,
            window=window,
            order=order,
            page=page,
            more=len(records) > page.size,
        )

    @classmethod
    def listed(cls, listed: Listed, ticker: str, window: Window, order: Order, page: Page) -> Self:
        """From what PostgreSQL wrote."""
        return cls(
            nodes=spliced(listed.text),
            low=listed.low,
            high=listed.high,
            ticker=ticker,
            window=window,
            order=order,
            page=page,
            more=listed.more,
        )


def _cursor(info: Info, ts: int | None) -> str | None:
    return None if ts is None else arguments.cursor(ts, info.context.resources.history)
