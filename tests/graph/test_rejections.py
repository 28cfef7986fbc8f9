# ruff: noqa: E501  a row of the table is a line
"""Requests that the API rejects before any SQL runs, with code and message."""

from collections.abc import AsyncIterator

import pytest

from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS


@pytest.fixture
async def api_without_database(servers: object) -> AsyncIterator[Api]:
    """An API whose database does not exist, so that it rejects requests without SQL."""
    async with run_api(Settings(database_url="postgresql://user@127.0.0.1:1/none")) as running_api:
        yield running_api


PRICES_FIELD = 'prices(ticker: "btc_usd", {}) {{ nodes {{ ts }} }}'
RANGE_FIELD = 'range(ticker: "btc_usd", {}) {{ ts }}'

REJECTED = [
    (PRICES_FIELD.format("first: 0"), "BAD_USER_INPUT", "first (0) must be from 1 to 1000"),
    (PRICES_FIELD.format("first: 1001"), "BAD_USER_INPUT", "first (1001) must be from 1 to 1000"),
    (PRICES_FIELD.format("last: -1"), "BAD_USER_INPUT", "last (-1) must be from 1 to 1000"),
    (PRICES_FIELD.format("first: 1, last: 1"), "BAD_USER_INPUT", "first and last exclude each other: send only one of them"),
    (PRICES_FIELD.format('after: "x"'), "BAD_USER_INPUT", "after: 'x' is not a valid cursor; use one of an earlier page"),
    (PRICES_FIELD.format('before: "dHM6YWJj"'), "BAD_USER_INPUT", "before: 'dHM6YWJj' is not a valid cursor; use one of an earlier page"),
    (PRICES_FIELD.format('after: "dHM6MDAwMDAwMDAwMDAwOTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk="'), "BAD_USER_INPUT", "after: 'dHM6MDAwMDAwMDAwMDAwOTk5OTk5OTk5OTk5OTk5…' is not a valid cursor; use one of an earlier page"),
    (PRICES_FIELD.format("from: 60, to: 60"), "BAD_USER_INPUT", "from (1970-01-01T00:01:00Z) must be before to (1970-01-01T00:01:00Z)"),
    (RANGE_FIELD.format(f"from: {START_TS}, to: {START_TS - 60}"), "BAD_USER_INPUT", "from (2024-01-15T11:40:00Z) must be before to (2024-01-15T11:39:00Z)"),
    (RANGE_FIELD.format(f"from: 0, to: {50_001 * 60}"), "RANGE_TOO_LARGE", "The window from 1970-01-01T00:00:00Z to 1970-02-04T17:21:00Z has 50001 minutes; the maximum is 50000. Request a shorter window, or page through `prices`."),
    ('latest(ticker: "BTC USD") { ts }', "BAD_USER_INPUT", "ticker: 'BTC USD' is not an index name; names look like btc_usd or drbfix-btc_usdc"),
    ('latest(ticker: "") { ts }', "BAD_USER_INPUT", "ticker: '' is not an index name; names look like btc_usd or drbfix-btc_usdc"),
    ('latest(ticker: "btc\\nusd") { ts }', "BAD_USER_INPUT", "ticker: 'btc\\nusd' is not an index name; names look like btc_usd or drbfix-btc_usdc"),
    ('ticker(name: "; drop") { name }', "BAD_USER_INPUT", "ticker: '; drop' is not an index name; names look like btc_usd or drbfix-btc_usdc"),
    (f'priceAt(ticker: "btc_usd", at: {START_TS}, maxAge: -1) {{ ts }}', "BAD_USER_INPUT", "maxAge (-1) must be 0 or more seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "code", "message"), REJECTED)
async def test_an_invalid_argument_is_rejected_without_sql(
    api_without_database: Api, field: str, code: str, message: str
) -> None:
    assert await api_without_database.error(f"{{ {field} }}") == (code, message)


@pytest.mark.parametrize("shift", [0, 1, 59])
async def test_a_range_of_exactly_the_maximum_reaches_the_database(api_without_database: Api, shift: int) -> None:
    code, _ = await api_without_database.error(f"{{ {RANGE_FIELD.format(f'from: {shift}, to: {50_000 * 60 + shift}')} }}")
    assert code == "UNAVAILABLE"


async def test_a_range_from_long_ago_until_now_is_too_large(api_without_database: Api) -> None:
    code, message = await api_without_database.error(f"{{ {RANGE_FIELD.format('from: 0')} }}")
    assert code == "RANGE_TOO_LARGE"
    assert "the maximum is 50000" in message


@pytest.mark.parametrize(
    ("literal", "value", "hint"),
    [
        ('"yesterday"', "yesterday", "is not a valid time. Use UNIX seconds (1705318800) or ISO 8601 (2024-01-15T11:40:00Z)"),
        ("1705318800000", 1705318800000, "appears to be in milliseconds. Divide by 1000; times are UNIX seconds"),
        ('"1969-12-31"', "1969-12-31", "is outside the years 1970 to 2200"),
        ("-1", -1, "is outside the years 1970 to 2200"),
        ("true", True, "is not a valid time"),
        ("{}", {}, "is not a valid time"),
    ],
)
async def test_an_invalid_time_is_rejected_as_literal_and_as_variable(
    api_without_database: Api, literal: str, value: object, hint: str
) -> None:
    code, message = await api_without_database.error(f"{{ {RANGE_FIELD.format(f'from: {literal}')} }}")
    assert code == "BAD_USER_INPUT"
    assert hint in message
    code, message = await api_without_database.error(
        f"query ($from: UnixTime!) {{ {RANGE_FIELD.format('from: $from')} }}", **{"from": value}
    )
    assert code == "BAD_USER_INPUT"
    assert hint in message


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query ($t: String!) { latest(ticker: $t) { ts } }", "BAD_USER_INPUT"),
    ],
)
async def test_an_invalid_document_gets_its_error_code(api_without_database: Api, query: str, code: str) -> None:
    assert (await api_without_database.error(query))[0] == code


async def test_an_invalid_enum_value_is_rejected_with_the_valid_ones(api: Api) -> None:
    for value in ('"1h"', "ONE_HOURS"):
        _, message = await api.error(f'{{ candles(ticker: "btc_usd", interval: {value}, from: 0, to: 60) {{ ts }} }}')
        assert "Its values are ONE_MINUTE, " in message, message
