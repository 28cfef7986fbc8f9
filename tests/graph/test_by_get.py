"""Queries by GET: Cache-Control, ETags, and persisted documents."""

import hashlib
import json
import re
import time
from typing import Any

import pytest
from multidict import CIMultiDictProxy

from db.pool import Database
from graph.http.persisted_queries import MAX_PERSISTED_BYTES
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

LATEST = '{ latest(ticker: "btc_usd") { ts price } }'
WINDOW = f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 180}) {{ ts price }} }}'
WINDOWS = f"""
{{ a: range(ticker: "btc_usd", from: {START_TS}, to: "2024-01-15T11:42:00") {{ ts }} ...b }}
fragment b on Query {{ prices(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60}) {{ nodes {{ ts }} }} }}
"""
LONG, SHORT = "public, max-age=86400", "public, max-age=5"


async def _get(
    api: Api, query: str, headers: dict[str, str] | None = None, **extra_params: str
) -> tuple[int, CIMultiDictProxy[str], str]:
    async with api.session.get(f"{api.url}/graphql", params={"query": query} | extra_params, headers=headers) as response:
        return response.status, response.headers, await response.text()


@pytest.fixture
async def three_prices(db: Database) -> None:
    """Three minutes of btc_usd."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(3)])


@pytest.mark.usefixtures("three_prices")
@pytest.mark.parametrize(
    ("query", "cache_control", "has_etag"),
    [
        (WINDOW, LONG, True),
        (f'{{ range(ticker: "btc_usd", from: {START_TS - 59}, to: {START_TS + 121}) {{ price }} }}', LONG, True),
        (WINDOWS, LONG, True),
        (WINDOW.replace(str(START_TS + 180), str(START_TS + 240)), SHORT, True),  # has a gap
        (f'{{ prices(ticker: "btc_usd", from: {START_TS}) {{ nodes {{ ts }} }} }}', SHORT, True),  # has no end
        (f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 180}) {{ ts }} tickers {{ name }} }}', SHORT, True),
        (LATEST, SHORT, True),
        ("{ __schema { queryType { name } } }", SHORT, True),
        ("{ tickers { name ageS } }", SHORT, False),
        ("{ tickers { ...t } } fragment t on Ticker { stale }", SHORT, False),
        (f'{{ coverage(ticker: "btc_usd", from: {START_TS}) {{ expected }} }}', SHORT, False),
    ],
)  # fmt: skip
async def test_cache_control_depends_on_whether_the_data_can_change(
    api: Api, query: str, cache_control: str, has_etag: bool
) -> None:
    status, headers, body = await _get(api, query)
    assert (status, headers["Cache-Control"], "ETag" in headers) == (200, cache_control, has_etag), body
    assert "errors" not in body
    assert headers["Vary"] == "Accept, Accept-Encoding"


async def test_the_current_minute_is_never_cached_for_long(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    minute = int(time.time()) // 60 * 60
    await store(db, [row("btc_usd", minute + 60 * i) for i in range(-2, 3)])
    window = f'{{ range(ticker: "btc_usd", from: {minute}, to: {minute + 180}) {{ ts }} }}'
    assert (await _get(api, window))[1]["Cache-Control"] == SHORT


async def test_an_error_never_matches_if_none_match(api: Api) -> None:
    status, _, body = await _get(api, '{ latest(ticker: "unknown_usd") { ts } }', {"If-None-Match": "*"})
    assert (status, "UNKNOWN_TICKER" in body) == (200, True)


@pytest.mark.usefixtures("three_prices")
async def test_the_rows_of_a_very_long_window_are_not_counted(api: Api, work_log: list[str]) -> None:
    query = f'{{ prices(ticker: "btc_usd", from: 0, to: {START_TS}, first: 1) {{ nodes {{ ts }} }} }}'
    assert (await _get(api, query))[1]["Cache-Control"] == SHORT
    assert not any("count(*) FROM price WHERE" in statement for statement in work_log)


@pytest.mark.usefixtures("three_prices")
@pytest.mark.parametrize("query", ["{ latest(ticker: 7) }", '{ latest(ticker: "unknown_usd") { ts } }', "{", ""])
async def test_errors_are_not_cacheable(api: Api, query: str) -> None:
    _, headers, _ = await _get(api, query)
    assert headers["Cache-Control"] == "no-store"
    assert "ETag" not in headers


@pytest.mark.usefixtures("three_prices")
async def test_a_matching_etag_gets_304_without_running_the_query(api: Api, db: Database, work_log: list[str]) -> None:
    _, first, _ = await _get(api, LATEST)
    for if_none_match in (first["ETag"], f'"another", {first["ETag"]}', first["ETag"].removeprefix("W/")):
        work_log.clear()
        status, headers, body = await _get(api, LATEST, {"If-None-Match": if_none_match})
        assert (status, body) == (304, "")
        assert [headers[name] for name in ("ETag", "Cache-Control")] == [first[name] for name in ("ETag", "Cache-Control")]
        assert headers["Vary"] == "Accept, Accept-Encoding"
        assert len(work_log) == 1, "only the data version is read"
    await store(db, [row("btc_usd", START_TS + 180)])
    status, headers, body = await _get(api, LATEST, {"If-None-Match": first["ETag"]})
    assert (status, json.loads(body)["data"]["latest"]["ts"]) == (200, START_TS + 180)
    assert headers["ETag"] != first["ETag"]


@pytest.mark.usefixtures("three_prices")
async def test_the_etag_of_a_complete_past_window_survives_later_commits(api: Api, db: Database) -> None:
    _, first, _ = await _get(api, WINDOW)
    await store(db, [row("btc_usd", START_TS + 180)])
    status, headers, _ = await _get(api, WINDOW, {"If-None-Match": first["ETag"]})
    assert (status, headers["Cache-Control"]) == (304, LONG)


@pytest.mark.usefixtures("three_prices")
async def test_etags_differ_by_operation_extensions_and_media_type(api: Api) -> None:
    query = "query a($n: String!) { latest(ticker: $n) { ts } } query b($n: String!) { latest(ticker: $n) { ts } }"
    btc, eth = '{"n": "btc_usd"}', '{"n": "eth_usd"}'
    requests: list[tuple[dict[str, str] | None, dict[str, str]]] = [
        (None, {"operationName": "a", "variables": btc}),
        (None, {"operationName": "b", "variables": btc}),
        (None, {"operationName": "a", "variables": btc, "extensions": '{"cost": true}'}),
        ({"Accept": "application/graphql-response+json"}, {"operationName": "a", "variables": btc}),
    ]
    tags = [(await _get(api, query, headers, **extra_params))[1]["ETag"] for headers, extra_params in requests]
    assert len(set(tags)) == len(requests)
    assert "ETag" not in (await _get(api, query, None, operationName="a", variables=eth))[1]


async def test_with_api_keys_responses_are_private(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    settings = Settings(database_url=dsn, api_keys=(hashlib.sha256(b"a-key").hexdigest(),))
    async with run_api(settings) as api:
        _, headers, _ = await _get(api, LATEST, {"X-API-Key": "a-key"})
    assert headers["Cache-Control"] == "private, max-age=5"
    assert headers["Vary"] == "Accept, Accept-Encoding, Authorization, X-API-Key"


async def test_post_responses_are_not_cacheable(api: Api) -> None:
    async with api.session.post(f"{api.url}/graphql", json={"query": "{ __typename }"}) as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert "ETag" not in response.headers


def _hash_extensions(text: str) -> str:
    return json.dumps({"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(text.encode()).hexdigest()}})


async def _get_by_hash(api: Api, digest: str, **extra_params: str) -> tuple[int, Any]:
    params = {"extensions": digest} | extra_params
    async with api.session.get(f"{api.url}/graphql", params=params) as response:
        return response.status, json.loads(await response.text())


@pytest.mark.usefixtures("three_prices")
async def test_a_persisted_document_is_executed_by_its_digest(api: Api) -> None:
    digest = _hash_extensions(LATEST)
    status, result = await _get_by_hash(api, digest)
    assert (status, result["errors"][0]["message"]) == (200, "PersistedQueryNotFound")
    assert result["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
    expected = {"data": {"latest": {"ts": START_TS + 120, "price": "100"}}}
    body = {"query": LATEST, "extensions": json.loads(digest)}
    async with api.session.post(f"{api.url}/graphql", json=body) as response:
        assert await response.json() == expected
    assert await _get_by_hash(api, digest) == (200, expected)
    upper_case = re.sub("[0-9a-f]{64}", lambda found: found[0].upper(), digest)
    assert await _get_by_hash(api, upper_case) == (200, expected)


@pytest.mark.parametrize(
    "extensions",
    ['{"persistedQuery": 7}', '{"persistedQuery": {}}', '{"persistedQuery": {"version": 2, "sha256Hash": "a"}}',
     '{"persistedQuery": {"version": 1, "sha256Hash": 7}}', _hash_extensions("another")],
)  # fmt: skip
async def test_an_invalid_digest_is_rejected(api: Api, extensions: str) -> None:
    status, result = await _get_by_hash(api, extensions, query=LATEST)
    assert (status, result["errors"][0]["extensions"]["code"]) == (400, "BAD_REQUEST")
    assert result["errors"][0]["message"].startswith("extensions.persistedQuery")


async def test_the_memory_of_persisted_documents_is_limited(api: Api) -> None:
    filler = "#" + "x" * 16_000
    texts = [f"{{ __typename }}{filler}{number}" for number in range(MAX_PERSISTED_BYTES // len(filler) + 2)]
    for text in texts:
        body = {"query": text, "extensions": json.loads(_hash_extensions(text))}
        async with api.session.post(f"{api.url}/graphql", json=body) as response:
            assert response.status == 200
    assert "errors" in (await _get_by_hash(api, _hash_extensions(texts[0])))[1]
    assert "data" in (await _get_by_hash(api, _hash_extensions(texts[-1])))[1]
