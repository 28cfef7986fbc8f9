"""What the REST paths answer, through the same functions of `db.queries` as GraphQL. Windows are inclusive at both ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.datastructures import URL, MultiDict, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from db import times
from db.queries import clock, coverage, exporting, prices
from graph.engine.knowledge import require_known, require_tracked
from graph.engine.limits import RANGE_MOST
from graph.errors import BadInputError, ForbiddenError, NotFoundError
from graph.http import answers
from graph.http.admission import Slots
from graph.http.caller import caching_headers, context_of
from graph.http.health import health
from graph.http.rest import models
from graph.http.rest.export import Download, export
from graph.http.rest.models import SHAPE, Query, validated
from graph.schema.context import Context

DAY = 86_400
FIELDS = len(models.Row.model_fields)
Answer = Callable[[Context, Any], Awaitable["Rows | Body"]]


@dataclass(frozen=True)
class Rows:
    """The JSON list of the prices of the minutes in [low, high); `onward` are the parameters that lead to the next, if any."""

    ticker: str
    low: int
    high: int
    text: str | None
    """None where they are too many to be held: they are sent as they are read."""
    onward: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Body:
    """One JSON object, as text or still to be made it."""

    content: dict[str, Any] | str
    status: int = 200


async def page(context: Context, query: models.PageQuery) -> Rows:
    """Prices, newest first, a page at a time."""
    high = times.END if query.start_date is None else query.start_date + 1
    context.spend(query.limit * FIELDS)
    found = await prices.listed(
        context.db, SHAPE, query.ticker, times.FIRST, high, newest_first=True, limit=query.limit, offset=query.offset
    )
    if found.low is None or found.high is None:
        await require_known(context.db, [query.ticker])
        return Rows(query.ticker, times.FIRST, times.FIRST if query.offset else high, found.text)
    if query.offset:
        high = found.high + times.MINUTE
    if not found.more:
        return Rows(query.ticker, times.FIRST, high, found.text)
    # Later pages start from where the first one did: what is stored meanwhile must not move them.
    start = query.start_date if query.start_date is not None else await _newest(context, query.ticker)
    onward = {"start_date": start, "limit": query.limit, "offset": query.offset + query.limit}
    return Rows(query.ticker, found.low, high, found.text, onward)


async def latest(context: Context, query: models.TickerQuery) -> Body:
    """The newest price."""
    text = await prices.latest_text(context.db, SHAPE, query.ticker, context.now())
    if text is None:
        await require_known(context.db, [query.ticker])
        raise NotFoundError(f"{query.ticker} has no price yet; try again in a minute")
    return Body(text)


async def filtered_window(context: Context, query: models.FilterQuery) -> Rows:
    """Prices from `date_from` to `date_to`, both in it, oldest first."""
    return await _window(context, query.ticker, ("date_from", query.date_from), ("date_to", query.date_to), query.limit)


async def range_window(context: Context, query: models.RangeQuery) -> Rows:
    """Prices from `from_ts` to `to_ts`, both in it, oldest first."""
    return await _window(context, query.ticker, ("from_ts", query.from_ts), ("to_ts", query.to_ts), query.limit)


async def minute(context: Context, query: models.MomentQuery) -> Body:
    """The price of a minute."""
    ts = times.minute_of(query.date)
    found = await prices.listed(context.db, SHAPE, query.ticker, ts, ts + times.MINUTE, newest_first=False)
    if found.low is None:
        await require_known(context.db, [query.ticker])
        raise NotFoundError(f"{query.ticker} has no price of {times.iso(ts)}")
    return Body(found.text[1:-1])


async def day(context: Context, query: models.DayQuery) -> Rows:
    """The prices of a day (UTC), oldest first."""
    start = times.parse(query.date.isoformat())
    context.spend(DAY // times.MINUTE * FIELDS)
    found = await prices.listed(context.db, SHAPE, query.ticker, start, start + DAY, newest_first=False)
    if found.low is None:
        await require_known(context.db, [query.ticker])
    return Rows(query.ticker, start, start + DAY, found.text)


async def fetch(context: Context, query: models.FetchQuery) -> Body:
    """Asks the workers for the prices of the current minute."""
    context.require_fetching()
    await require_tracked(context.resources.primary, query.ticker)
    minute = times.minute_of(await clock.now(context.resources.primary))
    receipt = await context.resources.collecting.request(minute, query.ticker)
    return Body(asdict(receipt), status=HTTPStatus.ACCEPTED)


async def _newest(context: Context, ticker: str) -> int:
    record = await prices.latest(context.db, ticker, context.now())
    return times.END - 1 if record is None else int(record["ts"])


async def _window(
    context: Context, ticker: str, start: tuple[str, int | None], end: tuple[str, int | None], limit: int | None
) -> Rows:
    low = times.FIRST if start[1] is None else start[1]
    high = times.END if end[1] is None else end[1] + 1
    if low >= high:
        raise BadInputError(f"{start[0]}: {times.iso(low)} should not be after {end[0]}: {times.iso(high - 1)}")
    most = limit or RANGE_MOST
    context.spend(min(most, (high - low) // times.MINUTE + 1) * FIELDS)
    begin, until = await exporting.extent(context.db, ticker, low, high) or (low, low) if limit is None else (low, low)
    if until - begin > RANGE_MOST * times.MINUTE:
        return Rows(ticker, low, high, None)
    found = await prices.listed(context.db, SHAPE, ticker, low, high, newest_first=False, limit=most)
    if found.high is None:
        await require_known(context.db, [ticker])
    if found.high is None or not found.more or limit is None:
        return Rows(ticker, low, high, found.text)
    onward = {start[0]: found.high + 1, "limit": limit}
    return Rows(ticker, low, onward[start[0]], found.text, onward | ({} if end[1] is None else {end[0]: end[1]}))


@dataclass(frozen=True)
class Endpoint:
    """A row of the table: paths, what is validated, what answers, and what the document says of it."""

    paths: tuple[str, ...]
    query: type[Query]
    answer: Answer
    model: type[BaseModel]
    many: bool = False
    statuses: tuple[int, ...] = (401, 404, 422, 429, 500, 503, 504)
    success: int = 200

    @property
    def summary(self) -> str:
        """The first line of what answers."""
        return (self.answer.__doc__ or "").strip().partition("\n")[0]

    @property
    def acts(self) -> bool:
        """Whether it sets something in motion, so that looking (HEAD) must not do it."""
        return self.success == HTTPStatus.ACCEPTED

    def route(self, path: str, connections: Slots) -> Route:
        """Its route at one of its paths. `connections`: places for answers that are taken slowly."""
        route = Route(path, partial(self.__call__, connections=connections), methods=["GET"])
        if self.acts and route.methods is not None:
            route.methods.discard("HEAD")  # Starlette adds it to every GET
        return route

    async def __call__(self, request: Request, connections: Slots) -> Response:
        """Validates, answers, encodes."""
        context = context_of(request)
        if self.acts:
            _refuse_other_sites(request, context)
        answered = await self.answer(context, validated(self.query, request.query_params))
        if isinstance(answered, Body):
            if isinstance(answered.content, str):
                answers.keep(request.scope, wanted=context.is_current)
            return _json(answered.content, answered.status, caching_headers(request))
        # Of an open window the coverage changes with the clock.
        is_over = answered.high <= times.minute_of(context.now())
        answers.keep(request.scope, wanted=context.is_current and is_over and answered.text is not None)
        covered = await coverage.count(context.db, answered.ticker, answered.low, answered.high, context.now())
        # What is stored though nobody expected it, the present minute among it, counts on both sides.
        beside = covered.extra + await prices.count_in(
            context.db, answered.ticker, covered.high, max(covered.high, answered.high)
        )
        headers = caching_headers(request) | {"X-Coverage": f"{covered.stored + beside}/{covered.expected + beside}"}
        if answered.onward:
            headers["Link"] = f'<{_onward(request.url, answered.onward)}>; rel="next"'
        if answered.text is None and request.method == "HEAD":
            return Response(media_type="application/json", headers=headers)
        if answered.text is None:
            lines = _streamed(context, answered.ticker, answered.low, answered.high)
            return Download(lines, connections, media_type="application/json", headers=headers | {"Cache-Control": "no-store"})
        return _json(answered.text, HTTPStatus.OK, headers)


ENDPOINTS = (
    Endpoint(("/prices", "/prices/all"), models.PageQuery, page, models.Row, many=True),
    Endpoint(("/prices/last", "/prices/latest"), models.TickerQuery, latest, models.Row),
    Endpoint(("/prices/filter",), models.FilterQuery, filtered_window, models.Row, many=True),
    Endpoint(("/prices/range",), models.RangeQuery, range_window, models.Row, many=True),
    Endpoint(("/prices/filtered",), models.MomentQuery, minute, models.Row),
    Endpoint(("/prices/by-date",), models.DayQuery, day, models.Row, many=True),
    Endpoint(
        ("/fetch-prices",),
        models.FetchQuery,
        fetch,
        models.Receipt,
        statuses=(401, 403, 404, 422, 429, 500, 503, 504),
        success=202,
    ),
)


def routes(connections: Slots) -> list[Route]:
    """The routes of the table. `connections`: places for downloads."""
    table = [endpoint.route(path, connections) for endpoint in ENDPOINTS for path in endpoint.paths]
    download = Route("/export", partial(export, connections=connections), methods=["GET"])
    return [*table, download, Route("/health", health, methods=["GET"])]


async def _streamed(context: Context, ticker: str, low: int, high: int) -> AsyncIterator[bytes]:
    """A JSON list of all rows, two weeks at a time, so that no statement waits for a reader."""
    begin, end = await exporting.extent(context.db, ticker, low, high) or (high, high)
    between, paid = b"[", RANGE_MOST
    for start in range(begin, end, exporting.SLICE_S):
        until = min(end, start + exporting.SLICE_S)
        text = await prices.window_text(context.db, SHAPE, ticker, start, until, newest_first=False)
        rows = text.count(b"{")
        await context.pay(max(0, rows - paid) * FIELDS)  # so many are paid for
        paid = max(0, paid - rows)
        if rows:
            yield between + text[1:-1]
            between = b","
    yield b"[]" if between == b"[" else b"]"


def _onward(url: URL, onward: dict[str, int]) -> str:
    kept = MultiDict(QueryParams(url.query))
    for name, value in onward.items():
        kept[name] = str(value)
    return f"{url.path}?{QueryParams(kept)}"


def _json(content: dict[str, Any] | str, status: int, headers: dict[str, str]) -> Response:
    body = content if isinstance(content, str) else orjson.dumps(content)
    return Response(body, status, media_type="application/json", headers=headers)


def _refuse_other_sites(request: Request, context: Context) -> None:
    """A page of another site can send its visitors' browsers to a GET. Where a token is needed, they cannot send that."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    if not context.needs_token_to_fetch and site not in ("same-origin", "none"):
        raise ForbiddenError("A page of another site may not ask for prices: set ADMIN_TOKEN and send it")
