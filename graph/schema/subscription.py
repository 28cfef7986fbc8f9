"""Subscriptions. Their events are already JSON: see `graph.engine.live_events`."""

from collections.abc import AsyncGenerator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, cast

import strawberry
from strawberry import UNSET

from db.queries import candles, events
from graph.engine.json_fragments import NestedRows, Rows, require_row_selection
from graph.engine.live_candles import CandleSelection
from graph.engine.live_events import EventSelection
from graph.engine.live_ticks import TICK_COLUMNS, TickSelection
from graph.engine.tickers import require_known_tickers
from graph.schema import arguments
from graph.schema.candles import Basis, Candle, Interval, OfBasis
from graph.schema.context import Info
from graph.schema.ranges import MinuteRange
from graph.schema.scalars import DateTime, UnixTime
from graph.schema.types import Price

_TICKER: Final = "Deribit index name, like `btc_usd`."


@strawberry.type
class ChangeEvent:
    """A change in the history of a ticker."""

    id: strawberry.ID = strawberry.field(
        description="An integer that increases with every commit, in one sequence with price ids. Resume with it as `after`."
    )
    ticker: str = strawberry.field(description=_TICKER)
    from_: UnixTime = strawberry.field(name="from", description="The first affected minute.")


@strawberry.type
class MinutesChangeEvent(ChangeEvent):
    to: UnixTime = strawberry.field(description="The end of the last affected minute (exclusive).")
    count: int = strawberry.field(description="Number of affected minutes between `from` and `to`.")


@strawberry.type(
    description="An import or a backfill stored more than 1,000 prices, or ranges, of a ticker at once. Read them again."
)
class HistoryChanged(MinutesChangeEvent):
    """Many prices were stored at once."""


@strawberry.type(description="Minutes are missing, or their reason became known. Read the reason from `coverage`.")
class GapOpened(MinutesChangeEvent):
    """Minutes are missing."""


@strawberry.type(description="Missing minutes were filled, or are unrecoverable because charts no longer have them.")
class GapClosed(MinutesChangeEvent):
    """Missing minutes were filled, or are unrecoverable."""

    filled: bool = strawberry.field(description="Whether their prices are stored now.")


@strawberry.type(
    description="A tracking period started or ended, an import period grew, or old history was deleted. "
    "Read `ticker` and `coverage` again."
)
class TickerChanged(ChangeEvent):
    """A tracking period started or ended, an import period grew, or old history was deleted."""


@strawberry.type(description="A price that Deribit published a moment before. Ticks are not stored one by one.")
class Tick:
    """A price that Deribit published a moment before."""

    ticker: str = strawberry.field(description=_TICKER)
    at: DateTime = strawberry.field(description="Deribit's own timestamp.")
    price: Decimal = strawberry.field(description="In the quote currency, with Deribit's digits.")


Change = Annotated[
    Price | MinuteRange | HistoryChanged | GapOpened | GapClosed | TickerChanged,
    strawberry.union("Change", description="A change of the data that clients can read."),
]

_TICK_ROWS: Final = Rows("Tick", TICK_COLUMNS)
_RANGE_ROWS: Final = Rows(
    "MinuteRange",
    events.RANGE_COLUMNS
    | {"watchedS": events.RANGE_COLUMNS["watched_s"], "longestSilenceS": events.RANGE_COLUMNS["longest_silence_s"]},
)
_KINDS: Final[Mapping[str, Rows]] = {
    "price": Rows(
        "Price",
        events.PRICE_COLUMNS
        | {
            "observedAt": events.PRICE_COLUMNS["observed_at"],
            "originalSource": events.PRICE_COLUMNS["original_source"],
            "estimatedDeliveryPrice": events.PRICE_COLUMNS["estimated_delivery_price"],
        },
        {"range": NestedRows(_RANGE_ROWS, events.RANGE_COLUMNS["id"].sql)},
    ),
    "range": _RANGE_ROWS,
    "history": Rows("HistoryChanged", events.CHANGE_COLUMNS),
    "gap_opened": Rows("GapOpened", events.CHANGE_COLUMNS),
    "gap_closed": Rows("GapClosed", events.CHANGE_COLUMNS),
    "gap_given_up": Rows("GapClosed", events.CHANGE_COLUMNS),
    "tracking": Rows("TickerChanged", events.CHANGE_COLUMNS),
    "horizon": Rows("TickerChanged", events.CHANGE_COLUMNS),
}
"""The rows of each kind of event."""

Tickers = Annotated[
    list[str] | None, strawberry.argument(description="Deribit index names. Default: all tickers, including future ones.")
]
ResumeAfter = Annotated[
    strawberry.ID | None,
    strawberry.argument(description="The last received id. Events after it are delivered first. Default: only new events."),
]


@strawberry.type(description="Subscriptions, over WebSocket (graphql-transport-ws) or as server-sent events.")
class Subscription:
    """Subscriptions."""

    @strawberry.subscription(
        description="Each stored price, exactly once, in the order of commits. Large imports and backfills are not delivered: "
        "see `changes`."
    )
    async def price_added(
        self, info: Info, tickers: Tickers = UNSET, after: ResumeAfter = UNSET
    ) -> AsyncGenerator[Price, None]:
        return await _subscribe(info, tickers, after, ("price",))

    @strawberry.subscription(
        description="All changes of the data that clients can read, in the order of commits, for clients that maintain a copy."
    )
    async def changes(
        self,
        info: Info,
        tickers: Tickers = UNSET,
        after: ResumeAfter = UNSET,
        include_ranges: Annotated[
            bool,
            strawberry.argument(
                name="includeRanges",
                description="Also deliver each range of a minute: a `MinuteRange` when it is stored or merged.",
            ),
        ] = False,
    ) -> AsyncGenerator[Change, None]:
        return await _subscribe(info, tickers, after, tuple(kind for kind in _KINDS if kind != "range" or include_ranges))

    @strawberry.subscription(
        description="The open candle: its current state, each change, and its final state; then the next candle."
    )
    async def candle_updated(
        self,
        info: Info,
        ticker: Annotated[str, strawberry.argument(description=_TICKER)],
        interval: Annotated[Interval, strawberry.argument(description="Length of the candle.")],
        basis: OfBasis = Basis.RANGE,
    ) -> AsyncGenerator[Candle, None]:
        name = arguments.parse_ticker(ticker)
        resources = info.context.resources
        await require_known_tickers(resources.primary, [name])
        shape = Candle.shape(info, with_empty=False)
        selection = CandleSelection(name, interval.db_interval, candles.Basis[basis.name], shape)
        return cast(AsyncGenerator[Candle, None], resources.live_candles.subscribe(resources.primary, selection))

    @strawberry.subscription(
        description="The newest tick of each ticker, about a second after Deribit publishes it, at most two a second. Ticks "
        "are not stored: there is no resume, and a slow client misses some. Needs the stream process."
    )
    async def tick_updated(self, info: Info, tickers: Tickers = UNSET) -> AsyncGenerator[Tick, None]:
        resources, requested = info.context.resources, arguments.unset_to_none(tickers)
        names = None if requested is None else arguments.parse_tickers(requested)
        await require_known_tickers(resources.primary, names or ())
        shape = require_row_selection(info._raw_info, _TICK_ROWS)  # noqa: SLF001  graphql-core's info
        selection = TickSelection(None if names is None else frozenset(names), shape)
        return cast(AsyncGenerator[Tick, None], resources.live_ticks.subscribe(selection))


async def _subscribe(
    info: Info, tickers: list[str] | None, after: str | None, kinds: tuple[str, ...]
) -> AsyncGenerator[Any, None]:
    resources, requested = info.context.resources, arguments.unset_to_none(tickers)
    names = None if requested is None else arguments.parse_tickers(requested)
    await require_known_tickers(resources.primary, names or ())
    raw = info._raw_info  # noqa: SLF001  graphql-core's info
    shapes = tuple((kind, require_row_selection(raw, _KINDS[kind])) for kind in kinds)
    selection = EventSelection(None if names is None else frozenset(names), shapes)
    position = arguments.parse_event_id(info.context.last_event_id or after)
    return await resources.live_events.subscribe(resources.primary, selection, position, info.context.budget)
