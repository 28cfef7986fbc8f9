"""`GET /export`: a ticker's whole history as a file, in as little memory as some weeks of it take."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from db import times
from db.queries import exporting
from db.queries.exporting import Form
from graph.engine.knowledge import require_known
from graph.engine.limits import RANGE_MOST
from graph.errors import BadInputError
from graph.http.admission import Slots, held_open
from graph.http.caller import caching_headers, context_of
from graph.http.rest.models import Instant, TickerQuery, validated
from graph.schema.context import Context

MEDIA: Final = {Form.CSV: "text/csv; charset=utf-8", Form.JSONL: "application/jsonl; charset=utf-8"}


class ExportQuery(TickerQuery):
    """What is exported, and how."""

    start: Instant | None = Field(
        None,
        alias="from",
        description="first instant, itself in: to go on with a download, the end of what came",
        examples=[1705318800],
    )
    end: Instant | None = Field(
        None, alias="to", description="end, itself not in; default: all there is", examples=[1705322400]
    )
    format: Literal["csv", "jsonl"] = Field(
        "csv", description="`csv` with a header, or `jsonl`: an object a line", examples=["csv"]
    )


async def export(request: Request, connections: Slots) -> Response:
    """Streams the history, oldest first; columns ticker, ts, price, observed_at, source. Each CSV begins with its header."""
    query = validated(ExportQuery, request.query_params)
    low = times.FIRST if query.start is None else query.start
    high = times.END if query.end is None else query.end
    if low >= high:
        raise BadInputError(f"from: {times.iso(low)} should be before to: {times.iso(high)}")
    form = Form(query.format)
    context = context_of(request)
    context.spend(RANGE_MOST if request.method == "GET" else 1)
    await require_known(context.db, [query.ticker])
    headers = {
        "Content-Disposition": f'attachment; filename="{exporting.name(query.ticker, form, low, high)}"',
        **caching_headers(request),
        "Cache-Control": "no-store",
    }
    if request.method == "HEAD":  # how long it is is known once it is written
        return Response(media_type=MEDIA[form], headers=headers)
    lines = _lines(context, form, query.ticker, low, high)
    return Download(lines, connections, media_type=MEDIA[form], headers=headers)


class Download(StreamingResponse):
    """An answer that its client takes at its own pace."""

    def __init__(self, lines: AsyncIterator[bytes], connections: Slots, **options: Any) -> None:
        super().__init__(lines, **options)
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with held_open(scope, self._connections):
            await super().__call__(scope, receive, send)


async def _lines(context: Context, form: Form, ticker: str, low: int, high: int) -> AsyncIterator[bytes]:
    async with aclosing(exporting.slices(context.db, form, ticker, low, high)) as slices:
        paid = RANGE_MOST
        async for _, written in slices:
            rows = written.count(b"\n")
            await context.pay(max(0, rows - paid))
            paid = max(0, paid - rows)
            yield written
