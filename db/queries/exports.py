"""What an export contains: minutes of tickers below each other, their prices side by side, or candles."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

from db import times
from db.pool import Executor
from db.queries import candles, history_export
from db.queries.candles import Interval
from db.queries.history_export import ExportFormat, ExportShape
from db.queries.shapes import Shape
from db.queries.snapshots import Snapshot

MAX_TICKERS: Final = 200
"""Tickers of one export."""
CANDLES_PER_STATEMENT: Final = 5_000
CANDLE_COLUMNS: Final = ("open", "high", "low", "close", "twap", "count", "expected")
KNOWN_CANDLE_COLUMNS: Final = ("ticker", "ts", "time", *CANDLE_COLUMNS)
PRICE_COLUMNS: Final = frozenset({"price", "open", "high", "low", "close", "twap"})
"""Columns of prices. In a wide export, those named after tickers are as well."""

SnapshotOf = Callable[[str], Snapshot | None]
"""Returns the snapshot to read for a ticker; None for the newest data."""
Row = Mapping[str, str | int | None]


def newest(_ticker: str) -> None:
    """Reads the newest data of each ticker."""


class Export(Protocol):
    """The rows of a file."""

    @property
    def format(self) -> ExportFormat: ...

    @property
    def tickers(self) -> Sequence[str]: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def price_columns(self) -> frozenset[str]: ...

    @property
    def row_cost(self) -> int:
        """Number of stored rows that are read for one row of the file."""

    def slices(self, db: Executor, low: int, high: int) -> AsyncGenerator[tuple[float, bytes], None]:
        """Yields the lines of the rows in [low, high), each time with the part of the export that is done, from 0 to 1.

        The lines are CSV for the binary formats, without a header. Raises DatabaseError.
        """


@dataclass(frozen=True)
class MinutesExport:
    """The minutes of each ticker, one ticker after the other."""

    shape: ExportShape
    tickers: Sequence[str]
    snapshot_of: SnapshotOf = newest
    row_cost: int = 1
    price_columns: frozenset[str] = PRICE_COLUMNS

    @property
    def format(self) -> ExportFormat:
        return self.shape.format

    @property
    def columns(self) -> tuple[str, ...]:
        return self.shape.columns

    async def slices(self, db: Executor, low: int, high: int) -> AsyncGenerator[tuple[float, bytes], None]:
        """See `Export.slices`."""
        for number, ticker in enumerate(self.tickers):
            async with aclosing(history_export.slices(db, self.shape, ticker, low, high, self.snapshot_of(ticker))) as slices:
                async for done, lines in slices:
                    if not number or lines != self.shape.header:
                        yield (number + done) / len(self.tickers), lines


@dataclass(frozen=True)
class WideExport:
    """The prices of several tickers side by side: a row for each minute that one of them has."""

    format: ExportFormat
    tickers: Sequence[str]
    snapshot_of: SnapshotOf = newest

    @property
    def columns(self) -> tuple[str, ...]:
        return (_time_column(self.format), *self.tickers)

    @property
    def price_columns(self) -> frozenset[str]:
        return frozenset(self.tickers)

    @property
    def row_cost(self) -> int:
        return len(self.tickers)

    async def slices(self, db: Executor, low: int, high: int) -> AsyncGenerator[tuple[float, bytes], None]:
        """See `Export.slices`."""
        extents = [await history_export.extent(db, ticker, low, high, self.snapshot_of(ticker)) for ticker in self.tickers]
        stored = [extent for extent in extents if extent is not None]
        begin, end = min((one[0] for one in stored), default=high), max((one[1] for one in stored), default=high)
        # Memory holds as many prices as for one ticker, but at least a day of all tickers.
        step = max(times.DAY, history_export.SLICE_S // len(self.tickers) // times.DAY * times.DAY)
        shape = ExportShape(ExportFormat.CSV, ("ts", "price"))
        yield 0, _header(self)
        for start in range(begin, end, step):
            until = min(end, start + step)
            found = [
                await history_export.lines(db, shape, ticker, start, until, self.snapshot_of(ticker)) for ticker in self.tickers
            ]
            yield (until - begin) / (end - begin), await asyncio.to_thread(_encode_wide, self, found)


@dataclass(frozen=True)
class CandlesExport:
    """The closed candles of each ticker, one ticker after the other."""

    format: ExportFormat
    tickers: Sequence[str]
    columns: tuple[str, ...]
    interval: Interval
    now: int
    """The minute until which candles are closed, in UNIX seconds."""
    snapshot_of: SnapshotOf = newest
    price_columns: frozenset[str] = PRICE_COLUMNS

    @property
    def row_cost(self) -> int:
        span = self.interval.value
        return span.seconds // times.MINUTE if span.base == times.MINUTE or self.snapshot_of is not newest else 1

    async def slices(self, db: Executor, low: int, high: int) -> AsyncGenerator[tuple[float, bytes], None]:
        """See `Export.slices`."""
        step = CANDLES_PER_STATEMENT * self.interval.value.seconds
        members = [name for name in self.columns if name not in ("ticker", "time")]
        needed = members if "ts" in members or "time" not in self.columns else ["ts", *members]
        shape = Shape(tuple((name, candles.JSON_COLUMNS[name]) for name in needed))
        yield 0, _header(self)
        for number, ticker in enumerate(self.tickers):
            snapshot = self.snapshot_of(ticker)
            extent = await candles.extent(db, ticker, min(self.interval.ceil(high), times.END), snapshot)
            # The candle of the first minute begins before it, but is part of the export only if it begins in the window.
            begin, end = (max(low, self.interval.floor(extent[0])), min(high, extent[1])) if extent else (high, high)
            for start in range(begin, end, step):
                until = min(end, start + step)
                now = self.now if snapshot is None else snapshot.at
                text = await candles.fetch_json(db, self.interval, shape, ticker, start, until, now, snapshot=snapshot)
                lines = await asyncio.to_thread(_encode_candles, self, ticker, text)
                yield (number + (until - begin) / (end - begin)) / len(self.tickers), lines


def build(
    export_format: ExportFormat,
    tickers: Sequence[str],
    *,
    columns: str | None,
    interval: Interval | None,
    now: int,
    snapshot_of: SnapshotOf = newest,
) -> MinutesExport | CandlesExport:
    """Returns an export of minutes, or of candles. Raises ValueError if a column is unknown or repeated."""
    if interval is None:
        return MinutesExport(ExportShape.parse(export_format, columns), tickers, snapshot_of)
    defaults = ("ticker", _time_column(export_format), *CANDLE_COLUMNS)
    names = history_export.parse_columns(columns, KNOWN_CANDLE_COLUMNS, defaults)
    return CandlesExport(export_format, tickers, names, interval, now, snapshot_of)


def _time_column(export_format: ExportFormat) -> str:
    return "time" if export_format.is_binary else "ts"


def _header(export: Export) -> bytes:
    return (",".join(export.columns) + "\n").encode() if export.format is ExportFormat.CSV else b""


def _encode_wide(export: WideExport, found: Sequence[str]) -> bytes:
    minutes: dict[int, list[str | None]] = {}
    for number, text in enumerate(found):
        for line in text.splitlines():
            ts, _, price = line.partition(",")
            minutes.setdefault(int(ts), [None] * len(export.tickers))[number] = price
    name = _time_column(export.format)
    return _encode(
        export,
        (
            {name: times.iso(ts) if name == "time" else ts, **dict(zip(export.tickers, prices, strict=True))}
            for ts, prices in sorted(minutes.items())
        ),
    )


def _encode_candles(export: CandlesExport, ticker: str, text: str) -> bytes:
    has_time = "time" in export.columns
    return _encode(
        export,
        (row | {"ticker": ticker} | ({"time": times.iso(row["ts"])} if has_time else {}) for row in orjson.loads(text)),
    )


def _encode(export: Export, rows: Iterator[Row]) -> bytes:
    if export.format is ExportFormat.JSONL:
        return b"".join(orjson.dumps({name: row[name] for name in export.columns}) + b"\n" for row in rows)
    # No value contains a comma or a quote.
    lines = (",".join("" if (value := row[name]) is None else str(value) for name in export.columns) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()
