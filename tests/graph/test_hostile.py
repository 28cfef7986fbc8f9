"""Sends hostile strings in every string argument of GraphQL and REST: none causes an internal error."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import GraphQLList, GraphQLNonNull, GraphQLObjectType, GraphQLScalarType, build_schema

from db.pool import Database
from graph.http.rest.endpoints import ENDPOINTS
from tests.conftest import ROOT
from tests.graph.conftest import Api
from tests.sample_data import START_TS, row, store, track

HOSTILE_STRINGS = {
    "NUL": "btc\0usd",
    "a lone surrogate": "\ud800",
    "a right-to-left mark": "\u202ebtc_usd\u202c",
    "a zero-width space": "btc\u200b_usd",
    "quotes": "'\"`;--",
    "SQL": "btc_usd' OR 1=1; DROP TABLE price; --",
    "percent codes": "%00%27%22%0d%0a",
    "a new header": "a\r\nSet-Cookie: a=b",
    "a path": "../../etc/passwd",
    "a template": "{{7*7}}${7*7}<%= 7*7 %>",
    "markup": "<script>alert(1)</script>",
    "rich markup": "[/red][bold]",
    "a format": "%s%n{0}{}",
    "emoji": "👩‍👩‍👧‍👦" * 50,
    "combining marks": "a" + "\u0301" * 500,
    "long": "a" * 100_000,
    "too long": "a" * 1_000_000,
    "digits": "9" * 5_000,
    "empty": "",
    "blank": " \t\n",
}
INTERNAL_DETAILS = ("Traceback", "asyncpg", "SELECT", "postgresql://", "/site-packages/", ".py")


def _string_arguments() -> Iterator[tuple[str, str, str]]:
    """Yields field, argument, and the type of a variable for it."""
    query = build_schema((ROOT / "graph" / "schema.graphql").read_text()).type_map["Query"]
    assert isinstance(query, GraphQLObjectType)
    for name, field in query.fields.items():
        for argument, definition in field.args.items():
            kind: Any = definition.type
            while isinstance(kind, GraphQLNonNull | GraphQLList):
                kind = kind.of_type
            if isinstance(kind, GraphQLScalarType) and kind.name in ("String", "ID", "UnixTime", "Decimal"):
                yield name, argument, str(definition.type)


GRAPHQL = list(_string_arguments())
REST = sorted(
    {
        (endpoint.paths[0], name)
        for endpoint in ENDPOINTS
        for name in endpoint.query.model_fields
        if not endpoint.has_side_effects
    }
    | {("/export", name) for name in ("ticker", "from", "to", "format")}
)
REQUIRED = {
    "ticker": '"btc_usd"',
    "name": '"btc_usd"',
    "from": str(START_TS),
    "at": str(START_TS),
    "interval": "ONE_DAY",
    "price": "7",
    "date": '"2024-01-15"',
}
SELECTIONS = {
    "tickers": "name", "ticker": "name", "prices": "nodes { ts }", "coverage": "expected", "summary": "count",
    "digests": "sha256",
}  # fmt: skip


@pytest.fixture
async def prices(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])


def _query(field: str, argument: str, kind: str) -> str:
    required = {
        "ticker": ["name"], "latest": ["ticker"], "prices": ["ticker"], "range": ["ticker", "from"],
        "priceAt": ["ticker", "at"], "coverage": ["ticker", "from"], "summary": ["ticker", "from"],
        "series": ["ticker", "from"], "candles": ["ticker", "interval", "from"],
        "touched": ["ticker", "price", "from"],
        "deliveryPrice": ["ticker", "date"], "digests": ["ticker", "from"], "pricesAt": ["ticker", "at"],
    }.get(field, [])  # fmt: skip
    others = [f"{name}: {REQUIRED[name]}" for name in required if name != argument]
    arguments = ", ".join([f"{argument}: $hostile", *others])
    return f"query ($hostile: {kind}) {{ {field}({arguments}) {{ {SELECTIONS.get(field, 'ts')} }} }}"


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("case", HOSTILE_STRINGS)
async def test_no_string_argument_of_graphql_causes_an_internal_error(api: Api, case: str) -> None:
    assert len(GRAPHQL) >= 15
    for field, argument, kind in GRAPHQL:
        value: Any = [HOSTILE_STRINGS[case]] if "[" in kind else HOSTILE_STRINGS[case]
        body = json.dumps({"query": _query(field, argument, kind), "variables": {"hostile": value}})
        headers = {"Content-Type": "application/json"}
        async with api.session.post(f"{api.url}/graphql", data=body, headers=headers) as response:
            text = await response.text()
            assert response.status < 500, (field, argument, text[:300])
        errors = json.loads(text).get("errors", [])
        codes = {error["extensions"]["code"] for error in errors}
        assert codes <= {"BAD_USER_INPUT", "BAD_REQUEST", "PAYLOAD_TOO_LARGE", "UNKNOWN_TICKER"}, (field, argument, text[:300])
        assert not [internal_detail for internal_detail in INTERNAL_DETAILS if internal_detail in text], (
            field,
            argument,
            text[:300],
        )
        assert all(len(error["message"]) < 1_000 for error in errors), (field, argument)


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("case", [case for case in HOSTILE_STRINGS if case not in ("a lone surrogate", "too long", "long")])
async def test_no_parameter_of_rest_causes_an_internal_error(api: Api, case: str) -> None:
    assert len(REST) >= 12
    for path, name in REST:
        params = {"ticker": "btc_usd", "date": str(START_TS)} | {name: HOSTILE_STRINGS[case]}
        async with api.session.get(f"{api.url}{path}", params=params) as response:
            text = await response.text()
            assert response.status < 500, (path, name, text[:300])
            assert "Set-Cookie" not in response.headers
        assert not [internal_detail for internal_detail in INTERNAL_DETAILS if internal_detail in text], (
            path,
            name,
            text[:300],
        )


async def test_a_url_that_is_too_long_is_rejected(api: Api) -> None:
    async with api.session.get(f"{api.url}/prices?ticker={'a' * 200_000}") as response:
        assert response.status in (400, 414, 422, 431)
