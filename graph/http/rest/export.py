"""`GET /export`: streams a ticker's history as a file. Memory holds at most a few weeks of it."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from db import times
from db.queries import history_export
from db.queries.history_export import ExportFormat
from graph.engine.limits import MAX_RANGE_MINUTES
from graph.engine.tickers import require_known_tickers
from graph.errors import BadInputError
from graph.http.admission import ConcurrencyLimiter, hold_connection
from graph.http.caller import caching_headers, context_of
from graph.http.rest.models import Instant, TickerQuery, parse_query
from graph.schema.context import Context

MEDIA_TYPES: Final = {ExportFormat.CSV: "text/csv; charset=utf-8", ExportFormat.JSONL: "application/jsonl; charset=utf-8"}


class ExportQuery(TickerQuery):
    """Parameters of an export: ticker, window, format."""

    start: Instant | None = Field(
        None,
        alias="from",
        description="start of the range, inclusive. To resume a download, send the time after the last received row",
        examples=[1705318800],
    )
    end: Instant | None = Field(
        None, alias="to", description="end of the range, exclusive; default: the newest price", examples=[1705322400]
    )
    format: Literal["csv", "jsonl"] = Field(
        "csv", description="`csv` with a header, or `jsonl` with one object per line", examples=["csv"]
    )


async def export(request: Request, connections: ConcurrencyLimiter) -> Response:
    """Streams the history, oldest first. Columns: see `history_export.COLUMNS`. Every CSV file has a header."""
    query = parse_query(ExportQuery, request.query_params)
    low = times.FIRST if query.start is None else query.start
    high = times.END if query.end is None else query.end
    if low >= high:
        raise BadInputError(f"from ({times.iso(low)}) must be before to ({times.iso(high)})")
    form = ExportFormat(query.format)
    context = context_of(request)
    context.charge(MAX_RANGE_MINUTES if request.method == "GET" else 1)
    await require_known_tickers(context.db, [query.ticker])
    headers = {
        "Content-Disposition": f'attachment; filename="{history_export.file_name(query.ticker, form, low, high)}"',
        **caching_headers(request),
        "Cache-Control": "no-store",
    }
    if request.method == "HEAD":  # the length is unknown before the file is written
        return Response(media_type=MEDIA_TYPES[form], headers=headers)
    lines = _stream_slices(context, form, query.ticker, low, high)
    return DownloadResponse(lines, connections, media_type=MEDIA_TYPES[form], headers=headers)


class DownloadResponse(StreamingResponse):
    """A streamed response that the client reads at its own pace. It holds a connection slot, not a request slot."""

    def __init__(self, lines: AsyncIterator[bytes], connections: ConcurrencyLimiter, **options: Any) -> None:
        super().__init__(lines, **options)
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with hold_connection(scope, self._connections):
            await super().__call__(scope, receive, send)


async def _stream_slices(context: Context, form: ExportFormat, ticker: str, low: int, high: int) -> AsyncIterator[bytes]:
    async with aclosing(history_export.slices(context.db, form, ticker, low, high)) as slices:
        charged_rows = MAX_RANGE_MINUTES
        async for _, written in slices:
            rows = written.count(b"\n")
            await context.charge_gradually(max(0, rows - charged_rows))
            charged_rows = max(0, charged_rows - rows)
            yield written
