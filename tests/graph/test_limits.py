"""Limits on the size and the cost of a document, checked before validation and before any SQL runs."""

import json
import re
from typing import Any

import pytest
from graphql import (
    GraphQLError,
    GraphQLList,
    GraphQLObjectType,
    build_schema,
    get_introspection_query,
    get_nullable_type,
)

from graph.engine import documents, limits
from graph.engine.documents import MAX_TOKENS, Document
from graph.engine.limits import COVERAGE_COST, MAX_COST, MAX_RANGE_MINUTES
from graph.errors import TooComplexError
from graph.http import protocol, request
from graph.schema.executable import Schema
from tests.conftest import ROOT
from tests.graph.conftest import Api
from tests.sample_data import START_TS

RULES = Schema().field_rules


def _cost(query: str, **variables: Any) -> int:
    document = Document(query, RULES)
    return limits.estimate_cost(document.selections, document.operation(None), variables)


def _nested(levels: int) -> str:
    return "{ a " * levels + "}" * levels


OVERSIZED = {
    "definitions": "{ a } " + " ".join(f"fragment f{i} on Query {{ a }}" for i in range(60)),
    "variables": "query (" + " ".join(f"$v{i}: Int" for i in range(60)) + ") { a }",
    "directives": "{ " + "a @skip(if: false) " * 60 + "}",
    "directives on one field": "{ a " + "@skip(if: false) " * 60 + "}",
    "levels of fields": _nested(12),
    "levels of fields, in fragments": "{ ...f0 } "
    + " ".join(f"fragment f{i} on T {{ a {{ ...f{i + 1} }} }}" for i in range(20)),
    "fields": "{ a { " + "b " * 600 + "} }",
    "fields at the root": "{ " + " ".join(f"tickers{i}" for i in range(30)) + " }",
    "aliases": "{ a { " + " ".join(f"b{i}: b" for i in range(60)) + " } }",
    "a long alias": "{ a { " + "b" * 101 + ": c } }",
    "copies of a field": "{ " + "a " * 1_000 + "}",
    "fragments that double": " ".join(f"fragment f{i} on T {{ x {{ ...f{i + 1} }} y {{ ...f{i + 1} }} }}" for i in range(40))
    + " { ...f0 }",
    "fragments that double side by side": " ".join(f"fragment f{i} on T {{ ...f{i + 1} ...f{i + 1} }}" for i in range(40))
    + " fragment f40 on T { a } { ...f0 }",
    "unused fragments": "{ a } fragment f on T { " + "a { b } " * 600 + "}",
    "directives on variables": "query (" + " ".join(f"$v{i}: Int @a @b" for i in range(40)) + ") { a }",
    "levels beyond the limit of the parser": _nested(900),
    "introspection of great depth": "{ __schema { types { " + "fields { type { " * 20 + "name" + " } }" * 20 + " } } }",
}


@pytest.mark.parametrize("case", OVERSIZED)
def test_an_oversized_document_is_rejected_before_validation(case: str) -> None:
    with pytest.raises((TooComplexError, GraphQLError)):
        Document(OVERSIZED[case], RULES)


def test_doubling_fragments_without_fields_are_measured_quickly() -> None:
    chain = " ".join(f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(40))
    document = Document(f"{{ ...f0 }} {chain} fragment f40 on Query {{ ...missing }}", RULES)
    assert limits.estimate_cost(document.selections, document.operation(None), {}) == 0


def test_cyclic_fragments_are_left_to_validation() -> None:
    Document("fragment a on Query { ...b } fragment b on Query { ...a } { ...a tickers { name } }", RULES)


@pytest.mark.parametrize(
    "options", [{}, {"directive_is_repeatable": True, "schema_description": True, "input_value_deprecation": True}]
)
def test_introspection_queries_of_tools_are_within_the_limits(options: dict[str, bool]) -> None:
    Document(get_introspection_query(**options), RULES)


@pytest.mark.parametrize(
    ("query", "variables", "cost"),
    [
        ("{ __typename }", {}, 1),
        ('{ latest(ticker: "a") { ts price } }', {}, 2),
        ('{ prices(ticker: "a") { nodes { ts price } } }', {}, 200),
        ('{ prices(ticker: "a", first: 7) { nodes { ts } } }', {}, 7),
        ('query ($n: Int = 9) { prices(ticker: "a", last: $n) { nodes { ts } } }', {}, 9),
        ('query ($n: Int = 9) { prices(ticker: "a", last: $n) { nodes { ts } } }', {"n": 2}, 2),
        (f'{{ range(ticker: "a", from: {START_TS}, to: {START_TS + 600}) {{ ts price }} }}', {}, 20),
        ('{ range(ticker: "a", from: "2024-01-15T11:40", to: "2024-01-15T11:45") { ts } }', {}, 5),
        ('{ range(ticker: "a", from: 0) { ts } }', {}, MAX_RANGE_MINUTES),
        ('{ range(ticker: "a", from: "nonsense") { ts } }', {}, 1),
        (f'{{ ...r ...r }} fragment r on Query {{ range(ticker: "a", from: 0, to: {6000}) {{ ts }} }}', {}, 100),
        ('{ range(ticker: "a", from: 1705318800.0, to: 1.7053194e9) { ts } }', {}, 10),
        ('query ($f: UnixTime = 0.0) { range(ticker: "a", from: $f, to: 600) { ts } }', {}, 10),
        ('query ($n: Int) { prices(ticker: "a", first: $n) { nodes { ts } } }', {"n": 9.0}, 9),
        ('{ prices(ticker: "a", first: 5) { edges { cursor node { ts price } } pageInfo { endCursor } } }', {}, 16),
        ('{ coverage(ticker: "a", from: 0) { stored gaps(first: 50) { nodes { from to } } } }', {}, COVERAGE_COST + 101),
        ('{ prices(ticker: "a", first: 1) { a: coverage { stored } b: coverage { stored } } }', {}, 2 * (COVERAGE_COST + 1)),
        ('{ candles(ticker: "a", interval: ONE_DAY, from: 0, to: 864000) { open close } }', {}, 20),
        ('{ candles(ticker: "a", interval: FIVE_MINUTES, from: 0, to: 3000) { open close } }', {}, 70),
        ('query ($i: Interval!) { candles(ticker: "a", interval: $i, from: 0, to: 864000) { ts } }', {"i": "ONE_HOUR"}, 240),
        ('{ series(ticker: "a", from: 0, to: 600) { ts price } }', {}, 20),
        ('{ summary(ticker: "a", from: 0) { count twap } }', {}, limits.SUMMARY_COST + 2),
        ('{ latestPrices(tickers: ["a", "b"]) { ts price } }', {}, 4),
        ('{ touched(ticker: "a", price: 1, from: 0, to: 31622400) { state ts } }', {}, 2 + 366 * 1_440 // 20),
    ],
)
def test_the_cost_is_rows_times_fields(query: str, variables: dict[str, Any], cost: int) -> None:
    assert _cost(query, **variables) == cost


async def test_the_error_of_an_expensive_query_names_cost_limit_and_remedy(api: Api) -> None:
    field_text = 'range(ticker: "a", from: 0, to: 3000000) { id ts price time source }'
    query = f"{{ a: {field_text} b: {field_text} c: {field_text} }}"
    code, message = await api.error(query)
    assert (code, _cost(query) > MAX_COST) == ("QUERY_TOO_COMPLEX", True)
    assert message.startswith("The query costs 750000 (rows times fields); the maximum is 500000. Request a shorter window")


def test_the_documentation_lists_every_limit() -> None:
    expected_limits = {
        "request line and headers": (protocol.MAX_HEADER_BYTES, "431"),
        "time to receive the complete request": (int(protocol.RECEIVE_TIMEOUT_S), "408"),
        "time in which the client reads nothing of the response": (int(protocol.WRITE_TIMEOUT_S), "disconnect"),
        "nesting of JSON": (request.MAX_JSON_DEPTH, "BAD_REQUEST"),
        "body, before and after decompression": (request.MAX_BODY_BYTES, "PAYLOAD_TOO_LARGE"),
        "characters of the document": (documents.MAX_CHARACTERS, "QUERY_TOO_COMPLEX"),
        "pairs of fields with the same response key": (limits.MAX_FIELD_PAIRS, "QUERY_TOO_COMPLEX"),
        "tokens": (MAX_TOKENS, "GRAPHQL_PARSE_FAILED"),
        "definitions": (limits.MAX_DEFINITIONS, "QUERY_TOO_COMPLEX"),
        "variables": (limits.MAX_VARIABLES, "QUERY_TOO_COMPLEX"),
        "directives": (limits.MAX_DIRECTIVES, "QUERY_TOO_COMPLEX"),
        "root fields": (limits.MAX_ROOT_FIELDS, "QUERY_TOO_COMPLEX"),
        "levels of fields": (limits.MAX_DEPTH, "QUERY_TOO_COMPLEX"),
        "levels of fields, introspection": (limits.MAX_INTROSPECTION_DEPTH, "QUERY_TOO_COMPLEX"),
        "fields": (limits.MAX_FIELDS, "QUERY_TOO_COMPLEX"),
        "fields, introspection": (limits.MAX_INTROSPECTION_FIELDS, "QUERY_TOO_COMPLEX"),
        "aliases": (limits.MAX_ALIASES, "QUERY_TOO_COMPLEX"),
        "characters of an alias": (limits.MAX_ALIAS_LENGTH, "QUERY_TOO_COMPLEX"),
        "cost: rows times fields": (limits.MAX_COST, "QUERY_TOO_COMPLEX"),
        "page of `prices` or of gaps": (limits.MAX_PAGE_SIZE, "BAD_USER_INPUT"),
        "minutes of a `range` or a `series`": (limits.MAX_RANGE_MINUTES, "RANGE_TOO_LARGE"),
        "candles": (limits.MAX_CANDLES, "RANGE_TOO_LARGE"),
        "minutes of `touched` (366 days)": (limits.MAX_TOUCH_MINUTES, "RANGE_TOO_LARGE"),
        "`maxPoints` of a `series`": (limits.MAX_POINTS, "BAD_USER_INPUT"),
        "instants of `pricesAt`": (limits.MAX_INSTANTS, "BAD_USER_INPUT"),
        "names in `tickers`": (limits.MAX_TICKERS, "BAD_USER_INPUT"),
    }
    section = (ROOT / "docs" / "graphql.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    table = section.partition("| limit | setting |")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")][1:]
    assert {name: (int(re.sub(r"\D", "", value)), code.strip("`")) for name, value, code in rows} == expected_limits


async def test_the_cost_is_returned_on_request(api: Api) -> None:
    body = {"query": "{ tickers { name } }", "extensions": {"cost": True}}
    async with api.session.post(f"{api.url}/graphql", json=body) as response:
        result = json.loads(await response.text())
    assert result["extensions"] == {"cost": {"asked": 200, "most": MAX_COST}}


LISTS_WITHOUT_COST = {"FetchReceipt.tickers", "Series.ts", "Series.price", "Coverage.parts", "WorkerReport.failingJobs"}
"""Lists that are no longer than a list in the request, or whose rows the enclosing field pays for."""


def test_every_list_and_every_query_declares_its_rules() -> None:
    """A new list field without a declared cost would be free."""
    schema = build_schema((ROOT / "graph" / "schema.graphql").read_text())
    fields = {
        (named.name, name): field
        for named in schema.type_map.values()
        if isinstance(named, GraphQLObjectType) and not named.name.startswith("__")
        for name, field in named.fields.items()
    }
    lists = {key for key, field in fields.items() if isinstance(get_nullable_type(field.type), GraphQLList)}
    for key in lists | {key for key in fields if key[0] == "Query"}:
        assert key in RULES.declared or ".".join(key) in LISTS_WITHOUT_COST, key
    for key in lists & RULES.declared:
        assert (
            RULES.find(*key)[0].cost(
                {"from": START_TS, "to": START_TS + 864_000, "interval": "ONE_HOUR", "at": [START_TS] * 10}, 1, 10
            )
            >= 10
        ), key
