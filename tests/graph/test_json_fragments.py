"""JSON that PostgreSQL writes is byte for byte equal to the JSON that Python encodes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Database
from db.rows import Source
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

PRICE_FIELDS = ["id", "ticker", "ts", "time", "price", "observedAt", "source", "__typename"]
ALIASES = st.sampled_from(["", "", "a: ", "b1: ", "_c: ", "price_: "])
CONDITIONS = st.sampled_from(
    ["", "", "", " @include(if: $yes)", " @skip(if: $yes)", " @include(if: false)", " @skip(if: false)"]
)


@st.composite
def _selections(draw: st.DrawFn, depth: int = 2) -> str:
    """Draws fields of a price, with aliases, fragments and conditions."""
    response_names: dict[str, str] = {}
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["field", "field", "field", "inline", "spread"])) if depth else "field"
        if kind == "inline":
            type_condition = draw(st.sampled_from(["", " on Price"]))
            parts.append(f"...{type_condition}{draw(CONDITIONS)} {{ {draw(_selections(depth=0))} }}")
        elif kind == "spread":
            parts.append(f"...Parts{draw(CONDITIONS)}")
        else:
            name, alias = draw(st.sampled_from(PRICE_FIELDS)), draw(ALIASES)
            # The API would reject one response name for two fields.
            if response_names.setdefault(alias or name, name) == name and not (alias and depth == 0):
                parts.append(f"{alias}{name}{draw(CONDITIONS)}")
    return " ".join([*parts, "ts"])


@st.composite
def _documents(draw: st.DrawFn) -> str:
    order = draw(st.sampled_from(["", ", order: NEWEST_FIRST", ", order: OLDEST_FIRST"]))
    window = f"from: {START_TS + 60 * draw(st.integers(-2, 4))}, to: {START_TS + 60 * draw(st.integers(5, 12))}"
    first = draw(st.integers(1, 9))
    selection, page = draw(_selections()), "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
    field = draw(
        st.sampled_from(
            [
                f'latest(ticker: "btc_usd") {{ {selection} }}',
                f'range(ticker: "btc_usd", {window}{order}) {{ {selection} }}',
                f'prices(ticker: "btc_usd", {window}{order}, first: {first}) {{ {page} nodes {{ {selection} }} }}',
                f'prices(ticker: "btc_usd", last: 3) {{ nodes {{ {selection} }} edges {{ cursor node {{ {selection} }} }} }}',
            ]
        )
    )
    uses_fragment = "...Parts" in field
    fragment = " fragment Parts on Price { __typename time ts }" if uses_fragment else ""
    head = "query ($yes: Boolean = true) " if "$yes" in field else ""
    return f"{head}{{ {field} }}{fragment}"


@pytest.fixture
async def uncached_api(dsn: str, db: Database) -> AsyncIterator[Api]:
    """An API without a response cache, with prices of every kind."""
    await track(db, "btc_usd")
    kinds = [("1", 1.0, Source.LIVE), ("0.000001", 59.999999, Source.BACKFILL), ("68241.5", None, Source.IMPORT)]
    rows = [row("btc_usd", START_TS + 60 * i, kinds[i % 3][0], at_s=kinds[i % 3][1], source=kinds[i % 3][2]) for i in range(8)]
    await store(db, [*rows, row("btc_usd", START_TS + 480, "99999999999999.123456789", at_s=0.000001)])
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0)) as running:
        yield running


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=_documents())
async def test_both_encoders_return_the_same_bytes(uncached_api: Api, document: str) -> None:
    async def execute() -> bytes:
        async with uncached_api.session.post(f"{uncached_api.url}/graphql", json={"query": document}) as response:
            return await response.read()

    expected_body = await execute()
    assert b'"errors"' not in expected_body, (document, expected_body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graph.schema.types.row_selection", _no_selection)
        assert await execute() == expected_body, document


def _no_selection(*_: Any, **__: Any) -> None:
    return None


async def test_flat_selections_are_encoded_by_postgresql(uncached_api: Api, work_log: list[str]) -> None:
    window = f'range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60})'
    for query, is_written_by_sql in (
        (f"{{ {window} {{ ts price }} }}", True),
        (f"{{ {window} {{ ...p }} }} fragment p on Price {{ at: time __typename }}", True),
        ('{ prices(ticker: "btc_usd") { nodes { id } pageInfo { endCursor } } }', True),
        ('{ prices(ticker: "btc_usd") { nodes { id } edges { cursor } } }', False),
        ('{ prices(ticker: "btc_usd", last: 2) { nodes { id } } }', False),
    ):
        work_log.clear()
        await uncached_api.data(query)
        assert any("string_agg" in statement for statement in work_log) is is_written_by_sql, (query, json.dumps(work_log))


@pytest.mark.parametrize("field", ["latest", "tickers"])
async def test_a_null_condition_is_a_client_error_with_both_encoders(uncached_api: Api, field: str) -> None:
    selection = (
        '(ticker: "btc_usd") { ts id @include(if: $yes) }' if field == "latest" else " { name tracked @include(if: $yes) }"
    )
    code, message = await uncached_api.error(f"query ($yes: Boolean = true) {{ {field}{selection} }}", yes=None)
    assert code == "BAD_USER_INPUT"
    assert "null" in message
