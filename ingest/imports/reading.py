"""Rows of time and price out of files as they are published: CSV, JSON Lines or JSON, packed or not; looking tells which."""

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

from ingest.imports.rules import UNITS, is_same_minute

TIME_NAMES: Final = ("ts", "time", "created_at", "timestamp", "unix", "open_time", "open time", "datetime", "date")
PRICE_NAMES: Final = ("price", "close", "close_price")
TICKER_NAMES: Final = ("ticker", "symbol", "index_name", "pair", "instrument_name")
INSTANT_NAME: Final = "observed_at"
"""The instant inside the minute, in our own exports: it goes before the time where a row has one."""
NONE: Final = "none"
"""In the place of a column's name: there is none."""
MAX_LINE: Final = 64 * 1024
"""Characters of a line that are read; a row has some dozens."""
MAX_JSON: Final = 256 * 1024 * 1024
"""Characters of a file that is one JSON array, which is read as a whole."""
PREAMBLE_MOST: Final = 5
"""Lines before the header that are left out: an address, a comment."""
MET_MOST: Final = 20
_DELIMITERS: Final = ",;\t|"
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_NO_FORM: Final = {
    b"PAR1": "Parquet: duckdb -c \"COPY (SELECT * FROM 'FILE') TO 'history.csv'\" makes a CSV of it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save its sheet as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: `zstd -d FILE` unpacks it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
}


class FormError(ValueError):
    """Raised where a file's form cannot be told, or lacks what is needed; the message says what would be right."""


class BrokenError(Exception):
    """Raised where a file was cut off or is damaged, once what came before was read."""


class Raw(NamedTuple):
    """A row as it came, with the line it began on."""

    line: int
    time: str
    price: str


@dataclass(frozen=True)
class Wanted:
    """What a file is read for, as far as looking at it does not tell."""

    time: str | None = None
    """Name or number of the column, from 1 on."""
    price: str | None = None
    ticker_column: str | None = None
    """`none`: every row is of the ticker, whatever a column says."""
    ticker_value: str | None = None
    """What the ticker is called in the file."""
    decimal: str = "."
    unit: str | None = None
    """Of times: `s`, `ms`, `us` or `ns`; None: by each one's size."""


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    kind: str
    """`CSV`, `JSON Lines` or `JSON`."""
    delimiter: str
    time: str
    """Name of the column, or its number where there is no header."""
    price: str
    ticker: str | None
    header: bool
    unit: str | None = None
    """Of the first row's time; None where that is a date."""

    def __str__(self) -> str:
        unit = f" in {self.unit}" if self.unit else ""
        names = f"time from {self.time!r}{unit}, price from {self.price!r}"
        others = f", only rows whose {self.ticker!r} is the ticker" if self.ticker else ""
        how = f", delimiter {self.delimiter!r}, {'a' if self.header else 'no'} header" if self.kind == "CSV" else ""
        return f"{self.kind}{how}: {names}{others}"


@dataclass
class Opened:
    """A file being read."""

    form: Form
    rows: Iterator[Raw]
    """Those of the ticker, in the file's order; a row that cannot be read has no price."""
    size: int
    """Bytes on disk."""
    raw: IO[bytes]
    others: Counter[str]
    """Rows of other tickers that were left out so far, by what those are called in the file; of too many, the rest is `…`."""

    def position(self) -> int:
        """Bytes of it that were read."""
        return self.raw.tell()


@contextmanager
def opened(file: Path, ticker: str, wanted: Wanted | None = None) -> Iterator[Opened]:
    """The file's rows of the ticker. Raises FormError where its form cannot be told, OSError where it cannot be read."""
    with ExitStack() as stack:
        raw = stack.enter_context(file.open("rb"))
        text = stack.enter_context(_text(_plain(raw, file, stack)))
        reader = _Reader(ticker, wanted or Wanted())
        with _broken():
            form, rows = reader.read(text)
        yield Opened(form, _until_broken(rows), file.stat().st_size, raw, reader.others)


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, OSError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise BrokenError(str(error)) from error


def _until_broken(rows: Iterator[Raw]) -> Iterator[Raw]:
    with _broken():
        yield from rows


def _plain(raw: IO[bytes], file: Path, stack: ExitStack) -> IO[bytes]:
    """What is in the file once it is unpacked."""
    head = raw.read(6)
    raw.seek(0)
    for magic, why in _NO_FORM.items():
        if head.startswith(magic):
            raise FormError(f"is {why.replace('FILE', file.name)}")
    found: Any = raw
    if head.startswith(b"\x1f\x8b"):
        found = stack.enter_context(gzip.GzipFile(fileobj=raw))
    elif head.startswith(b"BZh"):
        found = stack.enter_context(bz2.BZ2File(raw))
    elif head.startswith(b"\xfd7zXZ"):
        found = lzma.open(raw)  # noqa: SIM115  it ends with the block, as the file below it does
    elif head.startswith(b"PK\x03\x04"):
        archive = stack.enter_context(zipfile.ZipFile(raw))
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        if "[Content_Types].xml" in names:
            raise FormError("is an Excel workbook: save its sheet as CSV")
        if len(names) != 1:
            raise FormError(f"holds {len(names)} files ({', '.join(names[:5])}): unpack it, and import them one by one")
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


def _bounded(text: io.TextIOWrapper) -> Iterator[str]:
    """Its lines; of one that is too long the beginning, so that a few kilobytes of gzip cannot fill the memory."""
    while line := text.readline(MAX_LINE):
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = text.readline(MAX_LINE)
        yield line


@dataclass
class _Places:
    """Where in a row of cells what is."""

    time: int
    price: int
    ticker: int | None
    instant: int | None = None

    @property
    def last(self) -> int:
        return max(self.time, self.price, self.ticker or 0, self.instant or 0)


@dataclass
class _Reader:
    """Rows out of lines, each line by itself: a stray quote in one hides none of the others."""

    ticker: str
    wanted: Wanted
    others: Counter[str] = field(default_factory=Counter)

    def read(self, text: io.TextIOWrapper) -> tuple[Form, Iterator[Raw]]:
        first = text.read(1)
        while first.isspace():
            first = text.read(1)
        if not first:
            raise FormError("is empty")
        if first == "[":
            return self._array(first + text.read(MAX_JSON))
        lines = _bounded(text)
        beginning = first + next(lines, "")
        if first == "{":
            return self._json_lines(chain([beginning], lines))
        return self._csv(beginning, lines)

    # CSV

    def _csv(self, beginning: str, lines: Iterator[str]) -> tuple[Form, Iterator[Raw]]:
        left_out = 0
        while left_out < PREAMBLE_MOST and (beginning.startswith("#") or not any(one in beginning for one in _DELIMITERS)):
            following = next(lines, None)
            if following is None:
                raise FormError(f"its line {beginning.strip()[:60]!r} has neither a header nor two columns: time and price")
            beginning, left_out = following, left_out + 1
        if self.wanted.decimal == "," and max(map(beginning.count, ";\t|")):
            delimiter = max(";\t|", key=beginning.count)
        else:
            delimiter = max(_DELIMITERS, key=beginning.count)
        cells = [cell.strip() for cell in _cells(beginning.strip("\r\n"), delimiter)]
        names = [cell.lower() for cell in cells]
        if any(_NUMBER.fullmatch(cell) for cell in cells):
            places = self._numbered(cells)
            form = self._form("CSV", delimiter, [str(number + 1) for number in range(len(cells))], places, header=False)
            unit, rows = _unit(cells[places.time], self.wanted), chain([beginning], lines)
        else:
            places = self._named(names)
            form = self._form("CSV", delimiter, names, places, header=True)
            second = next(lines, "")
            row = _cells(second.strip("\r\n"), delimiter)
            unit = _unit(row[places.time], self.wanted) if len(row) > places.last else None
            rows, left_out = chain([second], lines), left_out + 1
        cells_of = ((_cells(line.strip("\r\n"), delimiter), line) for line in rows)
        return dataclasses.replace(form, unit=unit), self._rows(cells_of, places, left_out + 1)

    def _rows(self, found: Iterable[tuple[Sequence[str], str]], places: _Places, first: int) -> Iterator[Raw]:
        """Those of the ticker, out of cells and the line that they were; the first is of line `first`."""
        comma = self.wanted.decimal == ","
        for number, (cells, line) in enumerate(found, start=first):
            if not line.strip():
                continue
            if len(cells) <= places.last:
                yield Raw(number, line.strip()[:60], "")
            elif places.ticker is not None and not self._is_of(cells[places.ticker]):
                self._leave_out(cells[places.ticker])
            else:
                price, time = cells[places.price], cells[places.time]
                if places.instant is not None and is_same_minute(cells[places.instant], time, self.wanted.unit):
                    time = cells[places.instant].strip()
                yield Raw(number, time, price.replace(",", ".") if comma else price)

    def _form(self, kind: str, delimiter: str, names: Sequence[str], places: _Places, *, header: bool) -> Form:
        return Form(
            kind,
            delimiter,
            names[places.time],
            names[places.price],
            None if places.ticker is None else names[places.ticker],
            header,
        )

    def _numbered(self, cells: Sequence[str]) -> _Places:
        """In a row without names: those that were given by number, or the two there are, or those of a known archive."""

        def place(option: str, given: str) -> int:
            if not given.isdecimal():
                raise FormError(f"has no header: give {option} the number of the column, from 1 to {len(cells)}, not {given!r}")
            if not 0 < int(given) <= len(cells):
                raise FormError(f"{option} {given}: its rows have {len(cells)} columns")
            return int(given) - 1

        time = 0 if self.wanted.time is None else place("--time-column", self.wanted.time)
        column = self.wanted.ticker_column
        ticker = None if column in (None, NONE) else place("--ticker-column", str(column))
        if self.wanted.price is not None:
            return _Places(time, place("--price-column", self.wanted.price), ticker)
        if len(cells) == 2:  # noqa: PLR2004  time and price
            return _Places(time, 1 - time, ticker)
        price = _price_of_archive(cells)
        if price is not None:
            return _Places(time, price, ticker)
        shown = ", ".join(f"{number}: {cell}" for number, cell in enumerate(cells[:12], 1))
        raise FormError(f"has {len(cells)} columns and no header ({shown}): say which is the price with --price-column NUMBER")

    def _named(self, names: Sequence[str]) -> _Places:
        time, price, ticker = columns(names, self.wanted)
        instant = names.index(INSTANT_NAME) if INSTANT_NAME in names and self.wanted.time is None else None
        return _Places(names.index(time), names.index(price), None if ticker is None else names.index(ticker), instant)

    # JSON

    def _json_lines(self, lines: Iterator[str]) -> tuple[Form, Iterator[Raw]]:
        first = next(lines)
        members = _object(first)
        if members is None:
            raise FormError(f"its first line, {first.strip()[:60]!r}, is no JSON object")
        return self._objects("JSON Lines", members, ((_object(line), line) for line in chain([first], lines)))

    def _array(self, text: str) -> tuple[Form, Iterator[Raw]]:
        try:
            found = json.loads(text, parse_float=str, parse_int=str)
        except (ValueError, RecursionError):
            raise FormError("is no JSON array, or a longer one than is read at once: `jq -c '.[]'` makes lines of it") from None
        if not found or not isinstance(found[0], list | dict):
            raise FormError("is a JSON array of neither rows nor objects")
        if isinstance(found[0], dict):
            first = {str(name).lower(): value for name, value in found[0].items()}
            objects = (
                {str(name).lower(): value for name, value in one.items()} if isinstance(one, dict) else None for one in found
            )
            return self._objects("JSON", first, ((one, str(one)[:60]) for one in objects))
        cells = [str(cell) for cell in found[0]]
        places = self._numbered(cells)
        form = self._form("JSON", "", [str(number + 1) for number in range(len(cells))], places, header=False)
        form = dataclasses.replace(form, unit=_unit(cells[places.time], self.wanted))
        rows = ([str(cell) for cell in one] if isinstance(one, list) else [] for one in found)
        return form, self._rows(((one, ",".join(one)[:60] or "no row") for one in rows), places, 1)

    def _objects(
        self, kind: str, first: dict[str, Any], found: Iterable[tuple[dict[str, Any] | None, str]]
    ) -> tuple[Form, Iterator[Raw]]:
        names = list(first)
        places = self._named(names)
        form = self._form(kind, "", names, places, header=False)
        form = dataclasses.replace(form, unit=_unit(str(first[form.time]), self.wanted))

        def rows() -> Iterator[tuple[Sequence[str], str]]:
            for members, line in found:
                yield ([] if members is None else [str(members.get(name) or "") for name in names]), line

        return form, self._rows(rows(), places, 1)

    def _is_of(self, name: str) -> bool:
        """Whether a name in the file is the ticker's, however it is spelled: `BTC/USD`, `BTCUSD`, `btc-usd`."""
        if self.wanted.ticker_value is not None:
            return name.strip() == self.wanted.ticker_value
        return _letters(name) == _letters(self.ticker)

    def _leave_out(self, name: str) -> None:
        """Counts a row of another ticker."""
        shown = name.strip()[:40]
        self.others[shown if shown in self.others or len(self.others) < MET_MOST else "…"] += 1


def columns(names: Sequence[str], wanted: Wanted) -> tuple[str, str, str | None]:
    """Which of the names, in lower case, are the time's, the price's, perhaps the ticker's. FormError where there is none."""
    if wanted.ticker_column == NONE:
        ticker = None
    elif wanted.ticker_column is not None:
        ticker = _column(names, wanted.ticker_column, TICKER_NAMES, "--ticker-column")
    else:
        ticker = next((name for name in names if name in TICKER_NAMES), None)
    return (
        _column(names, wanted.time, TIME_NAMES, "--time-column"),
        _column(names, wanted.price, PRICE_NAMES, "--price-column"),
        ticker,
    )


def _column(names: Sequence[str], wanted: str | None, usual: Sequence[str], option: str) -> str:
    listed = ", ".join(names)[:200]
    if wanted is not None:
        if wanted.lower() in names:
            return wanted.lower()
        if wanted.isdecimal() and 0 < int(wanted) <= len(names):
            return names[int(wanted) - 1]
        raise FormError(f"{option} {wanted}: there is no such column; there are {listed}")
    for name in usual:
        if name in names:
            return name
    raise FormError(f"none of its columns ({listed}) is called {' or '.join(usual)}: name it with {option}")


def _price_of_archive(cells: Sequence[str]) -> int | None:
    """Where the closing price is in a row of an archive that is known by its form; None where it is none.

    Binance's: twelve columns, the beginning first and the end in the seventh. ccxt's: time, open, high, low, close, volume,
    told from others of six columns by a high that is above the low.
    """
    if len(cells) == 12 and cells[0].isdecimal() and cells[6].isdecimal():  # noqa: PLR2004  theirs
        return 4 if int(cells[6]) > int(cells[0]) and len(cells[0]) == len(cells[6]) else None
    if len(cells) == 6 and all(_NUMBER.fullmatch(cell) for cell in cells):  # noqa: PLR2004  theirs
        opened_at, high, low, close = (float(cell.replace(",", ".")) for cell in cells[1:5])
        return 4 if high > low and high >= max(opened_at, close) and low <= min(opened_at, close) else None
    return None


def _unit(time: str, wanted: Wanted) -> str | None:
    text = time.strip()
    if wanted.unit is not None:
        return wanted.unit
    return next((unit for unit, (_, below) in UNITS.items() if int(text) < below), None) if text.isdecimal() else None


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
    """The members of a JSON object by their names in lower case; None where it is none."""
    try:
        # A price keeps its digits: never through float.
        members = json.loads(line, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    return {name.lower(): value for name, value in members.items()} if isinstance(members, dict) else None
