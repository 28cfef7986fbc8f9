"""Queries. Each resolver validates its arguments, reads through `db.queries` and returns types of the schema."""

from decimal import Decimal
from typing import Annotated

import strawberry
from strawberry import UNSET

from db import times
from db.queries import alerts, candles, delivery_prices, digests, prices, tickers, version, worker_report
from db.queries.snapshots import Snapshot
from db.queries.tickers import list_tracked
from graph.engine import calendars, limits
from graph.engine.cacheability import has_open_candles
from graph.engine.calendars import Calendar
from graph.engine.field_rules import FieldRules, always, declare
from graph.engine.json_fragments import json_fragment
from graph.engine.snapshots import require_retained
from graph.engine.tickers import require_known_tickers
from graph.engine.windows import Window
from graph.errors import BadInputError
from graph.schema import arguments
from graph.schema.alerts import ALERT_LIST, Alert
from graph.schema.arguments import Order
from graph.schema.candles import (
    CANDLE_ROWS,
    Basis,
    Candle,
    DayStart,
    FirstWeekday,
    Interval,
    OfBasis,
    Series,
    Summary,
    TimeZone,
    WeekStart,
    WithEmpty,
    WithOpen,
)
from graph.schema.context import Info
from graph.schema.coverage import Coverage
from graph.schema.delivery import DeliveryPrice
from graph.schema.digests import DayDigest
from graph.schema.scalars import UnixTime
from graph.schema.touch import Touch, reaches_now
from graph.schema.types import PRICE_PAGE_ROWS, PRICE_ROWS, Price, PriceConnection, Ticker
from graph.schema.workers import WorkerReport


def _argument(description: str, name: str | None = None) -> object:
    return strawberry.argument(description=description, name=name)


TickerName = Annotated[str, _argument("Deribit index name, like `btc_usd`.")]
WindowStart = Annotated[UnixTime, _argument("Start of the window (inclusive).", "from")]
OptionalWindowStart = Annotated[
    UnixTime | None, _argument("Start of the window (inclusive). Default: the first price.", "from")
]
WindowEnd = Annotated[
    UnixTime | None, _argument("End of the window (exclusive; consecutive windows do not overlap). Default: now.")
]
AsOf = Annotated[
    strawberry.ID | None,
    _argument(
        "Data version to read, from `dataVersion`: the response is then the same at any time. Default: the newest.", "asOf"
    ),
]
WindowOrder = Annotated[Order, _argument("Order of the list by time.")]


@strawberry.type(description="Queries.")
class Query:
    """Queries."""

    @strawberry.field(
        description="The newest data version: the highest id of all commits. Send it as `asOf` to read the same data again.",
        metadata=declare(FieldRules()),
    )
    async def data_version(self, info: Info) -> strawberry.ID:
        return strawberry.ID(str(await version.current(info.context.db)))

    @strawberry.field(
        description="All known tickers, sorted by name.",
        metadata=declare(FieldRules(cost=limits.cost_of_tickers)),
    )
    async def tickers(self, info: Info) -> list[Ticker]:
        now, stale_after_s = info.context.now(), info.context.resources.stale_after_s
        return [Ticker.from_record(record, now, stale_after_s) for record in await tickers.list_tickers(info.context.db, now)]

    @strawberry.field(description="One ticker; null if the name is unknown.", metadata=declare(FieldRules()))
    async def ticker(self, info: Info, name: TickerName) -> Ticker | None:
        found = await tickers.get_tickers(info.context.db, [arguments.parse_ticker(name)], info.context.now())
        return Ticker.from_record(found[0], info.context.now(), info.context.resources.stale_after_s) if found else None

    @strawberry.field(
        description="The newest price of a ticker; null if it has none yet.", metadata=declare(FieldRules(rows=PRICE_ROWS))
    )
    async def latest(self, info: Info, ticker: TickerName, as_of: AsOf = UNSET) -> Price | None:
        name = arguments.parse_ticker(ticker)
        snapshot = await info.context.snapshot(as_of, name, times.END)
        now = info.context.now() if snapshot is None else snapshot.latest_ts
        shape = Price.shape(info)
        if shape is not None:
            texts = await info.context.shared_reads.latest_json(info.context.db, shape, [name], now, snapshot)
            found = json_fragment(texts[name]) if name in texts else None
        else:
            record = await prices.latest(info.context.db, name, now, snapshot)
            found = None if record is None else Price.from_record(record, snapshot)
        if found is None:
            require_retained(snapshot, name)
            await require_known_tickers(info.context.db, [name])
        return found

    @strawberry.field(
        description="The newest price of each requested ticker that has one, in the requested order.",
        metadata=declare(FieldRules(cost=limits.cost_of_tickers, rows=PRICE_ROWS)),
    )
    async def latest_prices(
        self,
        info: Info,
        tickers: Annotated[list[str] | None, _argument("Deribit index names. Default: all tracked tickers.")] = UNSET,
    ) -> list[Price]:
        requested = arguments.unset_to_none(tickers)
        names = await list_tracked(info.context.db) if requested is None else arguments.parse_tickers(requested)
        shape = Price.shape(info)
        found: list[Price]
        if shape is not None:
            texts = await info.context.shared_reads.latest_json(info.context.db, shape, names, info.context.now())
            missing = set(names) - set(texts)
            found = json_fragment(f"[{','.join(texts[name] for name in names if name in texts)}]")
        else:
            records = await prices.latest_of_each(info.context.db, names, info.context.now())
            missing = set(names) - {record["ticker"] for record in records}
            found = [Price.from_record(record) for record in records]
        await require_known_tickers(info.context.db, missing)
        return found

    @strawberry.field(
        description="Prices of a window, in pages. Default: the first 100.",
        metadata=declare(FieldRules(rows=PRICE_PAGE_ROWS, reads_window=True)),
    )
    async def prices(
        self,
        info: Info,
        ticker: TickerName,
        from_: OptionalWindowStart = UNSET,
        to: WindowEnd = UNSET,
        order: WindowOrder = Order.NEWEST_FIRST,
        first: Annotated[int | None, _argument("Page size from the start of the list, 1 to 1,000.")] = UNSET,
        after: Annotated[str | None, _argument("The page starts after this cursor.")] = UNSET,
        last: Annotated[int | None, _argument("Page size from the end of the list, 1 to 1,000.")] = UNSET,
        before: Annotated[str | None, _argument("The page ends before this cursor.")] = UNSET,
        as_of: AsOf = UNSET,
    ) -> PriceConnection:
        name = arguments.parse_ticker(ticker)
        window = arguments.parse_window(from_, to)
        snapshot = await info.context.snapshot(as_of, name, window.low)
        page = arguments.parse_page(first, after, last, before, info.context.resources.history)
        part = _page_window(window, order, page.after, page.before, snapshot)
        shape = Price.shape(info, PRICE_PAGE_ROWS)
        if shape is not None:
            price_page = await info.context.shared_reads.fetch_page(
                info.context.db,
                shape,
                name,
                part.low,
                part.high,
                newest_first=order is Order.NEWEST_FIRST,
                backwards=page.backwards,
                limit=page.size,
                snapshot=snapshot,
            )
            found = PriceConnection.from_json_page(price_page, name, window, order, page, snapshot)
        else:
            records = await prices.window(
                info.context.db,
                name,
                part.low,
                part.high,
                newest_first=(order is Order.NEWEST_FIRST) != page.backwards,
                limit=page.size + 1,
                snapshot=snapshot,
            )
            found = PriceConnection.from_records(records, name, window, order, page, snapshot)
        if found.low is None:
            await require_known_tickers(info.context.db, [name])
        return found

    @strawberry.field(
        description="All prices of a window of at most 50,000 minutes.",
        metadata=declare(FieldRules(cost=limits.cost_of_minutes, rows=PRICE_ROWS, reads_window=True)),
    )
    async def range(
        self,
        info: Info,
        ticker: TickerName,
        from_: WindowStart,
        to: WindowEnd = UNSET,
        order: WindowOrder = Order.OLDEST_FIRST,
        as_of: AsOf = UNSET,
    ) -> list[Price]:
        name = arguments.parse_ticker(ticker)
        snapshot = await info.context.snapshot(as_of, name, from_)
        window = arguments.parse_short_window(from_, to, info.context.now() if snapshot is None else snapshot.latest_ts)
        newest_first = order is Order.NEWEST_FIRST
        shape = Price.shape(info)
        found: list[Price]
        if shape is not None:
            text = await info.context.shared_reads.window_json(
                info.context.db, shape, name, window.low, window.high, newest_first=newest_first, snapshot=snapshot
            )
            is_empty, found = text == b"[]", json_fragment(text)
        else:
            records = await prices.window(
                info.context.db, name, window.low, window.high, newest_first=newest_first, snapshot=snapshot
            )
            is_empty, found = not records, [Price.from_record(record, snapshot) for record in records]
        if is_empty:
            await require_known_tickers(info.context.db, [name])
        return found

    @strawberry.field(
        description="The last price observed at or before an instant; null if it is older than `maxAge`. If only the minute of "
        "a price is known, the price counts as observed at the end of the minute.",
        metadata=declare(FieldRules()),
    )
    async def price_at(
        self,
        info: Info,
        ticker: TickerName,
        at: Annotated[UnixTime, _argument("The instant.")],
        max_age: Annotated[int, _argument("Maximum age of the price at the instant, in seconds.")] = 300,
        as_of: AsOf = UNSET,
    ) -> Price | None:
        name, max_age_s = arguments.parse_ticker(ticker), arguments.parse_max_age(max_age)
        snapshot = await info.context.snapshot(as_of, name, at - max_age_s - times.MINUTE)
        record = await prices.last_observed(info.context.db, name, at, max_age_s, snapshot)
        if record is None:
            await require_known_tickers(info.context.db, [name])
            return None
        return Price.from_record(record, snapshot)

    @strawberry.field(
        description="`priceAt` for at most 10,000 instants, in their order. For joins of a list of events with prices.",
        metadata=declare(FieldRules(cost=limits.cost_of_list("at"))),
    )
    async def prices_at(
        self,
        info: Info,
        ticker: TickerName,
        at: Annotated[list[UnixTime], _argument("The instants, in any order.")],
        max_age: Annotated[int, _argument("Maximum age of a price at its instant, in seconds.")] = 300,
        as_of: AsOf = UNSET,
    ) -> list[Price | None]:
        name, max_age_s = arguments.parse_ticker(ticker), arguments.parse_max_age(max_age)
        if len(at) > limits.MAX_INSTANTS:
            raise BadInputError(f"at: {len(at)} instants exceed the maximum of {limits.MAX_INSTANTS}")
        oldest = min(at, default=times.END) - max_age_s - times.MINUTE
        snapshot = await info.context.snapshot(as_of, name, oldest)
        records = await prices.last_observed_of_each(info.context.db, name, at, max_age_s, snapshot)
        if not any(records):
            await require_known_tickers(info.context.db, [name])
        return [None if record is None else Price.from_record(record, snapshot) for record in records]

    @strawberry.field(
        description="Completeness of a window: expected and stored minutes, and gaps with their reasons.",
        metadata=declare(FieldRules(cost=limits.cost_of_coverage, changes_with_clock=always)),
    )
    async def coverage(
        self, info: Info, ticker: TickerName, from_: WindowStart, to: WindowEnd = UNSET, as_of: AsOf = UNSET
    ) -> Coverage:
        name, window = arguments.parse_ticker(ticker), arguments.parse_window(from_, to)
        await require_known_tickers(info.context.db, [name])
        return await Coverage.read(info, name, window, await info.context.snapshot(as_of, name, window.low))

    @strawberry.field(
        description="The candles that start in a window, oldest first; at most 10,000. Candles of one hour or longer are "
        "precomputed, so a year of days costs as little as a few hours of minutes. "
        "In a time zone, days have 23 or 25 hours when clocks change.",
        metadata=declare(FieldRules(cost=limits.cost_of_candles, rows=CANDLE_ROWS, changes_with_clock=has_open_candles)),
    )
    async def candles(
        self,
        info: Info,
        ticker: TickerName,
        interval: Annotated[Interval, _argument("Length of each candle.")],
        from_: WindowStart,
        to: WindowEnd = UNSET,
        basis: OfBasis = Basis.RANGE,
        include_open: WithOpen = False,
        include_empty: WithEmpty = False,
        as_of: AsOf = UNSET,
        time_zone: TimeZone = "UTC",
        week_start: FirstWeekday = WeekStart.MONDAY,
        day_start: DayStart = "00:00",
    ) -> list[Candle]:
        name = arguments.parse_ticker(ticker)
        calendar = Calendar.parse(time_zone, calendars.WeekStart[week_start.name], day_start)
        snapshot = await info.context.snapshot(as_of, name, from_)
        now = info.context.now() if snapshot is None else snapshot.at
        window = arguments.parse_candle_window(from_, to, interval.db_interval, now)
        text = await candles.fetch_json(
            info.context.db,
            interval.db_interval,
            Candle.shape(info, with_empty=include_empty),
            name,
            window.low,
            window.high,
            times.minute_of(now),
            basis=candles.Basis[basis.name],
            with_open=include_open,
            with_empty=include_empty,
            snapshot=snapshot,
            starts=calendar.starts(interval.db_interval, window.low, window.high),
        )
        if text == "[]" or include_empty:
            await require_known_tickers(info.context.db, [name])
        found: list[Candle] = json_fragment(text)
        return found

    @strawberry.field(
        description="Aggregates of the prices of a window, one sample a minute; null if none of its minutes is stored.",
        metadata=declare(FieldRules(cost=limits.cost_of_summary)),
    )
    async def summary(
        self, info: Info, ticker: TickerName, from_: WindowStart, to: WindowEnd = UNSET, as_of: AsOf = UNSET
    ) -> Summary | None:
        name, window = arguments.parse_ticker(ticker), arguments.parse_window(from_, to)
        found = await Summary.read(info, name, window, await info.context.snapshot(as_of, name, window.low))
        if found is None:
            await require_known_tickers(info.context.db, [name])
        return found

    @strawberry.field(
        description="The digests of the UTC days that begin in a window, oldest first; at most 10,000. Days have one from 15 "
        "minutes after their end on.",
        metadata=declare(FieldRules(cost=limits.cost_of_days, changes_with_clock=always)),
    )
    async def digests(self, info: Info, ticker: TickerName, from_: WindowStart, to: WindowEnd = UNSET) -> list[DayDigest]:
        name = arguments.parse_ticker(ticker)
        window = arguments.parse_candle_window(from_, to, candles.Interval.ONE_DAY, info.context.now())
        found = await digests.newest_of_days(info.context.db, name, window.low, window.high)
        if not found:
            await require_known_tickers(info.context.db, [name])
        return [DayDigest.from_entry(entry) for entry in found]

    @strawberry.field(
        description="All alerts. Requires the header `Authorization: Bearer …` with ADMIN_TOKEN.", metadata=ALERT_LIST
    )
    async def alerts(self, info: Info) -> list[Alert]:
        info.context.require_admin_token(even_if_unset=True)
        return [Alert.from_record(record) for record in await alerts.list_alerts(info.context.resources.primary)]

    @strawberry.field(
        description="What the workers reported of themselves in the last minute; null if no worker ever ran.",
        metadata=declare(FieldRules(changes_with_clock=always)),
    )
    async def workers(self, info: Info) -> WorkerReport | None:
        report = await worker_report.get(info.context.db)
        return None if report is None else WorkerReport.from_report(report)

    @strawberry.field(
        description="Deribit's delivery price of a UTC day, and a mean to compare it with; null if none is stored.",
        metadata=declare(FieldRules(changes_with_clock=always)),
    )
    async def delivery_price(
        self,
        info: Info,
        ticker: TickerName,
        date: Annotated[UnixTime, _argument("The day, like `2024-01-15`, or any instant of it.")],
    ) -> DeliveryPrice | None:
        name = arguments.parse_ticker(ticker)
        ts = date // times.DAY * times.DAY + delivery_prices.DELIVERY_SECOND
        record = await delivery_prices.get(info.context.db, name, ts)
        if record is None:
            await require_known_tickers(info.context.db, [name])
            return None
        return DeliveryPrice.from_record(record)

    @strawberry.field(
        description="When an index first reached a price in a window of at most 366 days, and whether that is certain.",
        metadata=declare(FieldRules(cost=limits.cost_of_touch, changes_with_clock=reaches_now)),
    )
    async def touched(
        self,
        info: Info,
        ticker: TickerName,
        price: Annotated[Decimal, _argument("The price to reach.")],
        from_: WindowStart,
        to: WindowEnd = UNSET,
    ) -> Touch:
        name = arguments.parse_ticker(ticker)
        found = await Touch.read(info, name, price, arguments.parse_window(from_, to))
        if found.start is None:
            await require_known_tickers(info.context.db, [name])
        return found

    @strawberry.field(
        description="All prices of a window of at most 50,000 minutes, in columnar form; or of any window, thinned to "
        "`maxPoints`.",
        metadata=declare(FieldRules(cost=limits.cost_of_series, json_fields=("ts", "price"))),
    )
    async def series(
        self,
        info: Info,
        ticker: TickerName,
        from_: WindowStart,
        to: WindowEnd = UNSET,
        as_of: AsOf = UNSET,
        max_points: Annotated[
            int | None,
            _argument(
                "Return at most this many prices, 4 to 10,000: the first, the last, and the lowest and the highest of parts of "
                "equal length. A plot of them looks like one of all prices."
            ),
        ] = UNSET,
    ) -> Series:
        name, most = arguments.parse_ticker(ticker), arguments.parse_max_points(max_points)
        snapshot = await info.context.snapshot(as_of, name, from_)
        now = info.context.now() if snapshot is None else snapshot.latest_ts
        window = arguments.parse_short_window(from_, to, now) if most is None else arguments.parse_window(from_, to)
        found = await Series.read(info, name, window, most, snapshot)
        if found.is_empty:
            await require_known_tickers(info.context.db, [name])
        return found


def _page_window(window: Window, order: Order, after: int | None, before: int | None, snapshot: Snapshot | None) -> Window:
    """Returns the part of the window after the cursor `after` and before the cursor `before`, in the order of the list."""
    newer_than, older_than = (before, after) if order is Order.NEWEST_FIRST else (after, before)
    low = window.low if newer_than is None else max(window.low, newer_than + times.MINUTE)
    high = window.high if older_than is None else min(window.high, older_than)
    # Minutes after the snapshot would be read only to be skipped.
    return Window(low, high if snapshot is None else min(high, snapshot.latest_ts + times.MINUTE))
