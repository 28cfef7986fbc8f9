"""The REST endpoints. They use the same functions of `db.queries` as GraphQL. Their windows include both ends."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.datastructures import URL, MultiDict, QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from db import times
from db.queries import clock, coverage, history_export, prices
from db.queries.snapshots import Snapshot
from graph.engine.limits import MAX_RANGE_MINUTES
from graph.engine.snapshots import require_retained
from graph.engine.tickers import require_known_tickers, require_tracked_tickers
from graph.errors import BadInputError, ForbiddenError, NotFoundError
from graph.http import response_cache
from graph.http.admission import ConcurrencyLimiter
from graph.http.caller import caching_headers, context_of
from graph.http.health import health
from graph.http.rest import models
from graph.http.rest.export import DownloadResponse, export
from graph.http.rest.models import ROW_SHAPE, Query, parse_query
from graph.http.rest.tables import (
    CandleQuery,
    CandleRow,
    CoverageRow,
    Table,
    TableQuery,
    TickerRow,
    WindowQuery,
    candle_table,
    coverage_table,
    ticker_table,
)
from graph.http.root_path import root_path_of
from graph.schema.context import Context

FIELD_COUNT = len(models.Row.model_fields)
Handler = Callable[[Context, Any], Awaitable["Rows | Body | Table"]]


@dataclass(frozen=True)
class Rows:
    """Prices as a JSON list, and the window [low, high) of their coverage. `next_params` are those of the next page, if any."""

    ticker: str
    low: int
    high: int
    text: str | None
    """None for a large window: its prices are streamed."""
    next_params: dict[str, int] = field(default_factory=dict)
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class Body:
    """One JSON object, as text or as a dict."""

    content: dict[str, Any] | str
    status: int = 200


async def page(context: Context, query: models.PageQuery) -> Rows:
    """Returns a page of prices, newest first."""
    high = times.END if query.start_date is None else query.start_date + 1
    context.charge(query.limit * FIELD_COUNT)
    snapshot = await _snapshot(context, query, times.END)
    if snapshot is not None:
        high = min(high, snapshot.latest_ts + times.MINUTE)
    price_page = await prices.fetch_page(
        context.db,
        ROW_SHAPE,
        query.ticker,
        times.FIRST,
        high,
        newest_first=True,
        limit=query.limit,
        offset=query.offset,
        snapshot=snapshot,
    )
    if not price_page.has_more:
        require_retained(snapshot, query.ticker, "as_of")
    if price_page.low is None or price_page.high is None:
        await require_known_tickers(context.db, [query.ticker])
        # A page after the last row covers no minutes.
        return Rows(query.ticker, times.FIRST, times.FIRST if query.offset else high, price_page.text, snapshot=snapshot)
    if query.offset:
        high = price_page.high + times.MINUTE
    if not price_page.has_more:
        return Rows(query.ticker, times.FIRST, high, price_page.text, snapshot=snapshot)
    # All pages use the start of the first one, so that prices stored in between do not shift them.
    start = query.start_date if query.start_date is not None else await _read_newest_ts(context, query.ticker, snapshot)
    next_params = {"start_date": start, "limit": query.limit, "offset": query.offset + query.limit}
    return Rows(query.ticker, price_page.low, high, price_page.text, next_params, snapshot)


async def latest(context: Context, query: models.TickerQuery) -> Body:
    """Returns the newest price."""
    snapshot = await _snapshot(context, query, times.END)
    now = context.now() if snapshot is None else snapshot.latest_ts
    texts = await context.shared_reads.latest_json(context.db, ROW_SHAPE, [query.ticker], now, snapshot)
    if query.ticker not in texts:
        require_retained(snapshot, query.ticker, "as_of")
        await require_known_tickers(context.db, [query.ticker])
        raise NotFoundError(f"{query.ticker} has no price yet. Retry in a minute.")
    return Body(texts[query.ticker])


async def filtered_window(context: Context, query: models.FilterQuery) -> Rows:
    """Returns the prices from `date_from` to `date_to`, both inclusive, oldest first."""
    return await _window(context, query, ("date_from", query.date_from), ("date_to", query.date_to), query.limit)


async def range_window(context: Context, query: models.RangeQuery) -> Rows:
    """Returns the prices from `from_ts` to `to_ts`, both inclusive, oldest first."""
    return await _window(context, query, ("from_ts", query.from_ts), ("to_ts", query.to_ts), query.limit)


async def minute(context: Context, query: models.MinuteQuery) -> Body:
    """Returns the price of a minute."""
    ts = times.minute_of(query.date)
    price_page = await context.shared_reads.fetch_page(
        context.db,
        ROW_SHAPE,
        query.ticker,
        ts,
        ts + times.MINUTE,
        newest_first=False,
        snapshot=await _snapshot(context, query, ts),
    )
    if price_page.low is None:
        await require_known_tickers(context.db, [query.ticker])
        raise NotFoundError(f"{query.ticker} has no price for the minute {times.iso(ts)}")
    return Body(price_page.text[1:-1])


async def day(context: Context, query: models.DayQuery) -> Rows:
    """Returns the prices of a day (UTC), oldest first."""
    start = times.parse(query.date.isoformat())
    context.charge(times.DAY // times.MINUTE * FIELD_COUNT)
    snapshot = await _snapshot(context, query, start)
    price_page = await context.shared_reads.fetch_page(
        context.db, ROW_SHAPE, query.ticker, start, start + times.DAY, newest_first=False, snapshot=snapshot
    )
    if price_page.low is None:
        await require_known_tickers(context.db, [query.ticker])
    return Rows(query.ticker, start, start + times.DAY, price_page.text, snapshot=snapshot)


async def fetch(context: Context, query: models.FetchQuery) -> Body:
    """Requests a fetch of the current minute's prices from the workers."""
    context.require_admin_token()
    await require_tracked_tickers(context.resources.primary, query.ticker)
    minute = times.minute_of(await clock.now(context.resources.primary))
    receipt = await context.resources.fetch_requests.send(minute, query.ticker)
    return Body(asdict(receipt), status=HTTPStatus.ACCEPTED)


async def _snapshot(context: Context, query: models.TickerQuery, low: int) -> Snapshot | None:
    return await context.snapshot(query.as_of, query.ticker, low, "as_of")


async def _read_newest_ts(context: Context, ticker: str, snapshot: Snapshot | None) -> int:
    now = context.now() if snapshot is None else snapshot.latest_ts
    record = await prices.latest(context.db, ticker, now, snapshot)
    return times.END - 1 if record is None else int(record["ts"])


async def _window(
    context: Context,
    query: models.TickerQuery,
    start: tuple[str, int | None],
    end: tuple[str, int | None],
    limit: int | None,
) -> Rows:
    """Returns the prices of a window. `start` and `end` are each the name and the value of a parameter."""
    low = times.FIRST if start[1] is None else start[1]
    high = times.END if end[1] is None else end[1] + 1
    if low >= high:
        raise BadInputError(f"{start[0]} ({times.iso(low)}) must not be after {end[0]} ({times.iso(high - 1)})")
    ticker, max_rows = query.ticker, limit or MAX_RANGE_MINUTES
    context.charge(min(max_rows, (high - low) // times.MINUTE + 1) * FIELD_COUNT)
    snapshot = await _snapshot(context, query, low)
    extent = await history_export.extent(context.db, ticker, low, high, snapshot) if limit is None else None
    if extent is not None and extent[1] - extent[0] > MAX_RANGE_MINUTES * times.MINUTE:
        return Rows(ticker, low, high, None, snapshot=snapshot)
    price_page = await context.shared_reads.fetch_page(
        context.db, ROW_SHAPE, ticker, low, high, newest_first=False, limit=max_rows, snapshot=snapshot
    )
    if price_page.high is None:
        await require_known_tickers(context.db, [ticker])
    if price_page.high is None or not price_page.has_more or limit is None:
        return Rows(ticker, low, high, price_page.text, snapshot=snapshot)
    next_params = {start[0]: price_page.high + 1, "limit": limit}
    next_params |= {} if end[1] is None else {end[0]: end[1]}
    return Rows(ticker, low, price_page.high + 1, price_page.text, next_params, snapshot)


@dataclass(frozen=True)
class Endpoint:
    """A REST endpoint: its paths, its parameters, its handler and its entry in the OpenAPI document."""

    paths: tuple[str, ...]
    query: type[Query]
    handler: Handler
    model: type[BaseModel]
    is_list: bool = False
    is_table: bool = False
    """Whether the response can also be CSV, and has no X-Coverage."""
    error_statuses: tuple[int, ...] = (401, 404, 422, 429, 500, 503, 504)
    success_status: int = 200

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]

    @property
    def has_side_effects(self) -> bool:
        """Whether a request has side effects, so that HEAD is not supported."""
        return self.success_status == HTTPStatus.ACCEPTED

    def route(self, path: str, connections: ConcurrencyLimiter) -> Route:
        """Returns the route for one of the paths. `connections` limits the open streams."""
        route = Route(path, partial(self.__call__, connections=connections), methods=["GET"])
        if self.has_side_effects and route.methods is not None:
            route.methods.discard("HEAD")  # Starlette adds it to every GET
        return route

    async def __call__(self, request: Request, connections: ConcurrencyLimiter) -> Response:
        """Validates the parameters, calls the handler and encodes the response."""
        context = context_of(request)
        if self.has_side_effects:
            _reject_cross_site(request, context)
        query = parse_query(self.query, request.query_params)
        result = await self.handler(context, query)
        await context.require_snapshots_retained()
        cache_headers = caching_headers(
            request, is_repeatable=isinstance(query, models.TickerQuery) and query.as_of is not None
        )
        if isinstance(result, Table):
            body, media_type = result.encode()
            return Response(body, headers=cache_headers, media_type=media_type)
        if isinstance(result, Body):
            if isinstance(result.content, str):
                response_cache.set_cacheable(request.scope, cacheable=context.is_current)
            return _json(result.content, result.status, cache_headers)
        # The coverage of an open window changes with the clock, so its response is not cached.
        now = context.now() if result.snapshot is None else result.snapshot.at
        is_over = result.snapshot is not None or result.high <= times.minute_of(now)
        response_cache.set_cacheable(request.scope, cacheable=context.is_current and is_over and result.text is not None)
        coverage_counts = await coverage.count(context.db, result.ticker, result.low, result.high, now, result.snapshot)
        # Stored minutes that were not expected, such as the current one, count as both stored and expected.
        unexpected_count = coverage_counts.extra + await prices.count_in(
            context.db, result.ticker, coverage_counts.high, max(coverage_counts.high, result.high), result.snapshot
        )
        headers = cache_headers | {
            "X-Coverage": f"{coverage_counts.stored + unexpected_count}/{coverage_counts.expected + unexpected_count}"
        }
        if result.next_params:
            next_url = root_path_of(request.scope) + _next_url(request.url, result.next_params)
            headers["Link"] = f'<{next_url}>; rel="next"'
        if result.text is None and request.method == "HEAD":
            return StreamingResponse(iter(()), media_type="application/json", headers=headers)  # its length is unknown
        if result.text is None:
            lines = _stream_rows(context, result.ticker, result.low, result.high, result.snapshot)
            return DownloadResponse(
                lines, connections, media_type="application/json", headers=headers | {"Cache-Control": "no-store"}
            )
        return _json(result.text, HTTPStatus.OK, headers)


ENDPOINTS = (
    Endpoint(("/prices", "/prices/all"), models.PageQuery, page, models.Row, is_list=True),
    Endpoint(("/prices/latest", "/prices/last"), models.TickerQuery, latest, models.Row),
    Endpoint(("/prices/filter",), models.FilterQuery, filtered_window, models.Row, is_list=True),
    Endpoint(("/prices/range",), models.RangeQuery, range_window, models.Row, is_list=True),
    Endpoint(("/prices/filtered",), models.MinuteQuery, minute, models.Row),
    Endpoint(("/prices/by-date",), models.DayQuery, day, models.Row, is_list=True),
    Endpoint(("/candles",), CandleQuery, candle_table, CandleRow, is_list=True, is_table=True),
    Endpoint(("/tickers",), TableQuery, ticker_table, TickerRow, is_list=True, is_table=True),
    Endpoint(("/coverage",), WindowQuery, coverage_table, CoverageRow, is_list=True, is_table=True),
    Endpoint(
        ("/fetch-prices",),
        models.FetchQuery,
        fetch,
        models.Receipt,
        error_statuses=(401, 403, 404, 422, 429, 500, 503, 504),
        success_status=202,
    ),
)


def routes(connections: ConcurrencyLimiter) -> list[Route]:
    """Returns all REST routes. `connections` limits the open downloads."""
    table = [endpoint.route(path, connections) for endpoint in ENDPOINTS for path in endpoint.paths]
    download = Route("/export", partial(export, connections=connections), methods=["GET"])
    return [*table, download, Route("/health", health, methods=["GET"])]


async def _stream_rows(
    context: Context, ticker: str, low: int, high: int, snapshot: Snapshot | None
) -> AsyncGenerator[bytes, None]:
    """Yields a JSON list of all rows, two weeks per statement, so that no statement waits for a slow client."""
    begin, end = await history_export.extent(context.db, ticker, low, high, snapshot) or (high, high)
    separator, prepaid_rows = b"[", MAX_RANGE_MINUTES
    for start in range(begin, end, history_export.SLICE_S):
        until = min(end, start + history_export.SLICE_S)
        text = await prices.window_json(context.db, ROW_SHAPE, ticker, start, until, newest_first=False, snapshot=snapshot)
        rows = text.count(b"{")
        await context.charge_gradually(max(0, rows - prepaid_rows) * FIELD_COUNT)
        prepaid_rows = max(0, prepaid_rows - rows)
        if rows:
            yield separator + text[1:-1]
            separator = b","
    await context.require_snapshots_retained()  # an error ends the connection before the response is complete
    yield b"[]" if separator == b"[" else b"]"


def _next_url(url: URL, next_params: dict[str, int]) -> str:
    params = MultiDict(QueryParams(url.query))
    for name, value in next_params.items():
        params[name] = str(value)
    return f"{url.path}?{QueryParams(params)}"


def _json(content: dict[str, Any] | str, status: int, headers: dict[str, str]) -> Response:
    body = content if isinstance(content, str) else orjson.dumps(content)
    return Response(body, status, media_type="application/json", headers=headers)


def _reject_cross_site(request: Request, context: Context) -> None:
    """Rejects cross-site requests if ADMIN_TOKEN is not set: a page of another site can make browsers send a GET request."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    if not context.needs_admin_token and site not in ("same-origin", "none"):
        raise ForbiddenError("Fetch requests from other sites are forbidden: set ADMIN_TOKEN and send it")
