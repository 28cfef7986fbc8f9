"""Rows of time and price out of files: CSV, JSON Lines, either of them gzipped, their form found by looking."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

TIME_NAMES = ("ts", "time", "created_at", "timestamp")
PRICE_NAMES = ("price", "close")
TICKER_NAMES = ("ticker", "symbol", "index_name")
_DELIMITERS = ",;\t|"
MAX_LINE = 64 * 1024
"""Characters of a line that are read; a row has some dozens."""
_GZIP = b"\x1f\x8b"


class FormError(ValueError):
    """Raised where a file's form cannot be told, or lacks what is needed; the message says what would be right."""


class Raw(NamedTuple):
    """A row as it came, with the line it began on."""

    line: int
    time: str
    price: str


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    kind: str
    """`CSV` or `JSON Lines`."""
    delimiter: str
    time: str
    """Name of the column, or its number where there is no header."""
    price: str
    ticker: str | None
    header: bool

    def __str__(self) -> str:
        names = f"time from {self.time!r}, price from {self.price!r}"
        others = f", only rows whose {self.ticker!r} is the ticker" if self.ticker else ""
        how = "" if self.kind == "JSON Lines" else f", delimiter {self.delimiter!r}, {'a' if self.header else 'no'} header"
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
    skipped: Callable[[], int]
    """How many rows of other tickers were left out so far."""

    def position(self) -> int:
        """Bytes of it that were read."""
        return self.raw.tell()


@contextmanager
def opened(file: Path, ticker: str, *, time: str | None = None, price: str | None = None) -> Iterator[Opened]:
    """The file's rows of the ticker; `time` and `price` name the columns where their names are others.

    Raises FormError where its form cannot be told, OSError where it cannot be read.
    """
    with file.open("rb") as raw:
        head = raw.read(2)
        raw.seek(0)
        plain: IO[bytes] = gzip.GzipFile(fileobj=raw) if head == _GZIP else raw  # type: ignore[assignment]  # it is one
        text = io.TextIOWrapper(plain, encoding="utf-8-sig", errors="replace", newline="")
        first = text.readline(MAX_LINE)
        text.seek(0)
        lines = _Lines(_bounded(text), ticker)
        if first.lstrip().startswith("{"):
            form = _json_form(first, time, price)
            rows = lines.json(form)
        else:
            form, places = _csv_form(first, time, price)
            rows = lines.csv(form, places)
        yield Opened(form, rows, file.stat().st_size, raw, lambda: lines.skipped)


def _bounded(text: io.TextIOWrapper) -> Iterator[str]:
    """Its lines; of one that is too long the beginning, so that a few kilobytes of gzip cannot fill the memory."""
    while line := text.readline(MAX_LINE):
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = text.readline(MAX_LINE)
        yield line


class _Lines:
    """Rows out of lines, each line by itself: a stray quote in one hides none of the others."""

    def __init__(self, text: Iterable[str], ticker: str) -> None:
        self._text = text
        self._ticker = ticker
        self.skipped = 0

    def csv(self, form: Form, places: tuple[int, int, int | None]) -> Iterator[Raw]:
        time, price, name = places
        last = max(time, price, name or 0)
        for number, line in enumerate(self._text, start=1):
            plain = line.strip("\r\n")
            if not plain or (form.header and number == 1):
                continue
            cells = _cells(plain, form.delimiter)
            if len(cells) <= last:
                yield Raw(number, plain[:60], "")
            elif name is not None and cells[name] != self._ticker:
                self.skipped += 1
            else:
                yield Raw(number, cells[time], cells[price])

    def json(self, form: Form) -> Iterator[Raw]:
        for number, line in enumerate(self._text, start=1):
            if not line.strip():
                continue
            members = _object(line)
            if members is None:
                yield Raw(number, line.strip()[:60], "")
            elif form.ticker is not None and members.get(form.ticker) != self._ticker:
                self.skipped += 1
            else:
                yield Raw(number, str(members.get(form.time) or ""), str(members.get(form.price) or ""))


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


def _csv_form(first: str, time: str | None, price: str | None) -> tuple[Form, tuple[int, int, int | None]]:
    delimiter = max(_DELIMITERS, key=first.count)
    names = [cell.strip().lower() for cell in _cells(first.strip("\r\n"), delimiter)]
    if any(name[:1].isalpha() for name in names):
        found = columns(names, time, price)
        places = (names.index(found[0]), names.index(found[1]), None if found[2] is None else names.index(found[2]))
        return Form("CSV", delimiter, *found, header=True), places
    if len(names) < 2:  # noqa: PLR2004  time and price
        raise FormError(f"its first line, {first.strip()[:60]!r}, has neither a header nor two columns: time and price")
    return Form("CSV", delimiter, "1", "2", None, header=False), (0, 1, None)


def _json_form(first: str, time: str | None, price: str | None) -> Form:
    members = _object(first)
    if members is None:
        raise FormError(f"its first line, {first.strip()[:60]!r}, is no JSON object")
    return Form("JSON Lines", "", *columns(list(members), time, price), header=False)


def columns(names: Sequence[str], time: str | None, price: str | None) -> tuple[str, str, str | None]:
    """Which of the names, in lower case, are the time's, the price's, perhaps the ticker's. FormError where there is none."""
    return (
        _column(names, time, TIME_NAMES, "--time-column"),
        _column(names, price, PRICE_NAMES, "--price-column"),
        next((name for name in names if name in TICKER_NAMES), None),
    )


def _column(names: Sequence[str], wanted: str | None, usual: Sequence[str], option: str) -> str:
    if wanted is not None:
        wanted = wanted.lower()
        if wanted not in names:
            raise FormError(f"{option} {wanted}: there is no such column; there are {', '.join(names)}")
        return wanted
    for name in usual:
        if name in names:
            return name
    listed = ", ".join(names)[:200]
    raise FormError(f"none of its columns ({listed}) is called {' or '.join(usual)}: name it with {option}")
