"""Candles, series and summaries of a window."""

from decimal import Decimal
from enum import Enum
from typing import Annotated, Self

import strawberry

from db.queries import candles, summaries, thinned_series
from db.queries.shapes import Shape
from db.queries.snapshots import Snapshot
from db.rows import normalize_price
from graph import metrics
from graph.engine.field_rules import FieldRules, declare
from graph.engine.json_fragments import Rows, json_fragment, require_row_selection
from graph.engine.windows import Window
from graph.schema.context import Info
from graph.schema.coverage import Coverage
from graph.schema.scalars import UnixTime
from graph.schema.types import Price

CANDLE_ROWS = Rows("Candle", candles.JSON_COLUMNS)
CANDLE_ROWS_WITH_EMPTY = Rows("Candle", candles.JSON_COLUMNS_WITH_EMPTY)


@strawberry.enum(
    description="Length of a candle. Candles align with UTC, or with the requested time zone: weeks start on Monday, months on "
    "their first day."
)
class Interval(Enum):
    """Length of a candle."""

    ONE_MINUTE = strawberry.enum_value("ONE_MINUTE", description="One minute. Open, high, low and close are its price.")
    FIVE_MINUTES = strawberry.enum_value("FIVE_MINUTES", description="Five minutes.")
    FIFTEEN_MINUTES = strawberry.enum_value("FIFTEEN_MINUTES", description="Fifteen minutes.")
    THIRTY_MINUTES = strawberry.enum_value("THIRTY_MINUTES", description="Thirty minutes.")
    ONE_HOUR = strawberry.enum_value("ONE_HOUR", description="One hour.")
    FOUR_HOURS = strawberry.enum_value("FOUR_HOURS", description="Four hours. The first candle of a day starts at midnight.")
    TWELVE_HOURS = strawberry.enum_value("TWELVE_HOURS", description="Twelve hours.")
    ONE_DAY = strawberry.enum_value("ONE_DAY", description="One day.")
    ONE_WEEK = strawberry.enum_value("ONE_WEEK", description="One week. It starts on Monday.")
    ONE_MONTH = strawberry.enum_value("ONE_MONTH", description="One month.")

    @property
    def db_interval(self) -> candles.Interval:
        """The same interval in `db.queries.candles`."""
        return candles.Interval[self.name]


@strawberry.enum(description="What the numbers of a candle are computed from.")
class Basis(Enum):
    """What the numbers of a candle are computed from."""

    RANGE = strawberry.enum_value(
        "RANGE",
        description="The price of each minute and, if it has a range, its ticks. The earliest is the open, the latest "
        "the close.",
    )
    SAMPLE = strawberry.enum_value("SAMPLE", description="The prices alone, one sample a minute, as in archives of samples.")


@strawberry.enum(description="The first day of a week.")
class WeekStart(Enum):
    """The first day of a week."""

    MONDAY = strawberry.enum_value("MONDAY", description="Monday, as in ISO 8601.")
    SUNDAY = strawberry.enum_value("SUNDAY", description="Sunday.")


@strawberry.type(description="Aggregates of the stored minutes of an interval. The prices are null if no minute is stored.")
class Candle:
    """Aggregates of the stored minutes of an interval."""

    ts: UnixTime = strawberry.field(description="Start of the interval.")
    end: UnixTime = strawberry.field(description="End of the interval (exclusive).")
    open: Decimal | None = strawberry.field(description="The first price: a tick, or the price of a minute without ticks.")
    high: Decimal | None = strawberry.field(description="The highest tick or price.")
    low: Decimal | None = strawberry.field(description="The lowest tick or price.")
    close: Decimal | None = strawberry.field(description="The last tick or price.")
    count: int = strawberry.field(description="Number of stored minutes.")
    expected: int = strawberry.field(description="Number of minutes in the interval.")
    closed: bool = strawberry.field(description="Whether the interval is over.")
    complete: bool = strawberry.field(description="Whether the interval is over and every minute of it is stored.")
    watched: int = strawberry.field(
        description="Number of stored minutes that were watched completely; 0 with `basis: SAMPLE`."
    )
    sampled: int = strawberry.field(description="Number of stored minutes that are known by their price alone.")
    twap: Decimal | None = strawberry.field(
        description="Mean price of the stored minutes, to 12 decimal places. A minute counts with the time-weighted mean of "
        "its ticks, or with its price."
    )

    @staticmethod
    def shape(info: Info, *, with_empty: bool) -> Shape:
        """Returns the selected columns of candles. PostgreSQL can write all of them as JSON."""
        metrics.lists_by_postgresql.inc()
        return require_row_selection(info._raw_info, CANDLE_ROWS_WITH_EMPTY if with_empty else CANDLE_ROWS)  # noqa: SLF001  graphql-core's info


@strawberry.type(description="Prices of a window as columns, oldest first. The smallest response, for charts and data frames.")
class Series:
    """Prices of a window as columns."""

    ts: list[UnixTime] = strawberry.field(description="The minutes.")
    price: list[Decimal] = strawberry.field(description="The price of each minute.")
    is_empty: strawberry.Private[bool]

    @classmethod
    async def read(
        cls, info: Info, ticker: str, window: Window, max_points: int | None, snapshot: Snapshot | None = None
    ) -> Self:
        """Reads the series of the window, thinned to `max_points`."""
        source = info.context.db, ticker, window.low, window.high
        if max_points is None:
            minutes, prices = await summaries.series(*source, snapshot)
        else:
            minutes, prices = await thinned_series.read(*source, max_points, snapshot)
        return cls(ts=json_fragment(minutes), price=json_fragment(prices), is_empty=minutes == "[]")


@strawberry.type(description="Aggregates of the stored minutes of a window.")
class Summary:
    """Aggregates of the stored minutes of a window."""

    first: Price = strawberry.field(description="The first price.")
    last: Price = strawberry.field(description="The last price.")
    high: Price = strawberry.field(description="The highest price; if several are equal, the earliest.")
    low: Price = strawberry.field(description="The lowest price; if several are equal, the earliest.")
    highest: Decimal = strawberry.field(
        description="The highest price or tick, as in candles.", metadata=declare(FieldRules(is_replaceable=True))
    )
    lowest: Decimal = strawberry.field(
        description="The lowest price or tick, as in candles.", metadata=declare(FieldRules(is_replaceable=True))
    )
    change: Decimal = strawberry.field(description="The last price minus the first.")
    count: int = strawberry.field(description="Number of stored minutes.")
    twap: Decimal = strawberry.field(description="Mean price of the stored minutes, to 12 decimal places.")
    ticker: strawberry.Private[str]
    window: strawberry.Private[Window]
    snapshot: strawberry.Private[Snapshot | None]

    @strawberry.field(description="Completeness of the window.")
    async def coverage(self, info: Info) -> Coverage:
        return await Coverage.read(info, self.ticker, self.window, self.snapshot)

    @classmethod
    async def read(cls, info: Info, ticker: str, window: Window, snapshot: Snapshot | None = None) -> Self | None:
        """Reads the aggregates of the window; returns None if none of its minutes is stored."""
        found = await summaries.summary(info.context.db, ticker, window.low, window.high, snapshot)
        if found is None:
            return None
        return cls(
            first=Price.from_record(found.first, snapshot),
            last=Price.from_record(found.last, snapshot),
            high=Price.from_record(found.high, snapshot),
            low=Price.from_record(found.low, snapshot),
            highest=normalize_price(found.highest),
            lowest=normalize_price(found.lowest),
            change=normalize_price(found.last["price"] - found.first["price"]),
            count=found.count,
            twap=found.twap,
            ticker=ticker,
            window=window,
            snapshot=snapshot,
        )


TimeZone = Annotated[
    str,
    strawberry.argument(
        description="IANA name of the time zone in which days, weeks, months and parts of a day begin, like `Europe/Berlin`.",
        name="timeZone",
    ),
]
FirstWeekday = Annotated[WeekStart, strawberry.argument(description="The first day of a week.", name="weekStart")]
DayStart = Annotated[
    str,
    strawberry.argument(
        description="The local time at which a day begins, like `08:00`, the start of the exchange's own day in UTC. Weeks and "
        "months begin at it, too, and parts of a day are counted from it.",
        name="dayStart",
    ),
]
OfBasis = Annotated[Basis, strawberry.argument(description="What the numbers are computed from.", name="basis")]
WithOpen = Annotated[bool, strawberry.argument(description="Include the current, unfinished candle.", name="includeOpen")]
WithEmpty = Annotated[
    bool, strawberry.argument(description="Include candles without any price, with nulls.", name="includeEmpty")
]
