"""The types Price, Ticker and PriceConnection, built from database records."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Self

import strawberry
from strawberry.relay import PageInfo

from db.pool import Record
from db.queries import delivery_prices, prices, tickers
from db.queries.prices import PricePage
from db.queries.shapes import Column, Shape
from db.queries.snapshots import Snapshot
from graph import metrics
from graph.engine import limits
from graph.engine.field_rules import FieldRules, always, declare
from graph.engine.json_fragments import Rows, json_fragment, row_selection
from graph.engine.windows import Window
from graph.schema import arguments
from graph.schema.arguments import Order, Page
from graph.schema.context import Info
from graph.schema.coverage import Coverage, Gap
from graph.schema.ranges import NESTED_RANGE, MinuteRange
from graph.schema.scalars import DateTime, UnixTime
from graph.schema.source import Source

PRICE_COLUMNS = {
    "id": prices.JSON_COLUMNS["id"],
    "ticker": prices.JSON_COLUMNS["ticker"],
    "ts": prices.JSON_COLUMNS["ts"],
    "time": prices.JSON_COLUMNS["time"],
    "price": prices.JSON_COLUMNS["price"],
    "observedAt": prices.JSON_COLUMNS["observed_at"],
    "source": prices.JSON_COLUMNS["source"],
    "originalSource": prices.JSON_COLUMNS["original_source"],
    "peer": prices.JSON_COLUMNS["peer"],
    "estimatedDeliveryPrice": Column(delivery_prices.estimate_of_price_sql),
}
"""The fields of Price that PostgreSQL can write as JSON."""
PRICE_ROWS = Rows("Price", PRICE_COLUMNS, {"range": NESTED_RANGE})
PRICE_PAGE_ROWS = Rows("Price", PRICE_COLUMNS, {"range": NESTED_RANGE}, child_field="nodes")


@strawberry.type(
    description="The index price of a ticker in a minute. The price never changes once it is stored; its `range` can."
)
class Price:
    """The index price of a ticker in a minute."""

    id: strawberry.ID = strawberry.field(
        description="A unique integer that increases with every commit over all tickers. Ids are not consecutive."
    )
    ticker: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    ts: UnixTime = strawberry.field(description="The minute of the price: its first second.")
    price: Decimal = strawberry.field(description="In the quote currency (`usd` of `btc_usd`), with Deribit's digits.")
    source: Source = strawberry.field(description="Source of the price.")
    original_source: Source | None = strawberry.field(
        description="Source of an imported price in the Tickgraph that exported it; null for all other prices."
    )
    peer: str | None = strawberry.field(description="URL of the peer that had the price; null unless `source` is `PEER`.")
    observed_us: strawberry.Private[int | None]
    snapshot: strawberry.Private[Snapshot | None] = None

    @strawberry.field(description="The minute of the price, as ISO 8601.")
    def time(self) -> DateTime:
        return DateTime(self.ts * 10**6)

    @strawberry.field(description="Deribit's own timestamp of the price, inside the minute; null if only the minute is known.")
    def observed_at(self) -> DateTime | None:
        return None if self.observed_us is None else DateTime(self.observed_us)

    @strawberry.field(
        description="What the index did within the minute; null if no tick of it was received and none was imported, and until "
        "it is stored, seconds after the minute. Subscriptions deliver it with `changes(includeRanges: true)`.",
        metadata=declare(FieldRules(is_replaceable=True)),
    )
    async def range(self, info: Info) -> MinuteRange | None:
        record = await info.context.ranges.load((self.snapshot, (self.ticker, self.ts)))
        return None if record is None else MinuteRange.from_record(record)

    @strawberry.field(
        description="Deribit's estimate of its next delivery price, sent with this price; null while both are equal, and for "
        "prices that were not collected live. They differ in the 30 minutes before 08:00 UTC.",
    )
    async def estimated_delivery_price(self, info: Info) -> Decimal | None:
        return await info.context.estimates.load((self.ticker, self.ts))

    @staticmethod
    def shape(info: Info, rows: Rows = PRICE_ROWS) -> Shape | None:
        """Returns the selected columns of prices if PostgreSQL can write all of them as JSON; otherwise None."""
        shape = row_selection(info._raw_info, rows)  # noqa: SLF001  graphql-core's info
        (metrics.lists_by_python if shape is None else metrics.lists_by_postgresql).inc()
        return shape

    @classmethod
    def from_record(cls, record: Record, snapshot: Snapshot | None = None) -> Self:
        """Builds a price from a record with the columns of `price`."""
        return cls(
            id=strawberry.ID(str(record["id"])),
            ticker=record["ticker"],
            ts=UnixTime(record["ts"]),
            price=record["price"],
            source=Source[record["source"]],
            original_source=None if record["original_source"] is None else Source[record["original_source"]],
            peer=record["peer"],
            observed_us=record["observed_at"],
            snapshot=snapshot,
        )


@strawberry.type(description="An index that is or was tracked, or has stored prices.")
class Ticker:
    """An index that is or was tracked, or has stored prices."""

    name: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    since: UnixTime | None = strawberry.field(
        description="First minute of the current or the last tracking period; null if the ticker was never tracked."
    )
    tracked: bool = strawberry.field(description="Whether it is tracked now.")
    latest: Price | None = strawberry.field(description="Its newest price; null if it has none yet.")
    age_s: int | None = strawberry.field(
        description="Seconds since the start of its newest minute; null if it has no price yet.",
        metadata=declare(FieldRules(changes_with_clock=always)),
    )
    stale: bool = strawberry.field(
        description="Whether it is tracked and its newest minute is older than `STALE_AFTER_S` (180 seconds by default). "
        "Without a price, `since` counts instead.",
        metadata=declare(FieldRules(changes_with_clock=always)),
    )

    @strawberry.field(description="Its newest gap while it was tracked, filled or not; null if it never had one.")
    async def last_gap(self, info: Info) -> Gap | None:
        record = await info.context.last_gaps.load(self.name)
        return None if record is None else Gap.from_record(record)

    @classmethod
    def from_record(cls, record: Record, now: float, stale_after_s: int) -> Self:
        """Builds a ticker from a record of `db.queries.tickers`."""
        latest = None if record["ts"] is None else Price.from_record(record)
        return cls(
            name=record["name"],
            since=record["since"],
            tracked=record["tracked"],
            latest=latest,
            age_s=None if latest is None else max(0, int(now) - latest.ts),
            stale=tickers.is_stale(record, now, stale_after_s),
        )


@strawberry.type(description="A price and its cursor.")
class PriceEdge:
    """A price and its cursor."""

    cursor: str = strawberry.field(description="Cursor of the price. It stays valid when prices are added to the list.")
    node: Price = strawberry.field(description="The price.")


@strawberry.type(
    description="A page of prices according to the Relay cursor connections specification "
    "(https://relay.dev/graphql/connections.htm), with `nodes` in addition to `edges`."
)
class PriceConnection:
    """A page of prices."""

    nodes: list[Price] = strawberry.field(
        description="The prices of the page.", metadata=declare(FieldRules(cost=limits.cost_of_page))
    )
    low: strawberry.Private[int | None]
    high: strawberry.Private[int | None]
    ticker: strawberry.Private[str]
    window: strawberry.Private[Window]
    order: strawberry.Private[Order]
    page: strawberry.Private[Page]
    has_more: strawberry.Private[bool]
    snapshot: strawberry.Private[Snapshot | None]

    @strawberry.field(
        description="The prices of the page, each with its cursor.", metadata=declare(FieldRules(cost=limits.cost_of_page))
    )
    def edges(self, info: Info) -> list[PriceEdge]:
        return [PriceEdge(cursor=self._cursor(info, node.ts), node=node) for node in self.nodes]

    @strawberry.field(description="Position of the page in the list. Both flags are exact in both directions.")
    async def page_info(self, info: Info) -> PageInfo:
        # The cursors where reading the page ends and starts. A backwards page is read from the end of the list.
        reading_end, reading_start = self.page.before, self.page.after
        if self.page.backwards:
            reading_end, reading_start = reading_start, reading_end
        has_more_at_end = self.has_more or await self._has_prices_beyond(info, reading_end, is_after=self.page.backwards)
        has_more_at_start = await self._has_prices_beyond(info, reading_start, is_after=not self.page.backwards)
        return PageInfo(
            has_next_page=has_more_at_start if self.page.backwards else has_more_at_end,
            has_previous_page=has_more_at_end if self.page.backwards else has_more_at_start,
            start_cursor=self._page_cursor(info, self.high if self.order is Order.NEWEST_FIRST else self.low),
            end_cursor=self._page_cursor(info, self.low if self.order is Order.NEWEST_FIRST else self.high),
        )

    @strawberry.field(
        description="Completeness of the whole window of the list.",
        metadata=declare(FieldRules(cost=limits.cost_of_coverage, changes_with_clock=always)),
    )
    async def coverage(self, info: Info) -> Coverage:
        return await Coverage.read(info, self.ticker, self.window, self.snapshot)

    def _cursor(self, info: Info, ts: int) -> str:
        # Cursors of a snapshot outlive a failover, because ids up to the snapshot do.
        return arguments.encode_cursor(ts, None if self.snapshot else info.context.resources.history)

    def _page_cursor(self, info: Info, ts: int | None) -> str | None:
        return None if ts is None else self._cursor(info, ts)

    async def _has_prices_beyond(self, info: Info, position: int | None, *, is_after: bool) -> bool:
        """Whether the window has a price outside the page: at or beyond its cursor `after` (if `is_after`) or `before`."""
        if position is None:
            return False
        older = (self.order is Order.OLDEST_FIRST) == is_after
        low, high = (self.window.low, position + 1) if older else (position, self.window.high)
        low, high = max(low, self.window.low), min(high, self.window.high)
        return await prices.has_any(info.context.db, self.ticker, low, high, self.snapshot)

    @classmethod
    def from_records(
        cls,
        records: Sequence[Record],
        ticker: str,
        window: Window,
        order: Order,
        page: Page,
        snapshot: Snapshot | None = None,
    ) -> Self:
        """Builds the page from records in reading order. One record more than the page size means that more prices follow."""
        page_prices = [Price.from_record(record, snapshot) for record in records[: page.size]]
        minutes = [price.ts for price in page_prices]
        return cls(
            nodes=page_prices[::-1] if page.backwards else page_prices,
            low=min(minutes, default=None),
            high=max(minutes, default=None),
            ticker=ticker,
            window=window,
            order=order,
            page=page,
            has_more=len(records) > page.size,
            snapshot=snapshot,
        )

    @classmethod
    def from_json_page(
        cls,
        price_page: PricePage,
        ticker: str,
        window: Window,
        order: Order,
        page: Page,
        snapshot: Snapshot | None = None,
    ) -> Self:
        """Builds the page from JSON that PostgreSQL wrote."""
        return cls(
            nodes=json_fragment(price_page.text),
            low=price_page.low,
            high=price_page.high,
            ticker=ticker,
            window=window,
            order=order,
            page=page,
            has_more=price_page.has_more,
            snapshot=snapshot,
        )
