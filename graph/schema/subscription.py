"""What can be subscribed to. A subscription's events are JSON already: see `graph.engine.live`."""

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Final, cast

import strawberry
from strawberry import UNSET

from db.queries import events
from db.queries.shapes import Column
from graph.engine.knowledge import require_known
from graph.engine.live import Question
from graph.engine.live_candles import Followed
from graph.engine.splicing import whole_shape_of
from graph.schema import arguments
from graph.schema.candles import Candle, Interval
from graph.schema.context import Info
from graph.schema.scalars import UnixTime
from graph.schema.types import Price

_TICKER: Final = "Deribit index name, like `btc_usd`."


@strawberry.type
class _Told:
    """What is told of a ticker's history."""

    id: strawberry.ID = strawberry.field(
        description="An integer that grows with every commit, as that of prices does: go on from it with `after`."
    )
    ticker: str = strawberry.field(description=_TICKER)
    from_: UnixTime = strawberry.field(name="from", description="The first minute concerned.")


@strawberry.type
class _ToldOfMinutes(_Told):
    to: UnixTime = strawberry.field(description="The end of the last minute concerned; itself not in it.")
    count: int = strawberry.field(description="Minutes concerned, of those between `from` and `to`.")


@strawberry.type(
    description="Many prices were stored at once (more than 1,000 of a ticker, by an import or a backfill): read them anew."
)
class HistoryChanged(_ToldOfMinutes):
    """Many prices were stored at once."""


@strawberry.type(description="Minutes are missing; or why they are became known. `coverage` tells the reason.")
class GapOpened(_ToldOfMinutes):
    """Minutes are missing."""


@strawberry.type(description="Missing minutes were filled, or given up because no chart can tell them any more.")
class GapClosed(_ToldOfMinutes):
    """Missing minutes were filled, or given up."""

    filled: bool = strawberry.field(description="Whether their prices are stored now.")


@strawberry.type(description="A period of collecting began or ended, or history was given up: ask `ticker` how it is now.")
class TickerChanged(_Told):
    """A period of collecting began or ended."""


Change = Annotated[
    Price | HistoryChanged | GapOpened | GapClosed | TickerChanged,
    strawberry.union("Change", description="What alters what a reader can see."),
]

_KINDS: Final[Mapping[str, tuple[str, Mapping[str, Column]]]] = {
    "price": ("Price", events.PRICE | {"observedAt": events.PRICE["observed_at"]}),
    "history": ("HistoryChanged", events.CHANGE),
    "gap_opened": ("GapOpened", events.CHANGE),
    "gap_closed": ("GapClosed", events.CHANGE),
    "gap_given_up": ("GapClosed", events.CHANGE),
    "tracking": ("TickerChanged", events.CHANGE),
    "horizon": ("TickerChanged", events.CHANGE),
}
"""The type of each kind of event, and its fields."""

Tickers = Annotated[
    list[str] | None, strawberry.argument(description="Deribit index names; left out: all there are, and all there will be.")
]
After = Annotated[
    strawberry.ID | None,
    strawberry.argument(
        description="The last id that was received: what came after it is told first. Left out: only what comes from now on."
    ),
]


@strawberry.type(description="What can be subscribed to, over WebSocket (graphql-transport-ws) or as server-sent events.")
class Subscription:
    """What can be subscribed to."""

    @strawberry.subscription(
        description="Each price as it is stored, once, in the order of commits. Large imports and backfills are not told: see "
        "`changes`."
    )
    async def price_added(self, info: Info, tickers: Tickers = UNSET, after: After = UNSET) -> AsyncGenerator[Price, None]:
        return await _told(info, tickers, after, ("price",))

    @strawberry.subscription(
        description="Whatever alters what a reader can see, for who keeps a copy, in the order of commits."
    )
    async def changes(self, info: Info, tickers: Tickers = UNSET, after: After = UNSET) -> AsyncGenerator[Change, None]:
        return await _told(info, tickers, after, tuple(_KINDS))

    @strawberry.subscription(
        description="The candle that is open: as it stands, each time it changes, and once more when it is over; then the next."
    )
    async def candle_updated(
        self,
        info: Info,
        ticker: Annotated[str, strawberry.argument(description=_TICKER)],
        interval: Annotated[Interval, strawberry.argument(description="How long the candle is.")],
    ) -> AsyncGenerator[Candle, None]:
        name = arguments.ticker(ticker)
        resources = info.context.resources
        await require_known(resources.primary, [name])
        followed = Followed(name, interval.kept, Candle.shape(info, with_empty=False))
        return cast(AsyncGenerator[Candle, None], resources.live_candles.subscribe(resources.primary, followed))


async def _told(info: Info, tickers: list[str] | None, after: str | None, kinds: tuple[str, ...]) -> AsyncGenerator[Any, None]:
    resources, asked = info.context.resources, arguments.given(tickers)
    names = None if asked is None else arguments.tickers(asked)
    await require_known(resources.primary, names or ())
    raw = info._raw_info  # noqa: SLF001  Strawberry's way to graphql-core
    shapes = tuple((kind, whole_shape_of(raw, *_KINDS[kind])) for kind in kinds)
    question = Question(None if names is None else frozenset(names), shapes)
    position = arguments.event_id(info.context.last_event_id or after)
    return await resources.live.subscribe(resources.primary, question, position, info.context.budget)
