"""With a million stored minutes, every statement reads by index and sorts no more rows than it returns. Each stays cheap while
the statistics of PostgreSQL are old.
"""

import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from db import times
from db.pool import SESSION_SETTINGS
from db.queries import (
    alerts,
    candles,
    coverage,
    delivery_prices,
    digests,
    events,
    gaps,
    history_export,
    peers,
    prices,
    ranges,
    retention,
    summaries,
    thinned_series,
    tickers,
    touches,
    version,
)
from db.queries.candles import Basis, Interval
from db.queries.shapes import Shape
from db.queries.snapshots import Snapshot, rewrite
from tests.conftest import Servers, clone
from tests.sample_data import START_TS

ROWS = 500_000
"""Rows per ticker; there are two tickers."""
DAY = 86_400
FIRST_MINUTE = START_TS - 2 * DAY
"""It is stored apart from the others."""
WINDOW_MINUTES = 1_440
"""Minutes of the window that the statements read."""
LOW, HIGH = START_TS + 100 * DAY, START_TS + 101 * DAY
PRICE_SHAPE = Shape(tuple(prices.JSON_COLUMNS.items()))
CANDLE_SHAPE = Shape(tuple(candles.JSON_COLUMNS.items()))
LARGE_TABLES = {"price", "gap", "change", "candle", "minute_range"}
TICKERS = ("btc_usd", "eth_usd")

TRACK = f"""
INSERT INTO ticker (name) VALUES ('btc_usd'), ('eth_usd');
INSERT INTO tracking (ticker, since, until)
SELECT name, {START_TS} + 600000 * n, {START_TS} + 600000 * n + 599940 FROM ticker, generate_series(0, 49) AS n;
"""


def _fill(step: int, names: Sequence[str] = TICKERS) -> str:
    """Returns SQL that stores every `step`th minute of the tickers. It leaves out the triggers, which would take minutes."""
    source = f"unnest('{{{','.join(names)}}}'::text[]) AS name"
    return f"""
SET session_replication_role = replica;
INSERT INTO price (ticker, ts, price, source)
SELECT name, {START_TS} + 60 * m, m % 1000 + 1, 'LIVE' FROM generate_series(0, {ROWS} - 1, {step}) AS m, {source};
INSERT INTO minute_range (ticker, ts, open, high, low, close, opened_ms, closed_ms, twap, ticks, watched_s, longest_silence_ms,
                          source)
SELECT name, {START_TS} + 60 * m, 1, 2, 1, 1, 0, 59000, 1, 60, 60, 1000, 'LIVE'
  FROM generate_series(130000, 169999, {step}) AS m, {source};
INSERT INTO candle SELECT name, span, ts, 1, 1, 1, 1, 1, 1 FROM {source}, unnest(ARRAY[3600, 86400]) AS span,
       generate_series(({START_TS} / span * span)::bigint, ({START_TS} + 60 * {ROWS})::bigint, span) AS ts;
INSERT INTO gap (ticker, ts, reason, filled_at)
SELECT name, {START_TS} + 60 * m, 'timeout', CASE WHEN m % 1000 > 0 THEN 1 END
  FROM generate_series(0, 99999, {step}) AS m, {source};
INSERT INTO change (kind, ticker) SELECT 'gap_closed', name FROM generate_series(0, 99999, {step}), {source};
SET session_replication_role = origin;
"""


FILL_FIRST_MINUTE = f"""
INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', {FIRST_MINUTE}, 1, 'LIVE');
INSERT INTO minute_range (ticker, ts, open, high, low, close, opened_ms, closed_ms, twap, ticks, watched_s, longest_silence_ms,
                          source)
VALUES ('btc_usd', {FIRST_MINUTE}, 1, 2, 1, 1, 0, 59000, 1, 60, 60, 1000, 'LIVE');
INSERT INTO gap (ticker, ts, reason) VALUES ('btc_usd', {FIRST_MINUTE + 60}, 'timeout');
"""


@pytest.fixture(scope="module")
async def large_database(servers: Servers, migrated_template: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a migrated and analyzed database with a million minutes."""
    async for dsn in clone(servers, migrated_template):
        connection = await asyncpg.connect(dsn, server_settings=dict(SESSION_SETTINGS))
        await connection.execute(f"{TRACK} {_fill(1)} ANALYZE")
        yield connection
        await connection.close()


@pytest.fixture
async def new_database(servers: Servers, migrated_template: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a migrated database with two tickers, whose statistics change only by ANALYZE."""
    async for dsn in clone(servers, migrated_template):
        connection = await asyncpg.connect(dsn, server_settings=dict(SESSION_SETTINGS))
        for table in (*LARGE_TABLES, "ticker", "tracking"):
            await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await connection.execute(TRACK)
        yield connection
        await connection.close()


def _statements(high: int = HIGH, candle_days: int = 20) -> Iterator[tuple[str, str, list[Any], int]]:
    """Yields name, SQL, parameters and the maximum number of sorted rows of each statement."""
    window = ["btc_usd", LOW, high]
    for newest_first in (True, False):
        page = prices.page_statement(PRICE_SHAPE, newest_first=newest_first)
        yield f"page {newest_first}", page.sql, [*window, 100, 0, *page.constants], 0
        last = prices.page_statement(PRICE_SHAPE, newest_first=newest_first, backwards=True)
        yield f"last page {newest_first}", last.sql, [*window, 100, 0, *last.constants], 100
        text = prices.window_statement(PRICE_SHAPE, newest_first=newest_first)
        yield f"window_json {newest_first}", text.sql, [*window, *text.constants], WINDOW_MINUTES
    latest = prices.latest_statement(PRICE_SHAPE)
    yield "latest_json", latest.sql, [["btc_usd", "eth_usd"], 0, *latest.constants], 2
    yield "latest", prices.LATEST, ["btc_usd", 0], 0
    yield "latest_of_each", prices.LATEST_OF_EACH, [["btc_usd", "eth_usd"], 0], 2
    yield "count_in", prices.COUNT_IN, window, 0
    yield "has_any", prices.HAS_ANY, window, 0
    yield "last_observed", prices.LAST_OBSERVED, ["btc_usd", LOW, 300], 10
    yield "coverage", coverage.COUNT, window, 0
    yield "coverage of days", coverage.DAYS, window, WINDOW_MINUTES
    yield "periods", gaps.PERIODS, ["btc_usd", START_TS, START_TS + DAY, ["OPEN", "GIVEN_UP"], 100, True], WINDOW_MINUTES
    yield "last gaps", gaps.LAST_PERIOD_OF_EACH, [["btc_usd", "eth_usd"]], 2
    yield "newest open", gaps.DUE_GAPS, [high, 100], 100
    yield "counts", gaps.COUNTS, [], 200
    yield "watermarks", gaps.WATERMARKS, [], 2
    yield "tickers", tickers.ALL, [0], 2
    yield "version", version.CURRENT, [], 0
    yield "summary", summaries.SUMMARY, window, 0
    yield "series", summaries.SERIES, window, WINDOW_MINUTES
    yield "ranges", ranges.RANGES_OF, [["btc_usd"] * 3, [LOW, LOW + 60, high]], 3
    yield "csv", history_export.ExportShape.parse("csv", ",".join(history_export.COLUMNS)).lines_sql, window, WINDOW_MINUTES
    yield "extent", history_export.EXTENT, window, 0
    for interval, basis in itertools.product(Interval, Basis):
        for empty in (False, True):
            statement = candles.statement(interval, CANDLE_SHAPE, basis, with_open=False, with_empty=empty)
            days = 400 if interval.value.base == DAY else candle_days
            bounds = [interval.ceil(LOW), interval.ceil(LOW + days * DAY)]
            if interval is Interval.ONE_MINUTE:
                bounds[1] = min(bounds[1], bounds[0] + 6_000 * 60)
            yield (
                f"{interval.name} {basis.name} {empty}",
                statement.sql,
                ["btc_usd", *bounds, 2**40, *statement.constants],
                6_000,
            )


def _more_reads(days: int) -> Iterator[tuple[str, str, list[Any]]]:
    """Yields name, SQL and parameters of more reads, and of all reads of a ticker's window as of a data version."""
    high = LOW + days * DAY
    window = ["btc_usd", LOW, high]
    more: dict[str, tuple[str, list[Any]]] = {
        "series of minutes": (thinned_series.FROM_MINUTES, [*window, 600]),
        "series of hours": (thinned_series.FROM_HOURS, [*window, 7_200]),
        "series bounds": (thinned_series.BOUNDS, window),
        "touch": (touches.FIND_TOUCH, ["btc_usd", Decimal(990), LOW, high]),
        "last observed of each": (prices.LAST_OBSERVED_OF_EACH, ["btc_usd", [LOW, high], 1_800]),
        "stored at": (prices.STORED_AT, [["btc_usd", "eth_usd"], LOW]),
        "neighbors": (peers.NEIGHBORS, window),
        "minutes to compare": (peers.MINUTES, window),
        "watched": (coverage.COUNT_WATCHED, window),
        "not live": (coverage.NON_LIVE_PERIODS, [*window, 100, 5]),
        "unfilled": (gaps.UNFILLED, [*window, 100]),
        "means before deliveries": (delivery_prices.WATCHED_MEANS, ["btc_usd", [LOW, high]]),
        "alerted prices": (alerts.PRICES_BETWEEN, window),
        "conditions": (alerts.CONDITIONS, [["btc_usd", "eth_usd"], high]),
        "changed days": (digests.CHANGED_DAYS, [0, 1_000]),
        "events": (events.EVENTS_AFTER, [0, 2**40, 2_000, ["btc_usd"], 2_000]),
        "expired rows": (retention.TICKERS_WITH_EXPIRED_ROWS, [LOW]),
        "horizon steps": (retention.STEPS, [LOW, high]),
    }
    yield from ((name, sql, parameters) for name, (sql, parameters) in more.items())
    snapshot = Snapshot(2**40, high, times.FIRST)
    for name, sql, parameters in [
        *(one[:3] for one in _statements(high, days)),
        *((name, *found) for name, found in more.items()),
    ]:
        if parameters[:1] == ["btc_usd"] or name == "ranges":
            rewritten, *with_snapshot = rewrite(snapshot, sql, *parameters)
            yield f"{name}, as of", rewritten, with_snapshot


@pytest.mark.parametrize("name", [name for name, *_ in _statements()])
async def test_a_statement_reads_by_index_and_sorts_no_more_than_it_returns(
    large_database: asyncpg.Connection, name: str
) -> None:
    ((_, sql, parameters, max_sorted),) = [one for one in _statements() if one[0] == name]
    plan = await _explain(large_database, sql, parameters)
    for node in _nodes(plan["Plan"]):
        assert not (node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE_TABLES), (
            f"{name} reads all of {node['Relation Name']}"
        )
        if "Sort" in node["Node Type"] and node["Actual Rows"] > max_sorted:
            pytest.fail(f"{name} sorts {node['Actual Rows']} rows")


ROWS_OF_A_LOOP = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")


@pytest.mark.parametrize(
    ("before", "after", "days"),
    [
        pytest.param(FILL_FIRST_MINUTE, _fill(20), 1, id="the first minute"),
        pytest.param(_fill(20, ["eth_usd"]), _fill(20, ["btc_usd"]), 18, id="another ticker"),
    ],
)
async def test_a_statement_stays_cheap_while_the_statistics_are_old(
    new_database: asyncpg.Connection, before: str, after: str, days: int
) -> None:
    # A plan for one row may read all 25,000 prices of the ticker, or even all of them for each row. After the first minute, it
    # compares each range of a window with each price, until PostgreSQL analyzes the tables a minute later: hence one day.
    await new_database.execute(f"{before} ANALYZE")
    await new_database.execute(after)
    with_old = await _rows_processed(new_database, days)
    await new_database.execute("ANALYZE")
    with_new = await _rows_processed(new_database, days)
    assert {name: (rows, with_new[name]) for name, rows in with_old.items() if rows > 10 * with_new[name] + 20_000} == {}


async def _rows_processed(connection: asyncpg.Connection, days: int) -> dict[str, float]:
    """Returns the rows that all parts of each statement's plan return and skip."""
    result = {}
    for name, sql, parameters in [*(one[:3] for one in _statements(LOW + days * DAY, days)), *_more_reads(days)]:
        plan = await _explain(connection, sql, parameters)
        result[name] = sum(
            node["Actual Loops"] * (1 + sum(node.get(key, 0) for key in ROWS_OF_A_LOOP)) for node in _nodes(plan["Plan"])
        )
    return result


async def _explain(connection: asyncpg.Connection, sql: str, parameters: list[Any]) -> dict[str, Any]:
    """Executes a statement with the plan of the product, which is one for any values, and returns it."""
    values = ", ".join(_literal(value) for value in parameters)
    await connection.execute(f"PREPARE explained AS {sql}")
    try:
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE explained{f'({values})' if values else ''}"
        )
    finally:
        await connection.execute("DEALLOCATE explained")
    (plan,) = json.loads(text)
    found: dict[str, Any] = plan
    return found


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"'{{{','.join(map(str, value))}}}'"
    return f"'{value}'"


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
