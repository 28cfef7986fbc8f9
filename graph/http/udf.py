"""TradingView's Universal Data Feed: charting libraries that speak it read the candles at `/udf`.

The protocol is described at https://www.tradingview.com/charting-library-docs/latest/connecting_data/UDF. Prices are JSON
numbers, as it requires.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import orjson
from pydantic import Field
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from db import times
from db.errors import DatabaseError
from db.queries import candles, prices, summaries, tickers
from db.queries.candles import JSON_COLUMNS, Interval
from db.queries.shapes import Column, Shape
from graph.engine.client_errors import to_client_error
from graph.engine.limits import MAX_CANDLES
from graph.engine.tickers import require_known_tickers
from graph.errors import ApiError, BadInputError, UnknownTickerError
from graph.http.caller import caching_headers, context_of
from graph.http.rest.models import Q, Query, parse_query
from graph.schema import arguments
from graph.schema.context import Context

RESOLUTIONS: Final = {
    "1": Interval.ONE_MINUTE,
    "5": Interval.FIVE_MINUTES,
    "15": Interval.FIFTEEN_MINUTES,
    "30": Interval.THIRTY_MINUTES,
    "60": Interval.ONE_HOUR,
    "240": Interval.FOUR_HOURS,
    "720": Interval.TWELVE_HOURS,
    "1D": Interval.ONE_DAY,
    "1W": Interval.ONE_WEEK,
    "1M": Interval.ONE_MONTH,
}
_ALIASES: Final = {"D": "1D", "W": "1W", "M": "1M"}
EXCHANGE: Final = "DERIBIT"
MAX_SEARCH_RESULTS: Final = 200
SEARCH_COST: Final = 1_000
"""Cost of reading all tickers."""
MAX_QUOTES: Final = 200
QUOTE_COST: Final = 200
"""Cost of the newest price of a ticker, and of its hours of a day."""
_BAR: Final = Shape(
    (("t", JSON_COLUMNS["ts"]), *((name[0], Column(JSON_COLUMNS[name].sql)) for name in ("open", "high", "low", "close")))
)
"""A bar, with prices as numbers."""
_BAR_COST: Final = len(_BAR.members)


class SymbolQuery(Query):
    """Parameters of `/udf/symbols`."""

    symbol: str


class SearchQuery(Query):
    """Parameters of `/udf/search`."""

    query: str = ""
    type: str = ""
    exchange: str = ""
    limit: int = Field(30, ge=1)


class HistoryQuery(Query):
    """Parameters of `/udf/history`. The window is [start, end); `countback` takes precedence over its start."""

    symbol: str
    resolution: str
    start: int = Field(alias="from")
    end: int = Field(alias="to")
    countback: int | None = Field(None, ge=0)


class QuotesQuery(Query):
    """Parameters of `/udf/quotes`."""

    symbols: str


def config() -> dict[str, Any]:
    """Returns what the feed supports."""
    return {
        "supports_search": True,
        "supports_group_request": False,
        "supports_marks": False,
        "supports_timescale_marks": False,
        "supports_time": True,
        "exchanges": [{"value": EXCHANGE, "name": "Deribit", "desc": "Deribit's indexes"}],
        "symbols_types": [{"name": "Index", "value": "index"}],
        "supported_resolutions": list(RESOLUTIONS),
    }


def parse_symbol(symbol: str) -> str:
    """Returns the ticker of a symbol, which may have the exchange before a colon. Raises BadInputError."""
    return arguments.parse_ticker(symbol.rpartition(":")[2])


async def symbol_info(context: Context, symbol: str) -> dict[str, Any]:
    """Returns the description of a symbol. Raises UnknownTickerError."""
    name = parse_symbol(symbol)
    context.charge(SEARCH_COST)
    await require_known_tickers(context.db, [name])
    return {
        "name": name,
        "ticker": name,
        "full_name": f"{EXCHANGE}:{name}",
        "description": describe(name),
        "type": "index",
        "exchange": EXCHANGE,
        "listed_exchange": EXCHANGE,
        "session": "24x7",
        "timezone": "Etc/UTC",
        "format": "price",
        "minmov": 1,
        "pricescale": 10 ** await prices.decimals(context.db, name),
        "has_intraday": True,
        "intraday_multipliers": [resolution for resolution in RESOLUTIONS if resolution.isdecimal()],
        "has_daily": True,
        "daily_multipliers": ["1"],
        "has_weekly_and_monthly": True,
        "weekly_multipliers": ["1"],
        "monthly_multipliers": ["1"],
        "has_empty_bars": False,
        "visible_plots_set": "ohlc",
        "volume_precision": 0,
        "supported_resolutions": list(RESOLUTIONS),
        "data_status": "streaming",
        "currency_code": name.rpartition("_")[2].upper(),
    }


def describe(name: str) -> str:
    """Returns a description such as `BTC / USD index`."""
    return f"{' / '.join(name.upper().split('_'))} index"


async def search(context: Context, query: SearchQuery) -> list[dict[str, str]]:
    """Returns the known tickers that contain the text of the query."""
    if query.exchange not in ("", EXCHANGE) or query.type not in ("", "index"):
        return []
    context.charge(SEARCH_COST)
    text = query.query.strip().lower().rpartition(":")[2].replace("/", "").replace(" ", "")
    records = await tickers.list_tickers(context.db, context.now())
    names = [name for row in records if text.replace("_", "") in (name := row["name"]).replace("_", "")]
    return [
        {
            "symbol": name,
            "ticker": name,
            "full_name": f"{EXCHANGE}:{name}",
            "description": describe(name),
            "exchange": EXCHANGE,
            "type": "index",
        }
        for name in names[: min(query.limit, MAX_SEARCH_RESULTS)]
    ]


async def history(context: Context, query: HistoryQuery) -> dict[str, Any]:
    """Returns the bars of a window. Without any, `nextTime` is the start of the last bar before."""
    name, interval = parse_symbol(query.symbol), RESOLUTIONS.get(_ALIASES.get(query.resolution, query.resolution))
    if interval is None:
        raise BadInputError(f"resolution: {query.resolution[:10]!r} is not supported; use {', '.join(RESOLUTIONS)}")
    end = max(times.FIRST, min(query.end, int(context.now()) + 1, times.END))
    wanted = min(query.countback or 0, MAX_CANDLES)
    low = query.start if not wanted else max(times.FIRST, end - wanted * interval.value.seconds)
    # Libraries send times before 1970 for long intervals.
    low = min(end, max(low, interval.floor(end) - MAX_CANDLES * interval.value.seconds, times.FIRST))
    _charge(context, interval, low, end)
    bars = await _bars(context, name, interval, low, end)
    # Gaps make the window of `countback` bars longer. It is doubled until it has enough bars, or reaches the first price.
    first = await prices.first_minute(context.db, name) if len(bars) < wanted else None
    while first is not None and len(bars) < wanted and low > first and end - low < MAX_CANDLES * interval.value.seconds:
        low = max(times.FIRST, end - min(2 * (end - low), MAX_CANDLES * interval.value.seconds))
        _charge(context, interval, low, end)
        bars = await _bars(context, name, interval, low, end)
    if bars:
        shown = bars[-wanted:] if wanted else bars
        return {"s": "ok", **{key: [bar[key] for bar in shown] for key in ("t", "o", "h", "l", "c")}, "v": [0] * len(shown)}
    await require_known_tickers(context.db, [name])
    # A minute after `low` can belong to a bar that begins before it.
    previous = await prices.window(context.db, name, times.FIRST, interval.ceil(low), newest_first=True, limit=1)
    return {"s": "no_data"} | ({"nextTime": interval.floor(previous[0]["ts"])} if previous else {})


def _charge(context: Context, interval: Interval, low: int, end: int) -> None:
    """Charges the bars of a window, and the minutes that are read for them."""
    minutes = (end - low) // times.MINUTE if interval.value.base == times.MINUTE else 0
    context.charge(interval.count(low, end) * _BAR_COST + minutes)


async def _bars(context: Context, name: str, interval: Interval, low: int, end: int) -> list[dict[str, Any]]:
    if low >= end:
        return []
    now = times.minute_of(context.now())
    text = await candles.fetch_json(context.db, interval, _BAR, name, low, end, now, with_open=True)
    found: list[dict[str, Any]] = orjson.loads(text)
    return found


async def quotes(context: Context, symbols: Sequence[str]) -> dict[str, Any]:
    """Returns the newest price of each symbol, and its change in 24 hours."""
    names = list(dict.fromkeys(symbols))
    if len(names) > MAX_QUOTES:
        raise BadInputError(f"symbols: {len(names)} names exceed the maximum of {MAX_QUOTES}")
    context.charge(len(names) * QUOTE_COST)
    return {"s": "ok", "d": [await _quote(context, name) for name in names]}


async def _quote(context: Context, symbol: str) -> dict[str, Any]:
    try:
        name, now = parse_symbol(symbol), int(context.now())
    except BadInputError as error:
        return {"s": "error", "n": symbol, "v": {}, "errmsg": str(error)}
    newest = await prices.latest(context.db, name, now)
    if newest is None:
        return {"s": "error", "n": symbol, "v": {}, "errmsg": "unknown_symbol"}
    day = await summaries.summary(context.db, name, newest["ts"] - times.DAY, newest["ts"] + times.MINUTE)
    price = float(newest["price"])
    values: dict[str, Any] = {"lp": price, "ask": price, "bid": price, "spread": 0, "volume": 0}
    if day is not None:
        first = float(day.first["price"])
        values |= {
            "open_price": first,
            "prev_close_price": first,
            "high_price": float(day.high["price"]),
            "low_price": float(day.low["price"]),
            "ch": round(price - first, 8),
            "chp": round(100 * (price - first) / first, 4),
        }
    names = {"short_name": name, "exchange": EXCHANGE, "description": describe(name), "original_name": f"{EXCHANGE}:{name}"}
    return {"s": "ok", "n": symbol, "v": values | names}


def _endpoint(read: Callable[[Request, Context], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """Returns an endpoint that sends what `read` returns. The protocol has its own form of errors."""

    async def respond(request: Request) -> Response:
        status, headers = 200, caching_headers(request)
        try:
            content = await read(request, context_of(request))
        except (ApiError, DatabaseError) as problem:
            error = to_client_error(problem)
            if error is None:
                raise
            message = "unknown_symbol" if error.code == UnknownTickerError.code else str(error)
            status, content, headers = error.status, {"s": "error", "errmsg": message}, error.headers
        return Response(orjson.dumps(content), status, headers, media_type="application/json")

    return respond


def _parse(model: type[Q], request: Request) -> Q:
    """Validates the parameters of a request. Raises BadInputError. Libraries send further parameters, which are ignored."""
    names = {field.alias or name for name, field in model.model_fields.items()}
    params = [(name, value) for name, value in request.query_params.multi_items() if name in names]
    return parse_query(model, QueryParams(params))


async def _config(_request: Request, _context: Context) -> dict[str, Any]:
    return config()


async def _symbols(request: Request, context: Context) -> dict[str, Any]:
    return await symbol_info(context, _parse(SymbolQuery, request).symbol)


async def _search(request: Request, context: Context) -> list[dict[str, str]]:
    return await search(context, _parse(SearchQuery, request))


async def _history(request: Request, context: Context) -> dict[str, Any]:
    return await history(context, _parse(HistoryQuery, request))


async def _quotes(request: Request, context: Context) -> dict[str, Any]:
    symbols = _parse(QuotesQuery, request).symbols
    return await quotes(context, [symbol for symbol in symbols.split(",") if symbol.strip()])


async def _time(_request: Request) -> Response:
    return PlainTextResponse(str(int(time.time())), headers={"Cache-Control": "no-store"})


def routes() -> list[Route]:
    """Returns the routes of the feed."""
    readers = {"config": _config, "symbols": _symbols, "search": _search, "history": _history, "quotes": _quotes}
    return [
        *(Route(f"/udf/{name}", _endpoint(read), methods=["GET"]) for name, read in readers.items()),
        Route("/udf/time", _time, methods=["GET"]),
    ]
