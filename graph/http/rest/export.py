"""`GET /export`: streams a ticker's history as a file. Memory holds at most a few weeks of it."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from db.queries import history_export, version
from db.queries.history_export import COLUMNS, DEFAULT_COLUMNS, ExportFormat, ExportShape, Slice
from graph.engine.limits import MAX_RANGE_MINUTES
from graph.engine.tickers import require_known_tickers
from graph.engine.windows import Window
from graph.errors import BadInputError
from graph.http.admission import ConcurrencyLimiter, hold_connection
from graph.http.caller import caching_headers, context_of
from graph.http.rest.models import EXAMPLE_END, EXAMPLE_START, Instant, TickerQuery, parse_query
from graph.schema.context import Context

MEDIA_TYPES: Final = {ExportFormat.CSV: "text/csv; charset=utf-8", ExportFormat.JSONL: "application/jsonl; charset=utf-8"}
LENGTH_COST: Final = 10_000
"""Cost of computing the length of an export, which reads all its rows but sends none."""


class ExportQuery(TickerQuery):
    """Parameters of an export: ticker, window, format."""

    start: Instant | None = Field(
        None,
        alias="from",
        description="start of the range, inclusive. To resume a download, send the time after the last received row",
        examples=[EXAMPLE_START],
    )
    end: Instant | None = Field(
        None, alias="to", description="end of the range, exclusive; default: after the newest price", examples=[EXAMPLE_END]
    )
    format: Literal["csv", "jsonl"] = Field(
        "csv", description="`csv` with a header, or `jsonl` with one object per line", examples=["csv"]
    )
    columns: str | None = Field(
        None,
        description=f"columns, separated by commas: {', '.join(COLUMNS)}; default: {', '.join(DEFAULT_COLUMNS)}",
        examples=[",".join(DEFAULT_COLUMNS)],
    )

    @property
    def shape(self) -> ExportShape:
        """The format and the columns. Raises BadInputError for an unknown or repeated column."""
        try:
            return ExportShape.parse(self.format, self.columns)
        except ValueError as error:
            raise BadInputError(f"columns: {error}") from None


async def export(request: Request, connections: ConcurrencyLimiter) -> Response:
    """Streams the history, oldest first. Every CSV file has a header."""
    query = parse_query(ExportQuery, request.query_params)
    window = Window.parse(query.start, query.end)
    low, high = window.low, window.high
    shape = query.shape
    context = context_of(request)
    needs_length = request.method == "HEAD" or "range" in request.headers
    context.charge(LENGTH_COST if needs_length else MAX_RANGE_MINUTES)
    await require_known_tickers(context.db, [query.ticker])
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{history_export.file_name(query.ticker, shape.format, low, high)}"',
        **caching_headers(request),
        "Cache-Control": "no-store",
    }
    if needs_length:
        return await _respond_with_length(request, context, shape, query.ticker, low, high, headers, connections)
    lines = _stream_slices(context, shape, query.ticker, low, high)
    return DownloadResponse(lines, connections, media_type=MEDIA_TYPES[shape.format], headers=headers)


async def _respond_with_length(
    request: Request,
    context: Context,
    shape: ExportShape,
    ticker: str,
    low: int,
    high: int,
    headers: dict[str, str],
    connections: ConcurrencyLimiter,
) -> Response:
    """Responds to HEAD with the length, and to a range request (RFC 9110, section 14) with that part."""
    etag = f'"{await version.current(context.db)}"'
    slices = await history_export.slice_sizes(context.db, shape, ticker, low, high)
    size = history_export.total_size(shape, slices)
    headers = {**headers, "ETag": etag}
    media_type = MEDIA_TYPES[shape.format]
    if request.method == "HEAD":
        return Response(media_type=media_type, headers={**headers, "Content-Length": str(size)})
    if request.headers.get("If-Match", etag) not in (etag, "*"):
        return Response(status_code=HTTPStatus.PRECONDITION_FAILED, headers=headers)
    first, last = 0, size - 1
    status = HTTPStatus.OK
    if request.headers.get("If-Range", etag) == etag and (span := _parse_range(request.headers["Range"], size)):
        first, last = span
        if first >= size:
            headers["Content-Range"] = f"bytes */{size}"
            return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last - first + 1)
    lines = _stream_bytes(context, shape, ticker, slices, first, last)
    return DownloadResponse(lines, connections, status_code=status, media_type=media_type, headers=headers)


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Returns the first and the last byte of a single range. None for any other header, which is ignored."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if found is None or found[0].endswith("=-"):
        return None
    begin, end = found[1], found[2]
    if not begin:
        return max(0, size - int(end)), size - 1
    last = min(int(end), size - 1) if end else size - 1
    return (int(begin), last) if int(begin) <= last or int(begin) >= size else None


async def _stream_bytes(
    context: Context, shape: ExportShape, ticker: str, slices: Sequence[Slice], first: int, last: int
) -> AsyncGenerator[bytes, None]:
    async with aclosing(history_export.byte_range(context.db, shape, ticker, slices, first, last)) as parts:
        async for part in parts:
            await context.charge_gradually(part.count(b"\n"))
            yield part


class DownloadResponse(StreamingResponse):
    """A streamed response that the client reads at its own pace. It holds a connection slot, not a request slot."""

    def __init__(self, lines: AsyncGenerator[bytes, None], connections: ConcurrencyLimiter, **options: Any) -> None:
        super().__init__(lines, **options)
        self._lines = lines
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # After a disconnect, closes the nested generators from the outside in. The garbage collector has no order.
        async with aclosing(self._lines):
            with hold_connection(scope, self._connections):
                await super().__call__(scope, receive, send)


async def _stream_slices(context: Context, shape: ExportShape, ticker: str, low: int, high: int) -> AsyncGenerator[bytes, None]:
    async with aclosing(history_export.slices(context.db, shape, ticker, low, high)) as slices:
        prepaid_rows = MAX_RANGE_MINUTES
        async for _, written in slices:
            rows = written.count(b"\n")
            await context.charge_gradually(max(0, rows - prepaid_rows))
            prepaid_rows = max(0, prepaid_rows - rows)
            yield written
