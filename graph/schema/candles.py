"""Candles, and what else is told of a window at once."""

from decimal import Decimal
from enum import Enum
from typing import Annotated, Self

import strawberry

from db.queries import candles, summaries
from db.queries.shapes import Shape
from db.tables import normal
from graph import metrics
from graph.engine.splicing import spliced, whole_shape_of
from graph.schema.arguments import Window
from graph.schema.context import Info
from graph.schema.coverage import Coverage
from graph.schema.scalars import UnixTime
from graph.schema.types import Price


@strawberry.enum(description="How long a candle is. All begin in UTC: weeks on Monday, months on their first day.")
class Interval(Enum):
    """How long a candle is."""

    ONE_MINUTE = strawberry.enum_value("ONE_MINUTE", description="A minute: open, high, low and close are its price.")
    FIVE_MINUTES = strawberry.enum_value("FIVE_MINUTES", description="Five minutes.")
    FIFTEEN_MINUTES = strawberry.enum_value("FIFTEEN_MINUTES", description="A quarter of an hour.")
    THIRTY_MINUTES = strawberry.enum_value("THIRTY_MINUTES", description="Half an hour.")
    ONE_HOUR = strawberry.enum_value("ONE_HOUR", description="An hour.")
    FOUR_HOURS = strawberry.enum_value("FOUR_HOURS", description="Four hours, the first of a day from midnight on.")
    TWELVE_HOURS = strawberry.enum_value("TWELVE_HOURS", description="Half a day.")
    ONE_DAY = strawberry.enum_value("ONE_DAY", description="A day.")
    ONE_WEEK = strawberry.enum_value("ONE_WEEK", description="A week, from Monday on.")
    ONE_MONTH = strawberry.enum_value("ONE_MONTH", description="A month.")

    @property
    def kept(self) -> candles.Interval:
        """The same below the schema."""
        return candles.Interval[self.name]


@strawberry.type(description="What the stored minutes of an interval come to. The prices are null where none is stored.")
class Candle:
    """What the stored minutes of an interval come to."""

    ts: UnixTime = strawberry.field(description="When it begins.")
    end: UnixTime = strawberry.field(description="When it ends; itself not in it.")
    open: Decimal | None = strawberry.field(description="The first price.")
    high: Decimal | None = strawberry.field(description="The highest price.")
    low: Decimal | None = strawberry.field(description="The lowest price.")
    close: Decimal | None = strawberry.field(description="The last price.")
    count: int = strawberry.field(description="Minutes stored.")
    expected: int = strawberry.field(description="Minutes that it has.")
    closed: bool = strawberry.field(description="Whether it is over.")
    complete: bool = strawberry.field(description="Whether it is over and every minute of it is stored.")
    twap: Decimal | None = strawberry.field(description="The mean of the stored minutes, to twelve places.")

    @staticmethod
    def shape(info: Info, *, with_empty: bool) -> Shape:
        """What is selected of candles. PostgreSQL can write all of it."""
        columns = candles.AS_TEXT_WITH_EMPTY if with_empty else candles.AS_TEXT
        metrics.lists.labels("postgresql").inc()
        return whole_shape_of(info._raw_info, "Candle", columns)  # noqa: SLF001  Strawberry's way to graphql-core


@strawberry.type(description="The prices of a window as columns, oldest first: the smallest answer, for plots and data frames.")
class Series:
    """The prices of a window as columns."""

    ts: list[UnixTime] = strawberry.field(description="The minutes.")
    price: list[Decimal] = strawberry.field(description="The price of each.")
    is_empty: strawberry.Private[bool]

    @classmethod
    async def of(cls, info: Info, ticker: str, window: Window) -> Self:
        """Reads the window."""
        minutes, prices = await summaries.series(info.context.db, ticker, window.low, window.high)
        return cls(ts=spliced(minutes), price=spliced(prices), is_empty=minutes == "[]")


@strawberry.type(description="What the stored minutes of a window come to.")
class Summary:
    """What the stored minutes of a window come to."""

    first: Price = strawberry.field(description="The first price.")
    last: Price = strawberry.field(description="The last price.")
    high: Price = strawberry.field(description="The highest price; of several the earliest.")
    low: Price = strawberry.field(description="The lowest price; of several the earliest.")
    change: Decimal = strawberry.field(description="The last price less the first.")
    count: int = strawberry.field(description="Minutes stored.")
    twap: Decimal = strawberry.field(description="The mean of the stored minutes, to twelve places.")
    ticker: strawberry.Private[str]
    window: strawberry.Private[Window]

    @strawberry.field(description="How complete the window is.")
    async def coverage(self, info: Info) -> Coverage:
        return await Coverage.of(info, self.ticker, self.window)

    @classmethod
    async def of(cls, info: Info, ticker: str, window: Window) -> Self | None:
        """Reads the window; None where nothing of it is stored."""
        found = await summaries.summary(info.context.db, ticker, window.low, window.high)
        if found is None:
            return None
        return cls(
            first=Price.of(found.first),
            last=Price.of(found.last),
            high=Price.of(found.high),
            low=Price.of(found.low),
            change=normal(found.last["price"] - found.first["price"]),
            count=found.count,
            twap=found.twap,
            ticker=ticker,
            window=window,
        )


WithOpen = Annotated[
    bool, strawberry.argument(description="Whether the candle that is not over yet is shown.", name="includeOpen")
]
WithEmpty = Annotated[
    bool, strawberry.argument(description="Whether candles without any price are shown, with nulls.", name="includeEmpty")
]
