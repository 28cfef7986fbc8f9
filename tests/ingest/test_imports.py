"""Imports read files in common formats, validate every row, and overwrite nothing."""

import bz2
import contextlib
import gzip
import lzma
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from db import times
from db.pool import Database
from db.queries import gaps, prices, ranges, write_lock
from db.queries.bulk_import import Row
from db.rows import PriceRow, Reason, Source
from ingest.imports.file_reader import DamagedFileError, FileFormatError, RawRow, ReadOptions, open_price_file
from ingest.imports.rules import parse_row
from ingest.imports.staging import StagedRows
from ingest.jobs.import_history import ImportResult, import_prices
from tests.sample_data import START_TS, minutes, row, store, track

NOW = START_TS + 10 * 366 * 86_400


def _rows(file: Path, ticker: str = "btc_usd", **options: str) -> tuple[str, list[RawRow]]:
    with open_price_file(file, ticker, ReadOptions(**options)) as found:
        return str(found.form), list(found.rows)


@pytest.mark.parametrize(
    "content",
    [
        "ts,price\n1705318800,68241.5\n1705318860,68242\n",
        "time;close\n1705318800;68241.5\n1705318860;68242\n",
        "price\tid\tcreated_at\n68241.5\t1\t1705318800\n68242\t2\t1705318860\n",
        "1705318800,68241.5\n1705318860,68242\n",
        '\ufeff"TS" , "Price"\r\n"1705318800","68241.5"\r\n\r\n"1705318860","68242"\r\n'.replace(" , ", ","),
        "ticker,ts,price\nbtc_usd,1705318800,68241.5\neth_usd,1705318800,9\nbtc_usd,1705318860,68242\n",
        '{"ts": 1705318800, "price": 68241.5}\n\n{"price": "68242", "ts": 1705318860}\n',
        """{"ticker": "btc_usd", "ts": 1705318800, "price": 68241.5}
{"ticker": "eth_usd", "ts": 1, "price": 2}
{"ticker": "btc_usd", "ts": 1705318860, "price": 68242}
""",
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_the_format_of_a_file_is_detected(tmp_path: Path, content: str, is_compressed: bool) -> None:
    file = tmp_path / "history"
    file.write_bytes(gzip.compress(content.encode()) if is_compressed else content.encode())
    _, rows = _rows(file)
    assert [(raw.time, raw.price) for raw in rows] == [("1705318800", "68241.5"), ("1705318860", "68242")]


def test_columns_with_unknown_names_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text("when,usd\n1705318800,68241.5\n")
    with pytest.raises(
        FileFormatError, match=r"none of its columns \(when, usd\) is called ts or time.*name it with --time-column"
    ):
        _rows(file)
    form, rows = _rows(file, time="when", price="usd")
    assert rows == [RawRow(2, "1705318800", "68241.5")]
    assert form == "CSV, delimiter ',', a header: time from 'when' in s, price from 'usd'"
    assert _rows(file, time="When", price="USD")[1] == rows
    with pytest.raises(FileFormatError, match="there is no such column; the columns are when, usd"):
        _rows(file, time="hour", price="usd")


@pytest.mark.parametrize("content", ["", "68241.5\n", '{"ts": 1, "price"\n', "hello\n"])
def test_a_file_without_a_known_format_is_rejected(tmp_path: Path, content: str) -> None:
    file = tmp_path / "history"
    file.write_text(content)
    with pytest.raises(FileFormatError):
        _rows(file)


def test_a_broken_line_hides_no_later_line(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    broken = b'nonsense\n\xff\xfe,2\n1705318860,"3\n1705318860,' + b"9" * 200_000
    file.write_bytes(b"ts,price\n1705318800,1\n" + broken + b"\n1705318920,3\n")
    _, rows = _rows(file)
    assert [raw.line for raw in rows if _is_valid(raw)] == [2, 5, 7]
    assert [raw.line for raw in rows] == [2, 3, 4, 5, 6, 7]
    (tmp_path / "history.jsonl").write_text('{"ts": 1705318800, "price": 1}\n[7]\n{\n{"TS": 1705318860, "price": 2}\n')
    _, rows = _rows(tmp_path / "history.jsonl")
    assert [raw.line for raw in rows if _is_valid(raw)] == [1, 4]


def test_a_truncated_row_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text("id,ts,price\n1700000001,1700000000,37000.5\n1700000002,1700000060\n")
    _, rows = _rows(file)
    assert [_is_valid(raw) for raw in rows] == [True, False]


def test_rows_of_other_tickers_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text("symbol,ts,price\nETH_USD,1700000000,1\nbtc_usd,1700000000,1\n")
    with open_price_file(file, "btc_usd") as found:
        assert len(list(found.rows)) == 1
        assert found.other_tickers == {"ETH_USD": 1}


async def test_a_minute_that_has_not_ended_is_rejected(db: Database) -> None:
    result, rejected = await _import(db, [(str(NOW - 60), "1"), (str(NOW), "1"), (str(NOW + 1), "1"), ("4102444800", "1")])
    assert (result.stored, result.duplicate, result.rejected) == (1, 0, 3)
    assert rejected[-1] == "4: '4102444800' lies in a minute that is not over yet"


def _is_valid(raw: RawRow) -> bool:
    try:
        parse_row(raw.time, raw.price)
    except ValueError:
        return False
    return True


TIMES = st.one_of(
    st.integers(-10, times.END + 10).map(str),
    st.integers(START_TS, START_TS + 10_000).map(str),
    st.decimals(START_TS, START_TS + 10_000, places=6).map(str),
    st.datetimes().map(lambda instant: instant.isoformat()),
    st.text(max_size=12),
)
PRICES = st.one_of(
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.decimals(Decimal("0.0001"), Decimal(10**6), places=6).map(lambda number: f"{number:f}"),
    st.integers(-5, 10**17).map(str),
    st.from_regex(r"0{0,3}[0-9]{1,16}(\.[0-9]{0,20})?", fullmatch=True),
    st.text(max_size=8),
)


@given(TIMES, PRICES)
def test_the_compiled_rules_accept_exactly_what_the_model_accepts(time: str, price: str) -> None:
    found: Row | None = None
    with contextlib.suppress(ValueError):
        found = parse_row(time, price)
    assert found == _parse_by_model(time, price)


def _parse_by_model(time: str, price: str) -> Row | None:
    """A slow and direct implementation of the same rules."""
    try:
        whole, _, fraction = time.strip().partition(".")
        if not (whole.isdigit() and (fraction or "0").isdigit()):
            whole, fraction = time.strip(), ""
        if whole.isdigit() and len(whole) > 8:
            value = Decimal(f"{whole}.{fraction or 0}")
            while value >= 10**11:  # milliseconds, microseconds, nanoseconds
                value /= 1_000
            second, fraction = times.parse(int(value)), f"{int(value % 1 * 10**6):06}"
        else:
            second = times.parse(whole)
        microsecond = second * 10**6 + int(f"{fraction[:6]:0<6}")
        if not fraction and "T" in time and "." in time:
            microsecond += int(f"{time.partition('.')[2][:6]:0<6}")
        price_row = PriceRow.model_validate(
            {
                "ticker": "btc_usd",
                "ts": second // 60 * 60,
                "price": Decimal(price),
                "observed_at": microsecond if microsecond % 60_000_000 else None,
                "source": "IMPORT",
            }
        )
    except (ValidationError, ValueError, ArithmeticError):
        return None
    return price_row.ts, f"{price_row.price:f}", price_row.observed_at, None, None


@pytest.mark.parametrize(
    ("time", "minute", "observed_at"),
    [
        ("1705318800", START_TS, None),
        ("1705318801", START_TS, (START_TS + 1) * 10**6),
        ("1705318859", START_TS, (START_TS + 59) * 10**6),
        ("1705318800.25", START_TS, START_TS * 10**6 + 250_000),
        ("2024-01-15T11:40:00Z", START_TS, None),
        ("2024-01-15 12:40:30.5+01:00", START_TS, START_TS * 10**6 + 30_500_000),
    ],
)
def test_a_time_is_rounded_down_to_its_minute_and_its_instant_is_stored(
    time: str, minute: int, observed_at: int | None
) -> None:
    assert parse_row(time, "1") == (minute, "1", observed_at, None, None)


@pytest.mark.parametrize(
    ("time", "price", "reason"),
    [
        ("yesterday", "1", "is not a valid time. Use UNIX seconds"),
        ("1705318800", "", "price '' is not a number"),
        ("1705318800", "0", "should be greater than 0"),
        ("1705318800", "-5", "should be greater than 0"),
        ("1705318800", "NaN", "price 'NaN'"),
        ("1705318800", "1.0000000000000000001", "at most 18 decimals"),
    ],
)
def test_the_error_of_an_invalid_row_names_the_problem(time: str, price: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_row(time, price)


@pytest.mark.parametrize(
    ("text", "expected"), [("68241.50", "68241.5"), ("007", "7"), ("60000.000", "60000"), ("5.9e-06", "0.0000059")]
)
def test_a_price_keeps_its_value_in_plain_notation(text: str, expected: str) -> None:
    assert parse_row("1705318800", text)[1] == expected


async def _import(db: Database, *batches: Sequence[tuple[str, str]], dry_run: bool = False) -> tuple[ImportResult, list[str]]:
    rejected: list[str] = []

    def numbered_rows() -> Iterator[Sequence[RawRow]]:
        line = 0
        for batch in batches:
            yield [RawRow(line + index, *pair) for index, pair in enumerate(batch, start=1)]
            line += len(batch)

    async def generate_batches() -> AsyncIterator[Sequence[RawRow]]:
        for batch in numbered_rows():
            yield batch

    def on_reject(raw: RawRow, reason: str) -> None:
        rejected.append(f"{raw.line}: {reason}")

    return await import_prices(
        generate_batches(), "btc_usd", db, now=NOW, on_reject=on_reject, progress=lambda _: None, dry_run=dry_run
    ), rejected


async def test_rows_are_stored_and_counted_and_none_is_overwritten(db: Database) -> None:
    await track(db, "btc_usd", since=START_TS)
    await store(db, [row("btc_usd", START_TS + 60, "7")])
    first = [
        (str(START_TS), "1.50"),
        (str(START_TS + 60), "2"),
        ("rubbish", "3"),
        (str(START_TS + 120), "4"),
        (str(START_TS + 150), "5"),
    ]
    second = [(str(START_TS + 30), "6"), (str(START_TS + 180), "7")]
    result, rejected = await _import(db, first, second)
    assert (result.stored, result.existing, result.duplicate, result.rejected) == (3, 1, 2, 1)
    assert rejected == ["3: 'rubbish' is not a valid time. Use UNIX seconds (1705318800) or ISO 8601 (2024-01-15T11:40:00Z)"]
    found = await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)
    assert [(r["ts"], str(r["price"]), r["observed_at"], r["source"]) for r in found] == [
        (START_TS, "1.5", None, "IMPORT"),
        (START_TS + 60, "7", (START_TS + 61) * 10**6, "LIVE"),
        (START_TS + 120, "4", None, "IMPORT"),
        (START_TS + 180, "7", None, "IMPORT"),
    ]
    second_result, _ = await _import(db, first, second)
    assert (second_result.stored, second_result.existing, second_result.duplicate) == (0, 4, 2), "resumed by running it again"


async def test_a_dry_run_counts_what_an_import_would_do_and_stores_nothing(db: Database) -> None:
    rows = [(str(START_TS + 60 * number), "1") for number in range(5)]
    result, _ = await _import(db, [*rows, ("rubbish", "2")], dry_run=True)
    assert (result.stored, result.rejected) == (5, 1)
    assert await db.fetchval("SELECT count(*) FROM ticker") == 0
    await _import(db, rows[:3])
    await db.execute("UPDATE ticker SET horizon = $1", START_TS + 60)
    await db.execute("DELETE FROM price WHERE ts < $1", START_TS + 60)
    dry, _ = await _import(db, rows, dry_run=True)
    assert (dry.stored, dry.existing, dry.expired) == (2, 2, 1)
    result, _ = await _import(db, rows)
    assert (result.stored, result.existing, result.expired) == (2, 2, 1)


async def test_the_earliest_price_of_a_minute_is_stored_although_it_comes_last(db: Database) -> None:
    result, _ = await _import(
        db, [(str(START_TS + 30), "2"), (str(START_TS + 60), "3"), (str(START_TS + 120), "4")], [(str(START_TS + 5), "1")]
    )
    assert (result.stored, result.duplicate) == (3, 1)
    assert await db.fetchval("SELECT price FROM price WHERE ts = $1", START_TS) == 1


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
def test_a_truncated_archive_is_a_damaged_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"history.{kind}"
    content = f"ts,price\n{FIRST_TS},1\n".encode()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("history.csv", content)
    else:
        file.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(content))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DamagedFileError), open_price_file(file, "btc_usd") as found:
        list(found.rows)


async def test_an_import_closes_the_gaps_it_fills_and_moves_no_period(db: Database) -> None:
    await track(db, "btc_usd", since=START_TS)
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", START_TS + 60): Reason.TIMEOUT})
        await gaps.mark_unrecoverable(connection, "btc_usd", [START_TS + 60])
    await _import(db, [(str(START_TS - 60 * i), "1") for i in range(-2, 3)])
    (period,) = await gaps.periods(db, "btc_usd", 0, 2**40, ["OPEN", "FILLED", "GIVEN_UP"], 9)
    assert (period["low"], period["state"]) == (START_TS + 60, "FILLED")
    assert await db.fetchval("SELECT since FROM tracking") == START_TS


async def test_a_large_import_is_recorded_as_one_change(db: Database) -> None:
    await _import(db, [(str(START_TS + 60 * i), "1") for i in range(1001)])
    await _import(db, [(str(START_TS + 60 * i), "1") for i in range(2000, 2010)])
    (change,) = await db.fetch("SELECT * FROM change WHERE kind = 'history'")
    assert (change["from_ts"], change["to_ts"], change["count"]) == (START_TS, START_TS + 60 * 1001, 1001)
    ids = await db.fetchrow("SELECT min(id) AS low, max(id) AS high FROM price WHERE ts < $1", START_TS + 60 * 1001)
    assert ids is not None
    assert (change["first_id"], change["last_id"]) == (ids["low"], ids["high"])


async def test_after_an_import_the_planner_knows_how_many_prices_are_stored(db: Database) -> None:
    await _import(db, [(str(START_TS + 60 * i), "1") for i in range(1000)])
    assert await db.fetchval("SELECT reltuples FROM pg_class WHERE oid = 'price'::regclass") == 1000


async def test_rows_of_a_real_year_are_imported(db: Database) -> None:
    file = Path(__file__).parents[3] / "shared" / "data" / "minutes_2018.csv.gz"
    if not file.exists():
        pytest.skip("real prices are not available")
    with open_price_file(file, "btc_usd", ReadOptions(price="btc_usd")) as found:
        rows = [raw for _, raw in zip(range(20_000), found.rows, strict=False)]

    async def generate_batches() -> AsyncIterator[Sequence[RawRow]]:
        yield rows[:10_000]
        yield rows[10_000:]

    result = await import_prices(generate_batches(), "btc_usd", db, now=NOW, on_reject=lambda *_: None, progress=lambda _: None)
    assert (result.stored + result.rejected, result.existing, result.duplicate) == (20_000, 0, 0)
    assert len(await minutes(db, "btc_usd")) == result.stored > 19_000
    assert {r["source"] for r in await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)} == {Source.IMPORT}


def test_an_endless_line_uses_little_memory_and_hides_no_other_line(tmp_path: Path) -> None:
    """The compressed file has a few kilobytes; one of its lines has 50 MB."""
    file = tmp_path / "bomb.csv.gz"
    with gzip.open(file, "wb", compresslevel=9) as out:
        out.write(b"ts,price\n1705318800,1\n")
        for _ in range(50):
            out.write(b"9" * 10**6)
        out.write(b"\n1705318860,2\n")
    tracemalloc.start()
    try:
        _, rows = _rows(file)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(raw.time, raw.price) for raw in rows if raw.price] == [("1705318800", "1"), ("1705318860", "2")]
    assert peak_bytes < 3 * 10**6


@pytest.mark.parametrize("number", ["1_000", "\u0661\u0662", "0x10", "1e", "+-1", "\uff11", "1,5", " 1 2"])
def test_numbers_in_python_notation_are_rejected(number: str) -> None:
    with pytest.raises(ValueError, match="price"):
        parse_row("1705318800", number)


@pytest.mark.parametrize("time", ["1_705_318_800", "\u0661705318800", "170531880\uff10", "1705318800.1_0"])
def test_a_time_has_ascii_digits_only(time: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_row(time, "1")


async def test_rows_before_the_horizon_are_counted_as_expired(db: Database) -> None:
    await track(db, "btc_usd")
    await db.execute("UPDATE ticker SET horizon = $1", START_TS + 120)
    result, _ = await _import(db, [(str(START_TS + 60 * number), "1") for number in range(4)])
    assert (result.stored, result.expired) == (2, 2)


OHLCVT = "1736935200,101.5,106.5,96.5,102.5,1.2,3\n1736935260,102.5,107.5,97.5,103.5,1.2,3\n"
KLINES = "{0},101.5,106.5,96.5,102.5,1.2,{1},9,3,1,1,0\n{2},102.5,107.5,97.5,103.5,1.2,{3},9,3,1,1,0\n"
CRYPTO_DATA_DOWNLOAD = (
    "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD\n"
    "1736935260,2025-01-15 10:01:00,BTC/USD,102.5,107.5,97.5,103.5,1,2\n"
    "1736935200,2025-01-15 10:00:00,BTC/USD,101.5,106.5,96.5,102.5,1,2\n"
)
FIRST_TS = 1_736_935_200


def _klines(unit: int) -> str:
    begins = (FIRST_TS * unit, (FIRST_TS + 60) * unit)
    return KLINES.format(begins[0], begins[1] - 1, begins[1], begins[1] + 60 * unit - 1)


PUBLISHED_ARCHIVES = {
    "Binance, milliseconds": _klines(1_000),
    "Binance, microseconds": _klines(1_000_000),
    "CryptoDataDownload": "https://www.CryptoDataDownload.com\n" + CRYPTO_DATA_DOWNLOAD,
    "a comment first": "# exported by hand\n" + CRYPTO_DATA_DOWNLOAD,
    "ccxt": f"[[{FIRST_TS}000,101.5,106.5,96.5,102.5,1.2],[{FIRST_TS + 60}000,102.5,107.5,97.5,103.5,1.2]]",
    "records": f'\n [{{"time": {FIRST_TS}, "close": 102.5}}, {{"time": {FIRST_TS + 60}, "close": "103.5"}}]',
    "tabs": CRYPTO_DATA_DOWNLOAD.replace(",", "\t"),
    "nanoseconds": f"ts,price\n{FIRST_TS}000000000,102.5\n{FIRST_TS + 60}000000000,103.5\n",
    "seconds, then milliseconds": f"ts,price\n{FIRST_TS},102.5\n{FIRST_TS + 60}000,103.5\n",
    "dates": "date,close\n2025-01-15 10:00:00,102.5\n2025-01-15T10:01:00Z,103.5\n",
}


def _write_packed(form: str, file: Path, content: bytes) -> None:
    match form:
        case "zip":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("BTCUSDT-1m-2025-01.csv", content)
        case "gz":
            file.write_bytes(gzip.compress(content))
        case "bz2":
            file.write_bytes(bz2.compress(content))
        case "xz":
            file.write_bytes(lzma.compress(content))
        case "utf-16" | "utf-16-le" | "utf-8-sig":
            file.write_bytes(content.decode().encode(form))
        case _:
            file.write_bytes(content)


@pytest.mark.parametrize("form", ["plain", "gz", "bz2", "xz", "zip", "utf-16", "utf-16-le", "utf-8-sig"])
@pytest.mark.parametrize("published", PUBLISHED_ARCHIVES)
def test_archives_are_read_as_they_are_published(tmp_path: Path, published: str, form: str) -> None:
    file = tmp_path / "history"
    _write_packed(form, file, PUBLISHED_ARCHIVES[published].encode())
    _, rows = _rows(file)
    assert sorted(parse_row(raw.time, raw.price)[:2] for raw in rows) == [(FIRST_TS, "102.5"), (FIRST_TS + 60, "103.5")]


def test_the_time_unit_is_shown_and_can_be_set(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(_klines(1_000))
    assert "time from '1' in ms, price from '5'" in _rows(file)[0]
    file.write_text("ts,price\n1736935200,1\n")
    assert "in ms" in _rows(file, unit="ms")[0]
    assert parse_row("1736935200", "1", "ms")[0] == 1_736_935_200 // 1_000 // 60 * 60


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (OHLCVT, {}, r"has 7 columns and no header \(1: 1736935200, 2: 101.5.*--price-column NUMBER"),
        (OHLCVT, {"price": "close"}, "has no header: give --price-column the number"),
        (OHLCVT, {"price": "8"}, "--price-column 8: its rows have 7 columns"),
        ("ts,price\n1,1\n", {"ticker_column": "symbol"}, "--ticker-column symbol: there is no such column"),
        ("", {}, "is empty"),
        ("PAR1....", {}, "is Parquet: convert it to CSV with duckdb"),
        ("\n", {}, "is empty"),
        ("hello\nworld\n", {}, "neither a header nor two columns"),
        ("[1, 2]", {}, "neither rows nor objects"),
        ("[[1, 2", {}, "is not a JSON array"),
        ("[[1736935200000, 101.5, 102.5, 106.5, 96.5, 1.2]]", {}, "has 6 columns and no header"),  # Bitfinex: close before high
    ],
)
def test_an_ambiguous_or_unknown_file_is_rejected_before_anything_is_stored(
    tmp_path: Path, content: str, options: dict[str, str], message: str
) -> None:
    file = tmp_path / "history.csv"
    file.write_text(content)
    with pytest.raises(FileFormatError, match=message):
        _rows(file, **options)


def test_a_column_may_be_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(OHLCVT)
    assert [raw.price for raw in _rows(file, price="5")[1]] == ["102.5", "103.5"]
    file.write_text("when,usd,eur\n1736935200,1,2\n")
    assert [raw.price for raw in _rows(file, time="1", price="3")[1]] == ["2"]


def test_the_error_names_an_archive_of_several_files_or_a_workbook(tmp_path: Path) -> None:
    file = tmp_path / "history.zip"
    for names, message in ((("a.csv", "b.csv"), "holds 2 files"), (("[Content_Types].xml", "xl/a"), "is an Excel workbook")):
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        with pytest.raises(FileFormatError, match=message):
            _rows(file)


@pytest.mark.parametrize("spelled", ["BTC_USD", "btc/usd", "BTCUSD", "BTC-USD", " btc_usd "])
def test_the_ticker_is_recognized_in_any_spelling(tmp_path: Path, spelled: str) -> None:
    file = tmp_path / "history.csv"
    file.write_text(f"symbol,ts,price\n{spelled},{FIRST_TS},1\nETH/USD,{FIRST_TS},2\n")
    assert [raw.price for raw in _rows(file)[1]] == ["1"]
    assert [raw.price for raw in _rows(file, ticker_value="ETH/USD")[1]] == ["2"]
    assert [raw.price for raw in _rows(file, ticker_column="none")[1]] == ["1", "2"]


def test_a_decimal_comma_is_read_if_it_is_set(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(f"ts;price\n{FIRST_TS};68241,5\n")
    (raw,) = _rows(file, decimal=",")[1]
    assert parse_row(raw.time, raw.price)[1] == "68241.5"
    file.write_text(f'ts,price\n{FIRST_TS},"68241,5"\n')
    (raw,) = _rows(file, decimal=",")[1]
    assert parse_row(raw.time, raw.price)[1] == "68241.5"


def test_the_instant_of_an_export_of_tickgraph_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(
        "ticker,ts,price,observed_at,source\n"
        f"btc_usd,{FIRST_TS},1,2025-01-15T10:00:01.250000Z,LIVE\nbtc_usd,{FIRST_TS + 60},2,,BACKFILL\n"
    )
    found = [parse_row(raw.time, raw.price, source=raw.source) for raw in _rows(file)[1]]
    assert found == [(FIRST_TS, "1", FIRST_TS * 10**6 + 1_250_000, "LIVE", None), (FIRST_TS + 60, "2", None, "BACKFILL", None)]


@given(st.permutations([*range(12), 0, 5]), st.integers(1, 14))
def test_one_row_per_minute_is_staged_in_any_order_of_rows(ticks: list[int], size: int) -> None:
    rows: list[Row] = [
        (FIRST_TS + 60 * (tick // 4), str(number), (FIRST_TS + 15 * tick) * 10**6 if tick % 4 else None, None, None)
        for number, tick in enumerate(ticks)
    ]
    with StagedRows() as staged:
        for start in range(0, len(rows), size):
            staged.add(rows[start : start + size])
        chosen = [row for batch in staged.batches(size) for row in batch]
        assert staged.minute_count() == 3
    assert chosen == [rows[ticks.index(4 * minute)] for minute in range(3)]


def test_a_damaged_file_yields_the_rows_before_the_damage(tmp_path: Path) -> None:
    lines = "".join(f"{FIRST_TS + 60 * number},{number + 1}.{number * 7_919 % 9_973}\n" for number in range(100_000))
    for form, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        file = tmp_path / f"history.{form}"
        packed = bytearray(pack(lines.encode()))
        packed[len(packed) * 3 // 4 :] = b"\0" * 50
        file.write_bytes(packed)
        rows: list[RawRow] = []
        with open_price_file(file, "btc_usd") as found, pytest.raises(DamagedFileError):
            rows.extend(found.rows)
        assert len(rows) > 1_000 or form == "xz", form


def test_an_instant_of_another_minute_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(f"ts,price,observed_at\n{FIRST_TS},1,{FIRST_TS + 61}\n{FIRST_TS + 60},2,{FIRST_TS + 61}\n")
    found = [parse_row(raw.time, raw.price) for raw in _rows(file)[1]]
    assert found == [(FIRST_TS, "1", None, None, None), (FIRST_TS + 60, "2", (FIRST_TS + 61) * 10**6, None, None)]


def test_a_named_column_takes_precedence_over_a_known_archive_format(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(_klines(1_000))
    assert [raw.time for raw in _rows(file, time="7")[1]] == [f"{FIRST_TS + 59}999", f"{FIRST_TS + 119}999"]


async def test_candles_of_a_minute_become_ranges_and_those_of_an_hour_do_not(db: Database) -> None:
    rows = [
        RawRow(1, str(FIRST_TS), "105", candle=("100", "110.50", "90", "105")),
        RawRow(2, str(FIRST_TS + 60), "105", candle=("100", "104", "90", "105")),  # close above high
        RawRow(3, str(FIRST_TS + 120), "106", candle=("100", "110.50", "90", "105")),
        RawRow(4, str(FIRST_TS + 180), "107", candle=("107", "107", "107", "107")),
        RawRow(5, str(FIRST_TS + 240 + 30), "107", candle=("107", "107", "107", "107")),  # half past a minute
        RawRow(6, str(FIRST_TS + 300), "107", candle=("107", "107", "107", "107")),
    ]
    result = await _import_raw(db, rows, "btc_usd")
    assert (result.stored, result.ranges, result.ranges_rejected, result.ranges_ignored) == (6, 2, 1, 3)
    found = (await ranges.ranges_of(db, [("btc_usd", FIRST_TS + 120)]))["btc_usd", FIRST_TS + 120]
    numbers = [str(found[name]) for name in ("open", "high", "low", "close")]
    assert numbers == ["100", "110.5", "90", "105"]
    assert (found["source"], found["watched_s"], found["twap"]) == ("IMPORT", None, None)
    assert (await _import_raw(db, rows, "btc_usd")).ranges == 0
    hours = [RawRow(n, str(FIRST_TS + 3_600 * n), "5", candle=("5", "9", "1", "5")) for n in range(4)]
    result = await _import_raw(db, hours, "eth_usd")
    assert (result.stored, result.ranges, result.ranges_ignored) == (4, 0, 4)


async def _import_raw(db: Database, rows: Sequence[RawRow], ticker: str) -> ImportResult:
    async def batches() -> AsyncIterator[Sequence[RawRow]]:
        yield rows

    return await import_prices(batches(), ticker, db, now=FIRST_TS + 10**6, on_reject=lambda *_: None, progress=lambda _: None)


@pytest.mark.parametrize(
    ("text", "candle"),
    [
        ("ts,open,high,low,close\n{ts},1,3,0.5,2\n", ("1", "3", "0.5", "2")),
        ("ts,price,open,high,low\n{ts},2,1,3,0.5\n", None),
        ("ts,price,open,high,low,close\n{ts},2,1,3,0.5,2.5\n", ("1", "3", "0.5", "2.5")),
        ("ts,price,open,high\n{ts},2,1,3\n", None),
        ("ts,open,high,low,close\n{ts},1,,0.5,2\n", None),
        ("{ts},1,3,0.5,2,99\n", ("1", "3", "0.5", "2")),
    ],
)
def test_open_high_and_low_are_read_where_they_are(tmp_path: Path, text: str, candle: tuple[str, ...] | None) -> None:
    file = tmp_path / "history.csv"
    file.write_text(text.format(ts=FIRST_TS))
    assert [row.candle for row in _rows(file)[1]] == [candle]
