"""Small tables as JSON or CSV, for spreadsheets and dashboards: candles, tickers, coverage."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, Field

from db import times
from db.queries import candles, coverage, tickers
from db.queries.candles import Basis, Interval
from db.queries.shapes import Shape
from graph.engine.calendars import Calendar, WeekStart
from graph.engine.limits import ASSUMED_TICKER_COUNT, COVERAGE_COST, MINUTES_PER_SCAN_COST, cost_of_calendar
from graph.engine.tickers import require_known_tickers
from graph.engine.windows import Window
from graph.http.rest.models import EXAMPLE_END, EXAMPLE_START, Instant, Query, TickerQuery
from graph.schema.arguments import parse_candle_window
from graph.schema.context import Context

CSV: Final = "text/csv; charset=utf-8"
_PRICES: Final = ("open", "high", "low", "close", "twap")


class TableQuery(Query):
    """Parameters of a table."""

    format: Literal["json", "csv"] = Field("json", description="`json`, or `csv` with a header", examples=["csv"])
    numbers: bool = Field(
        False, description="`true`: prices in JSON are numbers instead of strings with all digits", examples=["false"]
    )


class WindowQuery(TickerQuery, TableQuery):
    """Selects a window: `from` inclusive, `to` exclusive."""

    start: Instant = Field(alias="from", description="start, inclusive; UNIX seconds or ISO 8601", examples=[EXAMPLE_START])
    end: Instant | None = Field(None, alias="to", description="end, exclusive; default: now", examples=[EXAMPLE_END])


class CandleQuery(WindowQuery):
    """Selects candles."""

    interval: Literal[tuple(Interval.__members__)] = Field(  # type: ignore[valid-type]  # the names of the enum
        "ONE_HOUR", description="length of a candle", examples=["ONE_HOUR"]
    )
    basis: Literal["RANGE", "SAMPLE"] = Field(
        "RANGE", description="`SAMPLE`: from prices alone, without ticks", examples=["RANGE"]
    )
    time_zone: str = Field(
        "UTC", description="IANA time zone in which days, weeks and months begin", examples=["Europe/Berlin"]
    )
    week_start: Literal["MONDAY", "SUNDAY"] = Field("MONDAY", description="first day of a week", examples=["MONDAY"])
    day_start: str = Field("00:00", description="local time at which a day begins", examples=["08:00"])
    include_open: bool = Field(False, description="`true`: with the current, unfinished candle", examples=["false"])


class CandleRow(BaseModel):
    """A candle."""

    ts: int = Field(description="its start, UNIX seconds", examples=[1705316400])
    time: str = Field(description="its start, ISO 8601", json_schema_extra={"format": "date-time"})
    end: int = Field(description="its end, exclusive, UNIX seconds", examples=[1705320000])
    open: str | float = Field(examples=["68241.5"])
    high: str | float = Field(examples=["68300"])
    low: str | float = Field(examples=["68200"])
    close: str | float = Field(examples=["68250.25"])
    twap: str | float = Field(description="mean price", examples=["68244.1"])
    count: int = Field(description="stored minutes", examples=[60])
    expected: int = Field(description="minutes of the interval", examples=[60])
    closed: bool = Field(description="whether the interval is over", examples=[True])
    complete: bool = Field(description="whether it is over and every minute is stored", examples=[True])


_CANDLE: Final = Shape(tuple((name, candles.JSON_COLUMNS[name]) for name in CandleRow.model_fields if name != "time"))


class TickerRow(BaseModel):
    """A known ticker."""

    ticker: str = Field(examples=["btc_usd"])
    tracked: bool = Field(examples=[True])
    since: int | None = Field(description="start of its last tracking period, UNIX seconds", examples=[1705316400])
    ts: int | None = Field(description="its newest minute, UNIX seconds", examples=[1705318800])
    price: str | float | None = Field(description="its newest price", examples=["68241.5"])
    age_s: int | None = Field(description="seconds since that minute began", examples=[17])
    stale: bool = Field(examples=[False])


class CoverageRow(BaseModel):
    """How many of the expected minutes of a window are stored. GraphQL's `coverage` has the reasons of the others."""

    ticker: str = Field(examples=["btc_usd"])
    start: int = Field(alias="from", description="first minute, UNIX seconds", examples=[1705316400])
    end: int = Field(alias="to", description="end of the last minute that is over", examples=[1705320000])
    expected: int = Field(examples=[1440])
    stored: int = Field(description="expected minutes that are stored", examples=[1438])
    missing: int = Field(examples=[2])
    live: int = Field(examples=[1430])
    backfilled: int = Field(examples=[6])
    from_peers: int = Field(examples=[2])
    imported: int = Field(examples=[0])
    extra: int = Field(description="stored minutes that were not expected", examples=[0])


@dataclass(frozen=True)
class Table:
    """The rows of a response. `prices` are the columns that contain prices, as text."""

    query: TableQuery
    columns: Sequence[str]
    rows: Sequence[dict[str, Any]]
    prices: Sequence[str] = ()

    def encode(self) -> tuple[bytes, str]:
        """Returns the body and its media type."""
        if self.query.format == "json":
            rows = [self._with_numbers(row) for row in self.rows] if self.query.numbers else self.rows
            return orjson.dumps([{name: row[name] for name in self.columns} for row in rows]), "application/json"
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_csv_value(row[name]) for name in self.columns] for row in self.rows)
        return out.getvalue().encode(), CSV

    def _with_numbers(self, row: dict[str, Any]) -> dict[str, Any]:
        # The text of a price is a JSON number with the same digits.
        return row | {name: orjson.Fragment(row[name]) for name in self.prices if row[name] is not None}


def _csv_value(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


async def candle_table(context: Context, query: CandleQuery) -> Table:
    """Returns the candles that start in a window, oldest first."""
    interval = Interval[query.interval]
    calendar = Calendar.parse(query.time_zone, WeekStart[query.week_start], query.day_start)
    snapshot = await context.snapshot(query.as_of, query.ticker, query.start, "as_of")
    now = context.now() if snapshot is None else snapshot.at
    window = parse_candle_window(query.start, query.end, interval, now)
    columns = tuple(CandleRow.model_fields)
    minutes = (window.high - window.low) // times.MINUTE
    count = interval.count(window.low, window.high)
    read_costs = (
        minutes if interval.value.base == times.MINUTE else 0,
        0 if snapshot is None else minutes // MINUTES_PER_SCAN_COST,
        0 if calendar.is_utc else cost_of_calendar(count, minutes),
    )
    context.charge(count * len(columns) + max(read_costs))
    text = await candles.fetch_json(
        context.db,
        interval,
        _CANDLE,
        query.ticker,
        window.low,
        window.high,
        times.minute_of(now),
        basis=Basis[query.basis],
        with_open=query.include_open,
        snapshot=snapshot,
        starts=calendar.starts(interval, window.low, window.high),
    )
    rows = orjson.loads(text)
    if not rows:
        await require_known_tickers(context.db, [query.ticker])
    return Table(query, columns, [row | {"time": times.iso(row["ts"])} for row in rows], _PRICES)


async def ticker_table(context: Context, query: TableQuery) -> Table:
    """Returns all known tickers with their newest prices."""
    context.charge(ASSUMED_TICKER_COUNT * len(TickerRow.model_fields))
    now, stale_after_s = context.now(), context.resources.stale_after_s
    rows = [
        {
            "ticker": record["name"],
            "tracked": record["tracked"],
            "since": record["since"],
            "ts": record["ts"],
            "price": None if record["price"] is None else f"{record['price']:f}",
            "age_s": None if record["ts"] is None else max(0, int(now) - record["ts"]),
            "stale": tickers.is_stale(record, now, stale_after_s),
        }
        for record in await tickers.list_tickers(context.db, now)
    ]
    return Table(query, tuple(TickerRow.model_fields), rows, ("price",))


async def coverage_table(context: Context, query: WindowQuery) -> Table:
    """Returns how many of the expected minutes of a window are stored."""
    window = Window.parse(query.start, query.end)
    context.charge(COVERAGE_COST)
    await require_known_tickers(context.db, [query.ticker])
    snapshot = await context.snapshot(query.as_of, query.ticker, window.low, "as_of")
    now = context.now() if snapshot is None else snapshot.at
    counts = await coverage.count(context.db, query.ticker, window.low, window.high, now, snapshot)
    names = ("expected", "stored", "missing", "live", "backfilled", "from_peers", "imported", "extra")
    row = {"ticker": query.ticker, "from": counts.low, "to": counts.high, **{name: getattr(counts, name) for name in names}}
    return Table(query, tuple(row), [row])
