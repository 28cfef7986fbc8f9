"""The entry points. Each checks its arguments, reads through `db.queries` and gives types."""

from typing import Annotated

import strawberry
from strawberry import UNSET

from db import times
from db.queries import candles, prices, tickers
from graph.engine.knowledge import require_known
from graph.engine.splicing import spliced
from graph.schema import arguments
from graph.schema.arguments import Order, Window
from graph.schema.candles import Candle, Interval, Series, Summary, WithEmpty, WithOpen
from graph.schema.context import Info
from graph.schema.coverage import Coverage
from graph.schema.scalars import UnixTime
from graph.schema.types import Price, PriceConnection, Ticker


def _argument(description: str, name: str | None = None) -> object:
    return strawberry.argument(description=description, name=name)


Name = Annotated[str, _argument("Deribit index name, like `btc_usd`.")]
From = Annotated[UnixTime, _argument("Start of the window; itself in it.", "from")]
OpenFrom = Annotated[
    UnixTime | None, _argument("Start of the window, itself in it; left out: from the first price on.", "from")
]
To = Annotated[UnixTime | None, _argument("End of the window, itself not in it, so that windows tile; left out: now.")]
Ordered = Annotated[Order, _argument("Which end of the window comes first.")]


@strawberry.type(description="What can be asked.")
class Query:
    """What can be asked."""

    @strawberry.field(description="Every known ticker, by name.")
    async def tickers(self, info: Info) -> list[Ticker]:
        now, stale_after_s = info.context.now(), info.context.resources.stale_after_s
        return [Ticker.of(record, now, stale_after_s) for record in await tickers.every(info.context.db, now)]

    @strawberry.field(description="One ticker; null where the name is not known.")
    async def ticker(self, info: Info, name: Name) -> Ticker | None:
        record = await tickers.one(info.context.db, arguments.ticker(name), info.context.now())
        return None if record is None else Ticker.of(record, info.context.now(), info.context.resources.stale_after_s)

    @strawberry.field(description="The newest price of a ticker; null where it is known but has none yet.")
    async def latest(self, info: Info, ticker: Name) -> Price | None:
        name = arguments.ticker(ticker)
        shape = Price.shape(info)
        if shape is not None:
            text = await prices.latest_text(info.context.db, shape, name, info.context.now())
            found = None if text is None else spliced(text)
        else:
            record = await prices.latest(info.context.db, name, info.context.now())
            found = None if record is None else Price.of(record)
        if found is None:
            await require_known(info.context.db, [name])
        return found

    @strawberry.field(description="The newest price of each ticker that has one, in the order asked for.")
    async def latest_prices(
        self,
        info: Info,
        tickers: Annotated[list[str] | None, _argument("Deribit index names; left out: all that are tracked.")] = UNSET,
    ) -> list[Price]:
        asked = arguments.given(tickers)
        names = await _tracked(info) if asked is None else arguments.tickers(asked)
        records = await prices.latest_of_each(info.context.db, names, info.context.now())
        await require_known(info.context.db, set(names) - {record["ticker"] for record in records})
        return [Price.of(record) for record in records]

    @strawberry.field(description="The prices of a window, a page at a time; without `first` or `last` the first 100.")
    async def prices(
        self,
        info: Info,
        ticker: Name,
        from_: OpenFrom = UNSET,
        to: To = UNSET,
        order: Ordered = Order.NEWEST_FIRST,
        first: Annotated[int | None, _argument("At most so many from the page's start, 1 to 1,000.")] = UNSET,
        after: Annotated[str | None, _argument("Cursor of the price that the page begins after.")] = UNSET,
        last: Annotated[int | None, _argument("At most so many from the page's end, 1 to 1,000.")] = UNSET,
        before: Annotated[str | None, _argument("Cursor of the price that the page ends before.")] = UNSET,
    ) -> PriceConnection:
        name = arguments.ticker(ticker)
        window = arguments.window(from_, to)
        page = arguments.page(first, after, last, before, info.context.resources.history)
        part = _between(window, order, page.after, page.before)
        shape = None if page.backwards else Price.shape(info, below="nodes")
        if shape is not None:
            listed = await prices.listed(
                info.context.db, shape, name, part.low, part.high, newest_first=order is Order.NEWEST_FIRST, limit=page.size
            )
            found = PriceConnection.listed(listed, name, window, order, page)
        else:
            records = await prices.window(
                info.context.db,
                name,
                part.low,
                part.high,
                newest_first=(order is Order.NEWEST_FIRST) != page.backwards,
                limit=page.size + 1,
            )
            found = PriceConnection.of(records, name, window, order, page)
        if found.low is None:
            await require_known(info.context.db, [name])
        return found

    @strawberry.field(description="All prices of a window of at most 50,000 minutes.")
    async def range(
        self, info: Info, ticker: Name, from_: From, to: To = UNSET, order: Ordered = Order.OLDEST_FIRST
    ) -> list[Price]:
        name = arguments.ticker(ticker)
        window = arguments.short_window(from_, to, info.context.now())
        newest_first = order is Order.NEWEST_FIRST
        shape = Price.shape(info)
        found: list[Price]
        if shape is not None:
            text = await prices.window_text(info.context.db, shape, name, window.low, window.high, newest_first=newest_first)
            is_empty, found = text == b"[]", spliced(text)
        else:
            records = await prices.window(info.context.db, name, window.low, window.high, newest_first=newest_first)
            is_empty, found = not records, [Price.of(record) for record in records]
        if is_empty:
            await require_known(info.context.db, [name])
        return found

    @strawberry.field(
        description="The last price observed at or before an instant, if it is not too old; else null. Where only the "
        "minute is known, its price counts as observed at the minute's end."
    )
    async def price_at(
        self,
        info: Info,
        ticker: Name,
        at: Annotated[UnixTime, _argument("The instant.")],
        max_age: Annotated[int, _argument("How much older than the instant it may be, in seconds.")] = 300,
    ) -> Price | None:
        name = arguments.ticker(ticker)
        record = await prices.last_observed(info.context.db, name, at, arguments.max_age(max_age))
        if record is None:
            await require_known(info.context.db, [name])
            return None
        return Price.of(record)

    @strawberry.field(
        description="How complete a window is: what was expected, what is stored, and the gaps with their reasons."
    )
    async def coverage(self, info: Info, ticker: Name, from_: From, to: To = UNSET) -> Coverage:
        name = arguments.ticker(ticker)
        await require_known(info.context.db, [name])
        return await Coverage.of(info, name, arguments.window(from_, to))

    @strawberry.field(
        description="The candles that begin in a window, oldest first; at most 10,000. Those of an hour and more are kept "
        "ready, so a year of days costs as little as a few hours of minutes."
    )
    async def candles(
        self,
        info: Info,
        ticker: Name,
        interval: Annotated[Interval, _argument("How long each is.")],
        from_: From,
        to: To = UNSET,
        include_open: WithOpen = False,
        include_empty: WithEmpty = False,
    ) -> list[Candle]:
        name, now = arguments.ticker(ticker), info.context.now()
        window = arguments.window_of_candles(from_, to, interval.kept, now)
        text = await candles.listed(
            info.context.db,
            interval.kept,
            Candle.shape(info, with_empty=include_empty),
            name,
            window.low,
            window.high,
            times.minute_of(now),
            with_open=include_open,
            with_empty=include_empty,
        )
        if text == "[]" or include_empty:
            await require_known(info.context.db, [name])
        found: list[Candle] = spliced(text)
        return found

    @strawberry.field(description="What a window comes to; null where none of its minutes is stored.")
    async def summary(self, info: Info, ticker: Name, from_: From, to: To = UNSET) -> Summary | None:
        name = arguments.ticker(ticker)
        found = await Summary.of(info, name, arguments.window(from_, to))
        if found is None:
            await require_known(info.context.db, [name])
        return found

    @strawberry.field(description="All prices of a window of at most 50,000 minutes, as columns.")
    async def series(self, info: Info, ticker: Name, from_: From, to: To = UNSET) -> Series:
        name = arguments.ticker(ticker)
        window = arguments.short_window(from_, to, info.context.now())
        found = await Series.of(info, name, window)
        if found.is_empty:
            await require_known(info.context.db, [name])
        return found


def _between(window: Window, order: Order, after: int | None, before: int | None) -> Window:
    """The part of the window that lies after the one cursor and before the other, in the list's order."""
    newer_than, older_than = (before, after) if order is Order.NEWEST_FIRST else (after, before)
    low = window.low if newer_than is None else max(window.low, newer_than + times.MINUTE)
    high = window.high if older_than is None else min(window.high, older_than)
    return Window(low, high)


async def _tracked(info: Info) -> list[str]:
    return await tickers.tracked(info.context.db)
