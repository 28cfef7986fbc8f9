"""API keys and introspection: which requests need a key, and what a hidden schema reveals."""

import hashlib
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr, ValidationError

from db.pool import Database
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

OLD, NEW = "an-old-key", "a-new-key"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
async def protected_api(dsn: str) -> AsyncIterator[Api]:
    """An API with two API keys, and without introspection."""
    settings = Settings(
        database_url=dsn,
        api_keys=(_digest(OLD), _digest(NEW)),
        admin_token=SecretStr("the-admin"),
        introspection=False,
        graphiql=False,
    )
    async with run_api(settings) as running_api:
        yield running_api


@pytest.mark.parametrize("path", ["/graphql?query={tickers{name}}", "/prices?ticker=btc_usd", "/v1/prices/last?ticker=btc_usd"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {OLD}"}, 200),
        ({"Authorization": f"bearer {NEW} "}, 200),
        ({"X-API-Key": NEW}, 200),
        ({"Authorization": "Bearer the-admin"}, 200),
        ({"Authorization": f"Basic {OLD}"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Bearer {_digest(OLD)}"}, 401),
        ({"X-API-Key": "\xe9"}, 401),
    ],
)
async def test_prices_need_a_valid_key(protected_api: Api, path: str, headers: dict[str, str], status: int) -> None:
    async with protected_api.session.get(protected_api.url + path, headers=headers) as response:
        body = await response.text()
        # btc_usd is unknown to REST: this test tracks no ticker.
        assert response.status == (404 if status == 200 and "/prices" in path else status), body
        if status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "UNAUTHENTICATED" in body


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/docs", "/openapi.json", "/static/live/live.css"])
async def test_paths_without_prices_need_no_key(protected_api: Api, path: str) -> None:
    async with protected_api.session.get(protected_api.url + path) as response:
        assert response.status == 200


async def test_without_introspection_the_schema_is_hidden_and_errors_suggest_no_names(protected_api: Api) -> None:
    headers = {"X-API-Key": NEW}
    for query in (
        "{ __schema { types { name } } }",
        '{ __type(name: "Query") { name } }',
        "{ ticker }",
        '{ latest(tiker: "a") { ts } }',
    ):
        async with protected_api.session.post(
            f"{protected_api.url}/graphql", json={"query": query}, headers=headers
        ) as response:
            body = await response.text()
        assert "GRAPHQL_VALIDATION_FAILED" in body
        assert "Did you mean" not in body
        assert "Source" not in body
    async with protected_api.session.get(f"{protected_api.url}/graphql", headers=headers | {"Accept": "text/html"}) as response:
        assert response.status == 406


async def test_with_introspection_errors_suggest_names(api: Api) -> None:
    _, message = await api.error('{ latest(ticker: "a", tiker: "a") { ts } }')
    assert "Did you mean 'ticker'" in message


def test_a_key_instead_of_its_digest_is_rejected() -> None:
    with pytest.raises(SystemExit, match="API_KEYS: should be SHA-256 digests of keys, 64 hexadecimal digits each, not keys"):
        Settings.read(api_keys="secret")


async def test_html_pages_need_no_key(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, api_keys=(_digest(OLD),))) as api:
        for path in ("/", "/graphql"):
            async with api.session.get(api.url + path, headers={"Accept": "text/html"}) as response:
                assert (response.status, response.content_type) == (200, "text/html")
        async with api.session.get(f"{api.url}/graphql?query={{tickers{{name}}}}", headers={"Accept": "text/html"}) as response:
            assert response.status == 401


def test_a_token_that_is_not_ascii_is_rejected_at_startup() -> None:
    with pytest.raises(ValidationError, match="ASCII"):
        Settings(database_url="postgresql://a/b", admin_token=SecretStr("gehéim"))


@pytest.mark.parametrize("path", ["/prices?ticker=btc_usd", "/prices/last?ticker=btc_usd", "/prices/filter?ticker=btc_usd"])
async def test_responses_that_needed_a_key_are_private(dsn: str, db: Database, path: str) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    for keys, is_private in (((_digest(NEW),), True), ((), False)):
        async with (
            run_api(Settings(database_url=dsn, api_keys=keys)) as api,
            api.session.get(api.url + path, headers={"X-API-Key": NEW} if keys else {}) as response,
        ):
            assert response.status == 200
            assert response.headers["Cache-Control"].startswith("private") is is_private
            vary = {name.strip() for name in response.headers["Vary"].split(",")}
            assert (vary >= {"Authorization", "X-API-Key"}) is is_private
