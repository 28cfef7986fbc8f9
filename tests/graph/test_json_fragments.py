"""Plans, templates, JSON that PostgreSQL writes and JSON that Python encodes: the responses are equal byte for byte."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Database
from db.rows import Source
from graph.engine import literals
from graph.engine.plans import Planner
from graph.schema.context import Context
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, import_range, range_row, row, store, store_ranges, track

PRICE_FIELDS = ["id", "ticker", "ts", "time", "price", "observedAt", "source", "estimatedDeliveryPrice", "__typename"]
RANGE_FIELDS = [
    "id",
    "ticker",
    "ts",
    "open",
    "high",
    "low",
    "close",
    "twap",
    "ticks",
    "watchedS",
    "longestSilenceS",
    "source",
    "__typename",
]
ALIASES = st.sampled_from(["", "", "a: ", "b1: ", "_c: ", "price_: "])
CONDITIONS = st.sampled_from(
    ["", "", "", " @include(if: $yes)", " @skip(if: $yes)", " @include(if: false)", " @skip(if: false)"]
)


@st.composite
def _range_selections(draw: st.DrawFn) -> str:
    """Draws fields of a minute's range. An alias belongs to one field, so that selections can always be merged."""
    names = draw(st.lists(st.sampled_from(RANGE_FIELDS), min_size=1, max_size=5))
    parts = [f"{draw(st.sampled_from(['', '', f'x_{name}: ']))}{name}{draw(CONDITIONS)}" for name in names]
    return f"{' '.join(parts)} ... on MinuteRange {{ low }}"


@st.composite
def _selections(draw: st.DrawFn, depth: int = 2) -> str:
    """Draws fields of a price, with aliases, fragments and conditions."""
    response_names: dict[str, str] = {}
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["field", "field", "field", "inline", "spread", "range"])) if depth else "field"
        if kind == "inline":
            type_condition = draw(st.sampled_from(["", " on Price"]))
            parts.append(f"...{type_condition}{draw(CONDITIONS)} {{ {draw(_selections(depth=0))} }}")
        elif kind == "spread":
            parts.append(f"...Parts{draw(CONDITIONS)}")
        elif kind == "range":
            parts.append(f"range{draw(CONDITIONS)} {{ {draw(_range_selections())} }}")
        else:
            name, alias = draw(st.sampled_from(PRICE_FIELDS)), draw(ALIASES)
            # The API would reject one response name for two fields.
            if response_names.setdefault(alias or name, name) == name and not (alias and depth == 0):
                parts.append(f"{alias}{name}{draw(CONDITIONS)}")
    return " ".join([*parts, "ts"])


@dataclass(frozen=True)
class _Request:
    """A request, and the text of an earlier one that differs only in its literals."""

    query: str
    variables: dict[str, Any]
    earlier_query: str


class _Values:
    """Draws arguments, each as a literal or as a variable."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self.variables: dict[str, Any] = {}
        self.definitions: list[str] = []

    def argument(self, name: str, type_: str, values: st.SearchStrategy[Any]) -> str:
        value = self._draw(values)
        if value is None or self._draw(st.booleans()):
            variable = f"{name}{len(self.definitions)}"
            default = self._draw(st.sampled_from(["", "", f" = {json.dumps(self._draw(values))}"])) if type_[-1] != "!" else ""
            self.definitions.append(f"${variable}: {type_}{default}")
            if value is not None or self._draw(st.booleans()):
                self.variables[variable] = value
            return f"{name}: ${variable}"
        return f"{name}: {json.dumps(value)}"


TICKER = st.sampled_from(["btc_usd", "btc_usd", "btc_usd", "eth_usd", "BTC_USD", "nope_usd", "no ticker"])
START = st.sampled_from([START_TS, START_TS + 60, START_TS - 120, "2024-01-15T11:41:00Z", "yesterday", -5])
END = st.sampled_from([START_TS + 300, START_TS + 720, "2024-01-15T11:45:00Z", START_TS - 600, None])
SIZE = st.sampled_from([1, 2, 3, 9, None, 0, 3_000_000_000])


@st.composite
def _requests(draw: st.DrawFn) -> _Request:
    """Draws a query of one to three root fields."""
    values = _Values(draw)
    page = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
    fields = []
    for number in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        # Only the first field may fail: graphql-core leaves the order of several errors open.
        ticker = values.argument("ticker", "String!", TICKER if number == 0 else st.just("btc_usd"))
        start = values.argument("from", "UnixTime!", START if number == 0 else st.just(START_TS))
        end = values.argument("to", "UnixTime", END if number == 0 else st.just(START_TS + 600))
        order = draw(st.sampled_from(["", ", order: NEWEST_FIRST", ", order: OLDEST_FIRST"]))
        size = f"{values.argument(draw(st.sampled_from(['first', 'last'])), 'Int', SIZE if number == 0 else st.just(3))}"
        tickers = '["btc_usd"]' if number else draw(st.sampled_from(['["eth_usd", "btc_usd"]', '["btc_usd", "eth_usd"]', "[]"]))
        selection = draw(_selections())
        field = draw(
            st.sampled_from(
                [
                    f"latest({ticker}) {{ {selection} }}",
                    f"latestPrices(tickers: {tickers}) {{ {selection} }}",
                    f"range({ticker}, {start}, {end}{order}) {{ {selection} }}",
                    f"prices({ticker}, {start}, {end}{order}, {size}) {{ nodes {{ {selection} }} }}",
                    f"prices({ticker}, {end}{order}, {size}) {{ __typename {page} nodes {{ {selection} }} }}",
                    f"prices({ticker}, {start}{order}, {size}) {{ nodes {{ ts }} edges {{ cursor node {{ {selection} }} }} }}",
                    f"candles({ticker}, interval: FIVE_MINUTES, {start}, {end}) {{ open c: close twap complete __typename }}",
                    f"candles({ticker}, interval: FIVE_MINUTES, {start}, {end}, basis: SAMPLE) {{ high twap watched sampled }}",
                    f"series({ticker}, {start}, {end}) {{ price __typename t: ts }}",
                    "__typename",
                ]
            )
        )
        fields.append(f"f{number}: {field}")
    text = " ".join(fields)
    fragment = " fragment Parts on Price { __typename time ts }" if "...Parts" in text else ""
    used = [one for one in values.definitions if re.search(rf"\${one[1:].partition(':')[0]}\b", text)]
    definitions = [*used, *(["$yes: Boolean = true"] if "$yes" in text else [])]
    head = f"({', '.join(definitions)})" if definitions else ""
    query = f"query Q{head} {{\n{text} }}{fragment}"
    earlier = re.sub(r'"[^"]*"', '"eth_usd"', re.sub(r"(?<=[:\[] )-?\d+", "7", query))
    return _Request(query, values.variables, earlier)


@pytest.fixture
async def uncached_api(dsn: str, db: Database) -> AsyncIterator[Api]:
    """An API without a response cache, with prices of every kind."""
    await track(db, "btc_usd")
    kinds = [("1", 1.0, Source.LIVE), ("0.000001", 59.999999, Source.BACKFILL), ("68241.5", None, Source.IMPORT)]
    rows = [row("btc_usd", START_TS + 60 * i, kinds[i % 3][0], at_s=kinds[i % 3][1], source=kinds[i % 3][2]) for i in range(8)]
    await store(db, [*rows, row("btc_usd", START_TS + 480, "99999999999999.123456789", at_s=0.000001)])
    await import_range(db, "btc_usd", START_TS + 240, "1", "70000.5")
    ranges = [(START_TS + 60, "0.0000005", 60), (START_TS + 120, "7", 31)]
    await store_ranges(db, [range_row("btc_usd", ts, low, "70000.5", watched_s=s, twap="60000") for ts, low, s in ranges])
    await db.execute("INSERT INTO delivery_estimate VALUES ('btc_usd', $1, 68000.5)", START_TS + 120)
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0)) as running:
        yield running


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=_requests())
async def test_all_ways_to_execute_return_the_same_bytes(uncached_api: Api, request: _Request) -> None:
    async def execute(query: str) -> bytes:
        body = {"query": query, "variables": request.variables}
        async with uncached_api.session.post(f"{uncached_api.url}/graphql", json=body) as response:
            return await response.read()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "now", lambda _self: START_TS + 900.0)
        await execute(request.earlier_query)
        planned_body = await execute(request.query)
        patch.setattr(literals, "split", lambda _text: None)
        patch.setattr(Planner, "find", lambda *_: None)
        executed_body = await execute(request.query)
        assert planned_body == executed_body, request
        patch.setattr("graph.schema.types.row_selection", _no_selection)
        assert await execute(request.query) == executed_body, request


def _no_selection(*_: Any, **__: Any) -> None:
    return None


async def test_flat_selections_are_encoded_by_postgresql(uncached_api: Api, work_log: list[str]) -> None:
    window = f'range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60})'
    for query, is_written_by_sql in (
        (f"{{ {window} {{ ts price }} }}", True),
        (f"{{ {window} {{ ...p }} }} fragment p on Price {{ at: time __typename }}", True),
        ('{ prices(ticker: "btc_usd") { nodes { id } pageInfo { endCursor } } }', True),
        ('{ prices(ticker: "btc_usd") { nodes { id } edges { cursor } } }', False),
        ('{ prices(ticker: "btc_usd", last: 2) { nodes { id } } }', True),
    ):
        work_log.clear()
        await uncached_api.data(query)
        assert any("string_agg" in statement for statement in work_log) is is_written_by_sql, (query, json.dumps(work_log))


@pytest.mark.parametrize("condition", ["@skip(if: true)", "@include(if: $no)"])
async def test_an_object_without_any_selected_field_is_empty(uncached_api: Api, condition: str) -> None:
    head = "query ($no: Boolean = false) " if "$no" in condition else ""
    fields = f'series(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60}) {{ ts {condition} }} __typename {condition}'
    assert await uncached_api.data(f"{head}{{ {fields} }}") == {"series": {}}


@pytest.mark.parametrize("field", ["latest", "tickers"])
async def test_a_null_condition_is_a_client_error_with_both_encoders(uncached_api: Api, field: str) -> None:
    selection = (
        '(ticker: "btc_usd") { ts id @include(if: $yes) }' if field == "latest" else " { name tracked @include(if: $yes) }"
    )
    code, message = await uncached_api.error(f"query ($yes: Boolean = true) {{ {field}{selection} }}", yes=None)
    assert code == "BAD_USER_INPUT"
    assert "null" in message
