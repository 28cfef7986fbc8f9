"""`GET /export`: streams the history of tickers as a file. Memory holds at most a few weeks of one."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final, Literal, Self

import orjson
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from db import arrow, times
from db.queries import exports, history_export, version
from db.queries.candles import Interval
from db.queries.exports import CANDLE_COLUMNS, Export, MinutesExport, WideExport
from db.queries.history_export import COLUMNS, DEFAULT_COLUMNS, ExportFormat, ExportShape
from db.queries.snapshots import Snapshot
from graph.engine.limits import MAX_RANGE_MINUTES
from graph.engine.tickers import require_known_tickers
from graph.engine.windows import Window
from graph.errors import BadInputError, NotAcceptableError
from graph.http.admission import ConcurrencyLimiter, hold_connection
from graph.http.caller import caching_headers, context_of
from graph.http.rest.models import EXAMPLE_END, EXAMPLE_START, AsOf, Instant, Query, TickerName, parse_query
from graph.schema.context import Context

MEDIA_TYPES: Final = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.JSONL: "application/jsonl; charset=utf-8",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
    ExportFormat.ARROW: "application/vnd.apache.arrow.stream",
}
LENGTH_COST: Final = 10_000
"""Cost of computing the length of an export, which reads all its rows but sends none."""


class ExportQuery(Query):
    """Parameters of an export: tickers, window, format."""

    ticker: list[TickerName] = Field(
        description="Deribit index name; repeat it for several tickers",
        min_length=1,
        max_length=exports.MAX_TICKERS,
        examples=[["btc_usd"]],
    )
    as_of: AsOf = None
    start: Instant | None = Field(
        None,
        alias="from",
        description="start of the range, inclusive. To resume a download, send the time after the last received row",
        examples=[EXAMPLE_START],
    )
    end: Instant | None = Field(
        None, alias="to", description="end of the range, exclusive; default: after the newest price", examples=[EXAMPLE_END]
    )
    format: Literal["csv", "jsonl", "parquet", "arrow"] = Field(
        "csv",
        description="`csv` with a header, `jsonl` with one object per line; with pyarrow on the server also `parquet`, "
        "and `arrow` (an IPC stream)",
        examples=["csv"],
    )
    columns: str | None = Field(
        None,
        description=f"columns, separated by commas: {', '.join(COLUMNS)}; default: {', '.join(DEFAULT_COLUMNS)}, in "
        "`parquet` and `arrow` with `time` instead of `ts`",
        examples=["ticker,time"],
    )
    layout: Literal["long", "wide"] = Field(
        "long",
        description="of several tickers: `long`, one after the other, or `wide`, a row for each minute with a column of prices "
        "for each ticker",
        examples=["long"],
    )
    interval: Literal[tuple(Interval.__members__)] | None = Field(  # type: ignore[valid-type]  # the names of the enum
        None,
        description="candles of this interval instead of minutes, with the columns ticker, ts or time, "
        f"{', '.join(CANDLE_COLUMNS)}",
        examples=["ONE_HOUR"],
    )

    digest: bool = Field(
        False,
        description="`true`: the last line, which begins with `#` in CSV, has the data version and the SHA-256 of the others",
        examples=["false"],
    )

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.layout == "wide" and (self.columns is not None or self.interval is not None):
            raise ValueError("layout=wide has one column of prices for each ticker: send no columns and no interval")
        if len(set(self.ticker)) < len(self.ticker):
            raise ValueError("ticker: a ticker is repeated")
        return self

    def content(self, now: int, snapshot_of: exports.SnapshotOf) -> Export:
        """Returns what the file contains. Raises BadInputError for an unknown or repeated column."""
        export_format = ExportFormat(self.format)
        if self.layout == "wide":
            return WideExport(export_format, self.ticker, snapshot_of)
        interval = None if self.interval is None else Interval[self.interval]
        try:
            return exports.build(
                export_format, self.ticker, columns=self.columns, interval=interval, now=now, snapshot_of=snapshot_of
            )
        except ValueError as error:
            raise BadInputError(f"columns: {error}") from None


async def export(request: Request, connections: ConcurrencyLimiter) -> Response:
    """Streams the history, oldest first. Every CSV file has a header."""
    query = parse_query(ExportQuery, request.query_params)
    window = Window.parse(query.start, query.end)
    export_format = ExportFormat(query.format)
    if export_format.is_binary and not arrow.is_available():
        raise NotAcceptableError(f"format={export_format} needs pyarrow on the server: pip install -r requirements-arrow.lock")
    if export_format.is_binary and query.digest:
        raise BadInputError("digest: a last line is possible only in csv and jsonl. Send the header `Want-Repr-Digest` instead")
    context = context_of(request)
    query.content(0, exports.newest)  # rejects wrong columns before anything is read
    # Byte ranges need the size of each part, which PostgreSQL computes for one ticker.
    is_plain = len(query.ticker) == 1 and query.layout == "long" and query.interval is None
    has_length = is_plain and not query.digest and not export_format.is_binary
    needs_length = has_length and (request.method == "HEAD" or "range" in request.headers)
    context.charge(LENGTH_COST if needs_length else MAX_RANGE_MINUTES)
    await require_known_tickers(context.db, query.ticker)
    wants_digest = _wants_digest(request.headers.get("Want-Repr-Digest", ""))
    if query.as_of is None and (wants_digest or query.digest):
        context.version = await version.current(context.db)  # both passes, or the line and its digest, read the same rows
    snapshots = {name: await context.snapshot(query.as_of, name, window.low, "as_of") for name in query.ticker}
    snapshot = snapshots[query.ticker[0]]
    content = query.content(times.minute_of(context.now()), exports.newest if snapshot is None else snapshots.__getitem__)
    source = ExportSource(context, content, window, snapshot, has_digest_line=query.digest)
    headers = caching_headers(request, is_repeatable=query.as_of is not None)
    if query.as_of is None:
        headers["Cache-Control"] = "no-store"
    headers["Vary"] += ", Want-Repr-Digest"
    subject = query.ticker[0] if len(query.ticker) == 1 else "prices"
    name = history_export.file_name(subject, export_format, window.low, window.high)
    headers["Content-Disposition"] = f'attachment; filename="{name}"'
    if snapshot is not None:
        headers["X-Data-Version"] = str(snapshot.id)
    if wants_digest:
        headers["Repr-Digest"] = await source.compute_digest()
    media_type = MEDIA_TYPES[export_format]
    if not has_length and request.method == "HEAD":
        return Response(media_type=media_type, headers=headers)
    if has_length:
        headers["Accept-Ranges"] = "bytes"
    if needs_length and isinstance(content, MinutesExport):
        return await _respond_with_length(request, source, content.shape, headers, connections)
    return DownloadResponse(source.stream(), connections, media_type=media_type, headers=headers)


@dataclass(frozen=True)
class ExportSource:
    """An export of a window. With `has_digest_line`, its last line has the SHA-256 of all lines before, and the version."""

    context: Context
    content: Export
    window: Window
    snapshot: Snapshot | None
    has_digest_line: bool = False

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yields the parts of the export, and charges their rows to the caller's budget."""
        digest = sha256()
        export_format = self.content.format
        # The first one imports pyarrow, which takes a while.
        encoder = await asyncio.to_thread(arrow.ArrowEncoder, self.content) if export_format.is_binary else None
        async with aclosing(self.content.slices(self.context.db, self.window.low, self.window.high)) as slices:
            prepaid_rows = MAX_RANGE_MINUTES
            async for _, written in slices:
                rows = written.count(b"\n") * self.content.row_cost
                await self.context.charge_gradually(max(0, rows - prepaid_rows))
                prepaid_rows = max(0, prepaid_rows - rows)
                if self.has_digest_line:
                    digest.update(written)
                yield written if encoder is None else await asyncio.to_thread(encoder.encode, written)
        await self.context.require_snapshots_retained()  # an error ends the connection before the response is complete
        if encoder is not None:
            yield encoder.finish()
        if self.has_digest_line and self.snapshot is not None:
            values = {"sha256": digest.hexdigest(), "data_version": str(self.snapshot.id)}
            is_csv = export_format is ExportFormat.CSV
            line = (
                "# " + " ".join(f"{name}={value}" for name, value in values.items())
                if is_csv
                else orjson.dumps(values).decode()
            )
            yield f"{line}\n".encode()

    async def compute_digest(self) -> str:
        """Returns the value of a Repr-Digest header (RFC 9530), from a first pass over all rows."""
        digest = sha256()
        async with aclosing(self.stream()) as parts:
            async for part in parts:
                digest.update(part)
        return f"sha-256=:{b64encode(digest.digest()).decode()}:"


def _wants_digest(header: str) -> bool:
    """Returns whether a Want-Repr-Digest header (RFC 9530, section 4) prefers SHA-256."""
    return re.search(r"(?:^|,)\s*sha-256\s*=\s*(?:[1-9]|10)\s*(?:,|$)", header) is not None


async def _respond_with_length(
    request: Request, source: ExportSource, shape: ExportShape, headers: dict[str, str], connections: ConcurrencyLimiter
) -> Response:
    """Responds to HEAD with the length, and to a range request (RFC 9110, section 14) with that part."""
    context, snapshot = source.context, source.snapshot
    (ticker,) = source.content.tickers
    etag = f'"{await version.current(context.db) if snapshot is None else snapshot.id}"'
    slices = await history_export.slice_sizes(context.db, shape, ticker, source.window.low, source.window.high, snapshot)
    await context.require_snapshots_retained()
    size = history_export.total_size(shape, slices)
    headers = {**headers, "ETag": etag}
    media_type = MEDIA_TYPES[shape.format]
    if request.method == "HEAD":
        return Response(media_type=media_type, headers={**headers, "Content-Length": str(size)})
    if request.headers.get("If-Match", etag) not in (etag, "*"):
        return Response(status_code=HTTPStatus.PRECONDITION_FAILED, headers=headers | {"Cache-Control": "no-store"})
    first, last = 0, size - 1
    status = HTTPStatus.OK
    if request.headers.get("If-Range", etag) == etag and (span := _parse_range(request.headers["Range"], size)):
        first, last = span
        if first >= size:
            headers |= {"Content-Range": f"bytes */{size}", "Cache-Control": "no-store"}
            return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last - first + 1)
    parts = history_export.byte_range(context.db, shape, ticker, slices, first, last, snapshot)
    lines = _charge_lines(context, parts)
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


async def _charge_lines(context: Context, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
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
