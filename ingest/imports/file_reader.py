"""Reads rows of time and price from CSV, JSON Lines or JSON files, compressed or not. Detects the format from the content."""

import bz2
import csv
import dataclasses
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from db.rows import Source
from ingest.imports.columns import PRICE_NAMES, TICKER_NAMES, TIME_NAMES, UNITS
from ingest.imports.rules import is_same_minute

OBSERVED_AT_NAME: Final = "observed_at"
"""The column of Tickgraph's own exports with the time inside the minute. If both lie in the same minute, it is used instead
of the detected time column."""
SOURCE_NAMES: Final = ("original_source", "source")
"""The columns of Tickgraph's own exports with the source of the price. The first that is not empty applies."""
CANDLE_NAMES: Final = ("open", "high", "low")
"""The columns of a candle, with `close`. Without `close` they may be statistics of a longer time."""
NONE: Final = "none"
"""Used instead of a column name: there is no such column."""
MAX_LINE_CHARS: Final = 64 * 1024
"""The rest of a longer line is skipped. A row has a few dozen characters."""
MAX_JSON_CHARS: Final = 256 * 1024 * 1024
"""Maximum length of a JSON array, which is read at once."""
MAX_PREAMBLE_LINES: Final = 5
"""Lines before the header that are skipped, such as a URL or a comment."""
MAX_OTHER_TICKERS: Final = 20
_DELIMITERS: Final = ",;\t|"
_SOURCES: Final = frozenset(Source)
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_UNSUPPORTED_FORMATS: Final = {
    b"PAR1": "Parquet: convert it to CSV with duckdb -c \"COPY (SELECT * FROM 'FILE') TO 'history.csv'\"",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save its sheet as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: decompress it with `zstd -d FILE`",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
}


class FileFormatError(ValueError):
    """Raised when a file's format is unknown or a required column is missing. The message says how to fix it."""


class DamagedFileError(Exception):
    """Raised when a file is truncated or damaged, after the rows before the damage were read."""


class RawRow(NamedTuple):
    """A row that is not validated yet, with its line number."""

    line: int
    time: str
    price: str
    is_exact: bool = False
    """Whether the time is the `observed_at` of Tickgraph's own export: it is exact even if its seconds are 0."""
    source: str | None = None
    """`LIVE`, `BACKFILL` or `IMPORT` if Tickgraph exported the row; becomes `original_source` of the price."""
    candle: tuple[str, str, str, str] | None = None
    """Open, high, low and close, if the file has them."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a file. What is None is detected."""

    time: str | None = None
    """Name of the column, or its number from 1."""
    price: str | None = None
    ticker_column: str | None = None
    """`none`: every row belongs to the ticker."""
    ticker_value: str | None = None
    """The name of the ticker in the file."""
    decimal: str = "."
    unit: str | None = None
    """Unit of UNIX times: `s`, `ms`, `us` or `ns`; None: by the size of each time."""


@dataclass(frozen=True)
class FileFormat:
    """The format of a file."""

    kind: str
    """`CSV`, `JSON Lines` or `JSON`."""
    delimiter: str
    time: str
    """Name of the column, or its number if there is no header."""
    price: str
    ticker: str | None
    header: bool
    unit: str | None = None
    """Unit of the first row's time; None if it is a date."""

    def __str__(self) -> str:
        unit = f" in {self.unit}" if self.unit else ""
        names = f"time from {self.time!r}{unit}, price from {self.price!r}"
        ticker_filter = f", only rows whose {self.ticker!r} is the ticker" if self.ticker else ""
        how = f", delimiter {self.delimiter!r}, {'a' if self.header else 'no'} header" if self.kind == "CSV" else ""
        return f"{self.kind}{how}: {names}{ticker_filter}"


@dataclass
class PriceFile:
    """An open file of prices."""

    form: FileFormat
    rows: Iterator[RawRow]
    """The rows of the ticker in file order. An unreadable row has an empty price."""
    size: int
    """Size on disk, in bytes."""
    raw: IO[bytes]
    other_tickers: Counter[str]
    """Number of skipped rows of other tickers, by their name in the file. Beyond MAX_OTHER_TICKERS names, the rest is `…`."""

    def position(self) -> int:
        """Returns the number of bytes read so far."""
        return self.raw.tell()


@contextmanager
def open_price_file(file: Path, ticker: str, options: ReadOptions | None = None) -> Iterator[PriceFile]:
    """Opens a file of prices.

    Raises FileFormatError if its format is unknown, OSError if it cannot be opened, DamagedFileError if it
    is truncated or damaged, also while the rows are read.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(file.open("rb"))
        reader = _RowReader(ticker, options or ReadOptions())
        with _translate_read_errors():
            text = stack.enter_context(_text(_decompress(raw, file, stack)))
            form, rows = reader.read(text)
        yield PriceFile(form, _read_rows(rows), file.stat().st_size, raw, reader.other_tickers)


@contextmanager
def _translate_read_errors() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, OSError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DamagedFileError(str(error)) from error


def _read_rows(rows: Iterator[RawRow]) -> Iterator[RawRow]:
    with _translate_read_errors():
        yield from rows


def _decompress(raw: IO[bytes], file: Path, stack: ExitStack) -> IO[bytes]:
    """Returns the decompressed content of the file."""
    head = raw.read(6)
    raw.seek(0)
    for magic, hint in _UNSUPPORTED_FORMATS.items():
        if head.startswith(magic):
            raise FileFormatError(f"is {hint.replace('FILE', file.name)}")
    found: Any = raw
    if head.startswith(b"\x1f\x8b"):
        found = stack.enter_context(gzip.GzipFile(fileobj=raw))
    elif head.startswith(b"BZh"):
        found = stack.enter_context(bz2.BZ2File(raw))
    elif head.startswith(b"\xfd7zXZ"):
        found = lzma.open(raw)  # noqa: SIM115  it is closed with the file below it
    elif head.startswith(b"PK\x03\x04"):
        archive = stack.enter_context(zipfile.ZipFile(raw))
        names = [item.filename for item in archive.infolist() if not item.is_dir()]
        if "[Content_Types].xml" in names:
            raise FileFormatError("is an Excel workbook: save its sheet as CSV")
        if len(names) != 1:
            raise FileFormatError(
                f"holds {len(names)} files ({', '.join(names[:5])}): unpack it and import each file separately"
            )
        found = archive.open(names[0])
    plain: IO[bytes] = found
    return plain


def _text(plain: IO[bytes]) -> io.TextIOWrapper:
    buffered = io.BufferedReader(plain)  # type: ignore[type-var]  # each of them can be read into a buffer
    head = buffered.peek(4)[:4]
    encoding = "utf-8-sig"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(head) == 4 and head[1] == head[3] == 0:  # noqa: PLR2004  two characters
        encoding = "utf-16-le"
    elif len(head) == 4 and head[0] == head[2] == 0:  # noqa: PLR2004  likewise
        encoding = "utf-16-be"
    return io.TextIOWrapper(buffered, encoding=encoding, errors="replace", newline="")


def _read_bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yields the lines. Truncates long ones, so that a few kilobytes of gzip cannot fill the memory."""
    while line := text.readline(MAX_LINE_CHARS):
        rest = line
        while len(rest) == MAX_LINE_CHARS and not rest.endswith("\n"):
            rest = text.readline(MAX_LINE_CHARS)
        yield line


@dataclass
class _ColumnIndexes:
    """The indexes of the columns in a row of cells."""

    time: int
    price: int
    ticker: int | None
    observed_at: int | None = None
    sources: tuple[int, ...] = ()
    candle: tuple[int, ...] = ()
    """The columns open, high, low and close; empty if one of them is missing."""

    @property
    def last(self) -> int:
        return max(self.time, self.price, self.ticker or 0, self.observed_at or 0, *self.sources, *self.candle)


@dataclass
class _RowReader:
    """Reads rows from lines. Parses each line separately, so that a stray quote does not hide other lines."""

    ticker: str
    options: ReadOptions
    other_tickers: Counter[str] = field(default_factory=Counter)

    def read(self, text: io.TextIOWrapper) -> tuple[FileFormat, Iterator[RawRow]]:
        first = text.read(1)
        while first.isspace():
            first = text.read(1)
        if not first:
            raise FileFormatError("is empty")
        if first == "[":
            return self._array(first + text.read(MAX_JSON_CHARS))
        lines = _read_bounded_lines(text)
        first_line = first + next(lines, "")
        if first == "{":
            return self._json_lines(chain([first_line], lines))
        return self._csv(first_line, lines)

    # CSV

    def _csv(self, first_line: str, lines: Iterator[str]) -> tuple[FileFormat, Iterator[RawRow]]:
        skipped_count = 0
        while skipped_count < MAX_PREAMBLE_LINES and (
            first_line.startswith("#") or not any(item in first_line for item in _DELIMITERS)
        ):
            following = next(lines, None)
            if following is None:
                raise FileFormatError(
                    f"its line {first_line.strip()[:60]!r} has neither a header nor two columns: time and price"
                )
            first_line, skipped_count = following, skipped_count + 1
        if self.options.decimal == "," and max(map(first_line.count, ";\t|")):
            delimiter = max(";\t|", key=first_line.count)
        else:
            delimiter = max(_DELIMITERS, key=first_line.count)
        cells = [cell.strip() for cell in _cells(first_line.strip("\r\n"), delimiter)]
        names = [cell.lower() for cell in cells]
        if any(_NUMBER.fullmatch(cell) for cell in cells):
            indexes = self._indexes_by_number(cells)
            form = self._form("CSV", delimiter, [str(number + 1) for number in range(len(cells))], indexes, header=False)
            unit, rows = _unit(cells[indexes.time], self.options), chain([first_line], lines)
        else:
            indexes = self._indexes_by_name(names)
            form = self._form("CSV", delimiter, names, indexes, header=True)
            second = next(lines, "")
            row = _cells(second.strip("\r\n"), delimiter)
            unit = _unit(row[indexes.time], self.options) if len(row) > indexes.last else None
            rows, skipped_count = chain([second], lines), skipped_count + 1
        cells_of = ((_cells(line.strip("\r\n"), delimiter), line) for line in rows)
        return dataclasses.replace(form, unit=unit), self._rows(cells_of, indexes, skipped_count + 1)

    def _rows(self, found: Iterable[tuple[Sequence[str], str]], indexes: _ColumnIndexes, first: int) -> Iterator[RawRow]:
        """Yields the rows of the ticker from pairs of cells and line. `first` is the number of the first line."""
        comma = self.options.decimal == ","
        for number, (cells, line) in enumerate(found, start=first):
            if not line.strip():
                continue
            if len(cells) <= indexes.last:
                yield RawRow(number, line.strip()[:60], "")
            elif indexes.ticker is not None and not self._matches_ticker(cells[indexes.ticker]):
                self._count_other_ticker(cells[indexes.ticker])
            else:
                price, time = cells[indexes.price], cells[indexes.time]
                is_exact = indexes.observed_at is not None and is_same_minute(
                    cells[indexes.observed_at], time, self.options.unit
                )
                if is_exact and indexes.observed_at is not None:
                    time = cells[indexes.observed_at].strip()
                source = next((cells[index] for index in indexes.sources if cells[index] in _SOURCES), None)
                candle = tuple([cells[index].replace(",", ".") if comma else cells[index] for index in indexes.candle])
                has_candle = len(candle) == 4 and all(candle)  # noqa: PLR2004  open, high, low, close
                yield RawRow(
                    number,
                    time,
                    price.replace(",", ".") if comma else price,
                    is_exact,
                    source,
                    (candle[0], candle[1], candle[2], candle[3]) if has_candle else None,
                )

    def _form(self, kind: str, delimiter: str, names: Sequence[str], indexes: _ColumnIndexes, *, header: bool) -> FileFormat:
        return FileFormat(
            kind,
            delimiter,
            names[indexes.time],
            names[indexes.price],
            None if indexes.ticker is None else names[indexes.ticker],
            header,
        )

    def _indexes_by_number(self, cells: Sequence[str]) -> _ColumnIndexes:
        """Returns the column indexes of rows without a header: by the options, the number of columns, or a known format."""

        def column_index(option: str, value: str) -> int:
            if not value.isdecimal():
                raise FileFormatError(
                    f"has no header: give {option} the number of the column, from 1 to {len(cells)}, not {value!r}"
                )
            if not 0 < int(value) <= len(cells):
                raise FileFormatError(f"{option} {value}: its rows have {len(cells)} columns")
            return int(value) - 1

        time = 0 if self.options.time is None else column_index("--time-column", self.options.time)
        column = self.options.ticker_column
        ticker = None if column in (None, NONE) else column_index("--ticker-column", str(column))
        if self.options.price is not None:
            return _ColumnIndexes(time, column_index("--price-column", self.options.price), ticker)
        if len(cells) == 2:  # noqa: PLR2004  time and price
            return _ColumnIndexes(time, 1 - time, ticker)
        price = _closing_price_index(cells)
        if price is not None:
            return _ColumnIndexes(time, price, ticker, candle=(price - 3, price - 2, price - 1, price))
        shown = ", ".join(f"{number}: {cell}" for number, cell in enumerate(cells[:12], 1))
        raise FileFormatError(
            f"has {len(cells)} columns and no header ({shown}): name the price column with --price-column NUMBER"
        )

    def _indexes_by_name(self, names: Sequence[str]) -> _ColumnIndexes:
        time, price, ticker = columns(names, self.options)
        observed_at = names.index(OBSERVED_AT_NAME) if OBSERVED_AT_NAME in names and self.options.time is None else None
        sources = () if observed_at is None else tuple(names.index(name) for name in SOURCE_NAMES if name in names)
        candle = tuple(names.index(name) for name in CANDLE_NAMES if name in names)
        close = names.index("close") if "close" in names else None
        return _ColumnIndexes(
            names.index(time),
            names.index(price),
            None if ticker is None else names.index(ticker),
            observed_at,
            sources,
            (*candle, close) if close is not None and len(candle) == len(CANDLE_NAMES) else (),
        )

    # JSON

    def _json_lines(self, lines: Iterator[str]) -> tuple[FileFormat, Iterator[RawRow]]:
        first = next(lines)
        members = _object(first)
        if members is None:
            raise FileFormatError(f"its first line, {first.strip()[:60]!r}, is not a JSON object")
        return self._objects("JSON Lines", members, ((_object(line), line) for line in chain([first], lines)))

    def _array(self, text: str) -> tuple[FileFormat, Iterator[RawRow]]:
        try:
            found = json.loads(text, parse_float=str, parse_int=str)
        except (ValueError, RecursionError):
            raise FileFormatError("is not a JSON array, or is too long: convert it to JSON Lines with `jq -c '.[]'`") from None
        if not found or not isinstance(found[0], list | dict):
            raise FileFormatError("is a JSON array of neither rows nor objects")
        if isinstance(found[0], dict):
            first = {str(name).lower(): value for name, value in found[0].items()}
            objects = (
                {str(name).lower(): value for name, value in item.items()} if isinstance(item, dict) else None for item in found
            )
            return self._objects("JSON", first, ((item, str(item)[:60]) for item in objects))
        cells = [str(cell) for cell in found[0]]
        indexes = self._indexes_by_number(cells)
        form = self._form("JSON", "", [str(number + 1) for number in range(len(cells))], indexes, header=False)
        form = dataclasses.replace(form, unit=_unit(cells[indexes.time], self.options))
        rows = ([str(cell) for cell in item] if isinstance(item, list) else [] for item in found)
        return form, self._rows(((item, ",".join(item)[:60] or "no row") for item in rows), indexes, 1)

    def _objects(
        self, kind: str, first: dict[str, Any], found: Iterable[tuple[dict[str, Any] | None, str]]
    ) -> tuple[FileFormat, Iterator[RawRow]]:
        names = list(first)
        indexes = self._indexes_by_name(names)
        form = self._form(kind, "", names, indexes, header=False)
        form = dataclasses.replace(form, unit=_unit(str(first[form.time]), self.options))

        def rows() -> Iterator[tuple[Sequence[str], str]]:
            for members, line in found:
                yield ([] if members is None else [str(members.get(name) or "") for name in names]), line

        return form, self._rows(rows(), indexes, 1)

    def _matches_ticker(self, name: str) -> bool:
        """Returns whether a name in the file is the ticker's, in any spelling: `BTC/USD`, `BTCUSD`, `btc-usd`."""
        if self.options.ticker_value is not None:
            return name.strip() == self.options.ticker_value
        return _letters(name) == _letters(self.ticker)

    def _count_other_ticker(self, name: str) -> None:
        """Counts a row of another ticker."""
        shown = name.strip()[:40]
        self.other_tickers[shown if shown in self.other_tickers or len(self.other_tickers) < MAX_OTHER_TICKERS else "…"] += 1


def columns(names: Sequence[str], options: ReadOptions) -> tuple[str, str, str | None]:
    """Returns the columns of time, price and ticker (or None) among the lower-case names. Raises FileFormatError."""
    if options.ticker_column == NONE:
        ticker = None
    elif options.ticker_column is not None:
        ticker = _column(names, options.ticker_column, TICKER_NAMES, "--ticker-column")
    else:
        ticker = next((name for name in names if name in TICKER_NAMES), None)
    return (
        _column(names, options.time, TIME_NAMES, "--time-column"),
        _column(names, options.price, PRICE_NAMES, "--price-column"),
        ticker,
    )


def _column(names: Sequence[str], requested: str | None, usual: Sequence[str], option: str) -> str:
    listed = ", ".join(names)[:200]
    if requested is not None:
        if requested.lower() in names:
            return requested.lower()
        if requested.isdecimal() and 0 < int(requested) <= len(names):
            return names[int(requested) - 1]
        raise FileFormatError(f"{option} {requested}: there is no such column; the columns are {listed}")
    for name in usual:
        if name in names:
            return name
    raise FileFormatError(f"none of its columns ({listed}) is called {' or '.join(usual)}: name it with {option}")


def _closing_price_index(cells: Sequence[str]) -> int | None:
    """Returns the index of the closing price in a row of a known archive format; None for any other row.

    Binance: twelve columns, with the open time first and the close time seventh. ccxt: time, open, high, low, close, volume;
    the high must be above the low to distinguish it from other files of six columns.
    """
    if len(cells) == 12 and cells[0].isdecimal() and cells[6].isdecimal():  # noqa: PLR2004  Binance's columns
        return 4 if int(cells[6]) > int(cells[0]) and len(cells[0]) == len(cells[6]) else None
    if len(cells) == 6 and all(_NUMBER.fullmatch(cell) for cell in cells):  # noqa: PLR2004  ccxt's columns
        open_price, high, low, close = (float(cell.replace(",", ".")) for cell in cells[1:5])
        return 4 if high > low and high >= max(open_price, close) and low <= min(open_price, close) else None
    return None


def _unit(time: str, options: ReadOptions) -> str | None:
    text = time.strip()
    if options.unit is not None:
        return options.unit
    return next((unit for unit, (_, limit) in UNITS.items() if int(text) < limit), None) if text.isdecimal() else None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _cells(line: str, delimiter: str) -> list[str]:
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        return []


def _object(line: str) -> dict[str, Any] | None:
    """Returns the members of a JSON object by their lower-case names; None if the line is not an object."""
    try:
        # A price keeps its digits: never through float.
        members = json.loads(line, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    return {name.lower(): value for name, value in members.items()} if isinstance(members, dict) else None
