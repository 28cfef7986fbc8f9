"""GraphQL over HTTP by its specification: methods, media types, statuses, and request bodies."""

import gzip
import json
import zlib
from typing import Any

import pytest

from graph.http.negotiation import GRAPHQL, JSON, prefers_html, response_media_type
from graph.http.request import MAX_BODY_BYTES
from graph.settings import Settings
from tests.graph.conftest import Api, run_api

QUERY = "{ __typename }"
VALID_BODY = json.dumps({"query": QUERY})


async def _post(api: Api, body: bytes | str, **headers: str) -> tuple[int, dict[str, str], Any]:
    request_headers = {"Content-Type": "application/json", "Accept": GRAPHQL} | {
        name.replace("_", "-"): v for name, v in headers.items()
    }
    request_headers = {name: value for name, value in request_headers.items() if value}
    async with api.session.post(
        f"{api.url}/graphql", data=body, headers=request_headers, skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Accept" in response.headers["Vary"]
        return response.status, dict(response.headers), json.loads(await response.text())


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (GRAPHQL, GRAPHQL),
        (JSON, JSON),
        (f"{GRAPHQL}, {JSON}", GRAPHQL),
        (f"{JSON}, {GRAPHQL}", GRAPHQL),
        (f"{GRAPHQL};q=0.5, {JSON}", JSON),
        (f"{GRAPHQL}; charset=utf-8, {JSON}; charset=utf-8", GRAPHQL),
        (f"{JSON};q=0, */*", GRAPHQL),
        (f"{GRAPHQL};q=0, */*;q=0.1", JSON),
        ("application/json;q=2", JSON),
        ("text/event-stream, application/json", JSON),
        ("text/html", None),
        ("*/*;q=0", None),
        ("application/json;q=nonsense", None),
        (f"{GRAPHQL}; charset=latin-1", None),
        (";;;,,;q=1", None),
    ],
)
def test_the_response_has_the_media_type_that_the_client_prefers(accept: str, media_type: str | None) -> None:
    assert response_media_type(accept) == media_type


@pytest.mark.parametrize(
    ("accept", "is_preferred"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html", True),
        ("*/*", False),
        ("application/json, text/html;q=0.5", False),
        ("", False),
    ],
)
def test_a_browser_is_recognized_by_its_accept_header(accept: str, is_preferred: bool) -> None:
    assert prefers_html(accept) is is_preferred


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not JSON"),
        (b"{", "The body is not JSON"),
        (b"\xff\xfe", "The body is not JSON"),
        (b"[" * 2_000, "The body is not JSON"),
        (b'{"query": "{ a }", "variables": {"a": ' + b"[" * 2_000 + b"]" * 2_000 + b"}}", "The body is not JSON"),
        (b"7", "should be a JSON object"),
        (b'"x"', "should be a JSON object"),
        (b"null", "should be a JSON object"),
        (b"true", "should be a JSON object"),
        (b"[]", "Batching is not supported"),
        (b"[" + VALID_BODY.encode() + b"]", "Batching is not supported"),
        (b"{}", "query is missing"),
        (b'{"query": ""}', "query is missing"),
        (b'{"query": null}', "query is missing"),
        (b'{"query": 7}', "query should be a string"),
        (b'{"query": {"a": 1}}', "query should be a string"),
        (b'{"query": "{ __typename }", "variables": [1]}', "variables should be a JSON object"),
        (b'{"query": "{ __typename }", "variables": "{}"}', "variables should be a JSON object"),
        (b'{"query": "{ __typename }", "operationName": 7}', "operationName should be a string"),
        (b'{"query": "{ __typename }", "extensions": 7}', "extensions should be a JSON object"),
    ],
)
async def test_an_invalid_body_is_rejected_with_a_reason(api: Api, body: bytes, message: str) -> None:
    status, headers, result = await _post(api, body)
    assert (status, list(result)) == (400, ["errors"])
    assert headers["Content-Type"] == f"{GRAPHQL}; charset=utf-8"
    assert result["errors"][0]["message"].startswith(message) or message in result["errors"][0]["message"]
    assert result["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


async def test_numbers_of_any_length_are_client_errors(api: Api) -> None:
    for value in ("9" * 5_000, "1e99999", "-" + "9" * 400):
        query = 'query ($a: UnixTime!) { range(ticker: "a", from: $a) { ts } }'
        body = json.dumps({"query": query, "variables": {"a": "@"}}).replace('"@"', value)
        status, _, result = await _post(api, body)
        assert (status, list(result)) == (400, ["errors"])


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query ($a: String!) { latest(ticker: $a) { ts } }", "BAD_USER_INPUT"),
        ("fragment f on Query { __typename }", "GRAPHQL_VALIDATION_FAILED"),
        ("query a { __typename } query b { __typename }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ " + "a " * 2_500 + "}", "GRAPHQL_PARSE_FAILED"),
        ("{ " + "__typename " * 3_000 + "}", "QUERY_TOO_COMPLEX"),
    ],
)
@pytest.mark.parametrize(("accept", "expected"), [(GRAPHQL, 400), (JSON, 200)])
async def test_a_request_that_is_not_executed_has_no_data_and_the_status_of_its_media_type(
    api: Api, query: str, code: str, accept: str, expected: int
) -> None:
    status, headers, result = await _post(api, json.dumps({"query": query}), Accept=accept)
    assert (status, list(result)) == (expected, ["errors"])
    assert headers["Content-Type"].startswith(accept)
    assert result["errors"][0]["extensions"]["code"] == code


async def test_of_several_operations_the_named_one_is_executed(api: Api) -> None:
    document = "query a { a: __typename } query b { b: __typename }"
    for name in ("a", "b"):
        _, _, result = await _post(api, json.dumps({"query": document, "operationName": name}))
        assert result == {"data": {name: "Query"}}
    _, _, result = await _post(api, json.dumps({"query": document}))
    assert result["errors"][0]["message"] == "The document has 2 operations. Choose one in operationName: a, b"
    status, _, result = await _post(api, json.dumps({"query": document, "operationName": "c"}))
    assert (status, result["errors"][0]["message"]) == (400, "The document has no operation named 'c'")


@pytest.mark.parametrize("parts", [{"variables": None}, {"operationName": None, "extensions": None}, {"extensions": {"a": 1}}])
async def test_null_members_are_equivalent_to_absent_ones(api: Api, parts: dict[str, Any]) -> None:
    status, _, result = await _post(api, json.dumps({"query": QUERY} | parts))
    assert (status, result) == (200, {"data": {"__typename": "Query"}})


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_only_json_in_utf_8_is_accepted_so_forms_of_other_sites_are_rejected(
    api: Api, content_type: str, status: int
) -> None:
    assert (await _post(api, VALID_BODY, Content_Type=content_type))[0] == status


async def test_the_body_size_is_limited_before_and_after_decompression(api: Api) -> None:
    padded = json.dumps({"query": QUERY, "extensions": {"pad": " " * (MAX_BODY_BYTES - 200)}})
    assert (await _post(api, padded))[0] == 200
    too_long = json.dumps({"query": QUERY, "extensions": {"pad": " " * MAX_BODY_BYTES}})
    status, _, result = await _post(api, too_long)
    assert (status, result["errors"][0]["extensions"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    for coding, packed in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        assert (await _post(api, packed(padded.encode()), Content_Encoding=coding))[0] == 200
        bomb = packed(b" " * (50 << 20))
        assert (await _post(api, bomb, Content_Encoding=coding))[0] == 413
        assert (await _post(api, b"nonsense", Content_Encoding=coding))[0] == 400
        assert (await _post(api, packed(VALID_BODY.encode())[:-12], Content_Encoding=coding))[0] == 400
    assert (await _post(api, VALID_BODY, Content_Encoding="br"))[0] == 415


async def test_get_executes_queries_and_rejects_mutations(api: Api) -> None:
    async def get(**params: str) -> tuple[int, str, Any]:
        async with api.session.get(f"{api.url}/graphql", params=params, headers={"Accept": GRAPHQL}) as response:
            return response.status, response.headers.get("Allow", ""), json.loads(await response.text())

    assert await get(query=QUERY) == (200, "", {"data": {"__typename": "Query"}})
    named = {"query": "query a($s: Boolean!) { __typename @skip(if: $s) b: __typename }", "variables": '{"s": true}'}
    assert (await get(**named, operationName="a"))[2] == {"data": {"b": "Query"}}
    status, allow, result = await get(query="mutation { fetchPrices { ts } }")
    assert (status, allow, result["errors"][0]["extensions"]["code"]) == (405, "POST", "METHOD_NOT_ALLOWED")
    for params in ({}, {"query": ""}, {"query": QUERY, "variables": "["}, {"query": QUERY, "variables": "7"}):
        assert (await get(**params))[0] == 400
    async with api.session.get(f"{api.url}/graphql?query=a&query=b", headers={"Accept": GRAPHQL}) as response:
        assert "was sent 2 times" in (await response.json(content_type=None))["errors"][0]["message"]


async def test_head_options_and_other_methods(api: Api) -> None:
    async with api.session.head(f"{api.url}/graphql", params={"query": QUERY}) as response:
        assert (response.status, await response.read()) == (200, b"")
    async with api.session.options(f"{api.url}/graphql") as response:
        assert (response.status, response.headers["Allow"]) == (204, "GET, HEAD, POST, OPTIONS")
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "LINK"):
        async with api.session.request(method, f"{api.url}/graphql") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, POST, OPTIONS")
            assert (await response.json())["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


async def test_a_request_that_accepts_no_available_type_gets_406(api: Api) -> None:
    status, _, result = await _post(api, VALID_BODY, Accept="image/png")
    assert (status, result["errors"][0]["extensions"]["code"]) == (406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8; x=y", "application/json;profile=x", 'APPLICATION/JSON; Charset="UTF-8"']
)
async def test_parameters_of_a_media_type_are_accepted(api: Api, kind: str) -> None:
    assert (await _post(api, VALID_BODY, Content_Type=kind))[0] == 200


async def test_cors_allows_the_headers_that_clients_send(dsn: str) -> None:
    headers = {
        "Origin": "https://theirs.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "if-none-match, apollo-require-preflight, x-api-key, authorization",
    }
    async with (
        run_api(Settings(database_url=dsn, cors_origins=("https://theirs.example",))) as api,
        api.session.options(f"{api.url}/graphql", headers=headers) as response,
    ):
        assert response.status == 200
        assert "if-none-match" in response.headers["Access-Control-Allow-Headers"]
