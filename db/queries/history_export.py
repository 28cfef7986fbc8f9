"""Export of a ticker's history. PostgreSQL formats CSV or JSON Lines, two weeks per statement, so that no statement waits
for a slow client.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple, Self

from db import times
from db.pool import Executor
from db.queries.prices import JSON_COLUMNS, observed_sql
from db.queries.shapes import iso_time_sql
from db.queries.snapshots import Snapshot, rewrite

SLICE_S: Final = 14 * times.DAY

DEFAULT_COLUMNS: Final = ("ticker", "ts", "price", "observed_at", "source", "original_source")
RANGE_COLUMNS: Final = (
    "open",
    "high",
    "low",
    "close",
    "twap",
    "ticks",
    "watched_s",
    "longest_silence_s",
    "opened_ms",
    "closed_ms",
    "range_source",
)
"""Columns of the range of the minute; empty if it has none."""
DAY_COLUMNS: Final = (*DEFAULT_COLUMNS, "peer", *RANGE_COLUMNS)
"""All columns with data of their own. A change of them changes every digest of a day."""
COLUMNS: Final = (*DAY_COLUMNS, "time")
"""All columns. `time` is `ts` as ISO 8601."""
ARROW_DEFAULT_COLUMNS: Final = tuple("time" if name == "ts" else name for name in DEFAULT_COLUMNS)

EXTENT: Final = """
SELECT min(ts) AS low, max(ts) + 60 AS high FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3
"""

# The statement returns all lines as one text. COPY cannot be cancelled without closing its connection. The CHECKs of the
# tables guarantee that no name or price needs quoting.
_LINES: Final = """
SELECT coalesce(string_agg({line}, E'\\n') || E'\\n', '')
  FROM (SELECT {columns} FROM price {ranges} WHERE price.ticker = $1 AND price.ts >= $2 AND price.ts < $3 ORDER BY price.ts)
       AS price
"""

_SIZES: Final = """
SELECT greatest(ts / $4 * $4, $2) AS low, least(ts / $4 * $4 + $4, $3) AS high, sum(octet_length({line}) + 1) AS size
  FROM (SELECT {columns} FROM price {ranges} WHERE price.ticker = $1 AND price.ts >= $2 AND price.ts < $3) AS price
 GROUP BY ts / $4
 ORDER BY low
"""

# The bounds on the ranges let the planner merge two scans of primary keys.
_RANGES: Final = """LEFT JOIN minute_range AS r ON r.ticker = price.ticker AND r.ts = price.ts
                                AND r.ticker = $1 AND r.ts >= $2 AND r.ts < $3"""

_CSV_SQL: Final = {
    "ticker": "ticker",
    "ts": "ts",
    "time": f"{iso_time_sql('ts')} || 'Z'",
    "price": "price",
    "observed_at": f"coalesce({observed_sql}, '')",
    "source": "source",
    "original_source": "coalesce(original_source::text, '')",
    "peer": "coalesce(peer, '')",
    **{name: f"coalesce({name}::text, '')" for name in RANGE_COLUMNS},
}
"""SQL expressions of the values in CSV."""

_JSON_SQL: Final = {
    "ticker": """'"' || ticker || '"'""",
    "ts": "ts",
    "time": f"""'"' || {iso_time_sql("ts")} || 'Z"'""",
    "price": """'"' || price || '"'""",
    "observed_at": JSON_COLUMNS["observed_us"].sql,
    "source": """'"' || source || '"'""",
    "original_source": JSON_COLUMNS["original_source"].sql,
    "peer": JSON_COLUMNS["peer"].sql,
    **{
        name: f"""coalesce('"' || {name} || '"', 'null')""" for name in ("open", "high", "low", "close", "twap", "range_source")
    },
    **{
        name: f"coalesce({name}::text, 'null')"
        for name in ("ticks", "watched_s", "longest_silence_s", "opened_ms", "closed_ms")
    },
}
"""SQL expressions of the values in JSON."""

_RANGE_SQL: Final = {name: f"r.{name}" for name in RANGE_COLUMNS} | {
    "longest_silence_s": "trim_scale(r.longest_silence_ms / 1000.0)",
    "range_source": "r.source",
}


class ExportFormat(StrEnum):
    """File format of an export."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"
    """Arrow's IPC streaming format."""

    @property
    def is_binary(self) -> bool:
        """Whether `db.arrow` encodes it, from CSV."""
        return self in (ExportFormat.PARQUET, ExportFormat.ARROW)


def parse_columns(columns: str | None, known: Sequence[str], defaults: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of a list of columns, separated by commas. Raises ValueError if one is unknown or repeated."""
    names = defaults if columns is None else tuple(name.strip() for name in columns.split(","))
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        problem = f"{unknown[0][:40]!r} is not a column" if unknown else "a column is repeated"
        raise ValueError(f"{problem}; use some of {', '.join(known)}")
    return names


@dataclass(frozen=True)
class ExportShape:
    """The format and the columns of an export."""

    format: ExportFormat
    columns: tuple[str, ...] = DEFAULT_COLUMNS

    @classmethod
    def parse(cls, export_format: str, columns: str | None) -> Self:
        """Returns the shape of a format and a list of columns, separated by commas. Raises ValueError if one is invalid."""
        defaults = ARROW_DEFAULT_COLUMNS if ExportFormat(export_format).is_binary else DEFAULT_COLUMNS
        return cls(ExportFormat(export_format), parse_columns(columns, COLUMNS, defaults))

    @cached_property
    def header(self) -> bytes:
        """The first line; empty if the format has none."""
        return (",".join(self.columns) + "\n").encode() if self.format is ExportFormat.CSV else b""

    @cached_property
    def lines_sql(self) -> str:
        """The statement that returns the lines of a window. Parameters: ticker, first minute, end."""
        return self._format(_LINES)

    @cached_property
    def sizes_sql(self) -> str:
        """The statement that returns the sizes of slices of a window. Parameters: those of `lines_sql`, seconds of a slice."""
        return self._format(_SIZES)

    def _format(self, template: str) -> str:
        if self.format is not ExportFormat.JSONL:
            line = " || ',' || ".join(_CSV_SQL[name] for name in self.columns)
        else:
            begins = "{", *itertools.repeat(",", len(self.columns) - 1)
            members = [f"""'{begin}"{name}":' || {_JSON_SQL[name]}""" for begin, name in zip(begins, self.columns, strict=True)]
            line = " || ".join([*members, "'}'"])
        selected = [name for name in self.columns if name in RANGE_COLUMNS]
        columns = ", ".join(["price.*", *(f"{_RANGE_SQL[name]} AS {name}" for name in selected)])
        return template.format(line=line, columns=columns, ranges=_RANGES if selected else "")


async def extent(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> tuple[int, int] | None:
    """Returns the first stored minute in [low, high) and the end of the last one, or None if none is stored."""
    row = await db.fetchrow(*rewrite(snapshot, EXTENT, ticker, low, high))
    return None if row is None or row["low"] is None else (row["low"], row["high"])


async def slices(
    db: Executor, shape: ExportShape, ticker: str, low: int, high: int, snapshot: Snapshot | None = None
) -> AsyncGenerator[tuple[float, bytes], None]:
    """Yields slices of the lines of [low, high), oldest first, each with the part that is done, from 0 to 1.

    Raises DatabaseError.
    """
    if shape.header:
        yield 0, shape.header
    start, end = await extent(db, ticker, low, high, snapshot) or (high, high)
    borders = [start, *range((start // SLICE_S + 1) * SLICE_S, end, SLICE_S), end]
    current: asyncio.Task[str] | None = None
    upcoming: asyncio.Task[str] | None = None
    try:
        # PostgreSQL formats the next slice while the client reads the current one. Each step starts one slice and yields the
        # previous one, which ends at `begin`. The pair (end, end) starts none and yields the last one.
        for begin, until in itertools.pairwise([*borders, end]):
            upcoming = asyncio.create_task(lines(db, shape, ticker, begin, until, snapshot)) if begin < until else None
            if current is not None:
                yield (begin - start) / (end - start), (await current).encode()
            current = upcoming
    finally:
        tasks = [task for task in (current, upcoming) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Slice(NamedTuple):
    """A part of an export: the lines of the minutes in [low, high)."""

    low: int
    high: int
    size: int
    """Length in bytes."""


async def slice_sizes(
    db: Executor, shape: ExportShape, ticker: str, low: int, high: int, snapshot: Snapshot | None = None
) -> list[Slice]:
    """Returns the slices of the export of [low, high), oldest first, without the header."""
    return [Slice(**row) for row in await db.fetch(*rewrite(snapshot, shape.sizes_sql, ticker, low, high, SLICE_S))]


def total_size(shape: ExportShape, slices: Sequence[Slice]) -> int:
    """Returns the length of the export with these slices in bytes, with the header."""
    return len(shape.header) + sum(part.size for part in slices)


async def byte_range(
    db: Executor,
    shape: ExportShape,
    ticker: str,
    slices: Sequence[Slice],
    first: int,
    last: int,
    snapshot: Snapshot | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yields the bytes of an export from `first` to `last`, inclusive. Reads only the slices that contain them.

    Raises DatabaseError, and ChangedExportError if the history has changed since its `slice_sizes`.
    """
    position = len(shape.header)
    if first < position:
        yield shape.header[first : last + 1]
    for part in slices:
        begin, position = position, position + part.size
        if first < position and begin <= last:
            text = (await lines(db, shape, ticker, part.low, part.high, snapshot)).encode()
            if len(text) != part.size:
                raise ChangedExportError(f"the history of {ticker} has changed during the download")
            yield text[max(0, first - begin) : last + 1 - begin]


class ChangedExportError(Exception):
    """Raised if prices were stored in a part of an export whose size was already sent."""


async def lines(db: Executor, shape: ExportShape, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> str:
    """Returns the lines of [low, high), at most about SLICE_S seconds, without the header."""
    text: str = await db.fetchval(*rewrite(snapshot, shape.lines_sql, ticker, low, high))
    return text


def file_name(ticker: str, export_format: ExportFormat, low: int, high: int) -> str:
    """Returns a file name such as `btc_usd_20240115T114000Z_20240116T000000Z.csv`, without unbounded ends."""
    ends = [
        "" if ts in (times.FIRST, times.END) else "_" + times.iso(ts).replace("-", "").replace(":", "") for ts in (low, high)
    ]
    return f"{ticker}{''.join(ends)}.{export_format}"
