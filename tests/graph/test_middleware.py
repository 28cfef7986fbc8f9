"""Request ids, the access log, compression, and CORS."""

import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from yarl import URL

from db.pool import Database
from graph.http.middleware import AccessLogMiddleware
from graph.settings import Settings
from tests.graph.conftest import Api, run_api, run_app
from tests.sample_data import START_TS, row, store, track


async def _fail(_request: Request) -> Response:
    raise ZeroDivisionError("internal detail")


async def test_a_valid_request_id_is_reused_and_an_invalid_one_replaced(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    async with api.session.get(f"{api.url}/health", headers={"X-Request-ID": "mine-42"}) as response:
        assert response.headers["X-Request-ID"] == "mine-42"
    for invalid_id in ("has space", "x" * 200, "ä"):
        async with api.session.get(f"{api.url}/health", headers={"X-Request-ID": invalid_id}) as response:
            generated_id = response.headers["X-Request-ID"]
            assert generated_id != invalid_id
            assert len(generated_id) == 32


async def test_each_request_is_one_line_of_the_access_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "graph.access")
    async with api.session.get(f"{api.url}/prices?ticker=btc_usd") as response:
        size = len(await response.read())
    (line,) = [record for record in caplog.records if record.name == "graph.access"]
    assert line.getMessage() == "GET /prices"
    assert (line.__dict__["status"], line.__dict__["bytes"]) == (404, size)
    assert line.__dict__["duration_ms"] >= 0


async def test_an_internal_error_is_a_500_with_the_request_id_and_no_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Starlette(
        routes=[Route("/prices", _fail), Route("/graphql", _fail)],
        middleware=[Middleware(AccessLogMiddleware)],
    )
    async with run_app(app) as api:
        async with api.session.get(f"{api.url}/prices", headers={"X-Request-ID": "r1"}) as response:
            assert response.status == 500
            assert response.headers["Content-Type"] == "application/problem+json"
            assert (await response.json(content_type=None))["detail"] == "Internal server error. Report the request id r1."
        async with api.session.get(f"{api.url}/graphql") as response:
            assert response.status == 500
            body = json.loads(await response.text())
            assert body["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert "internal detail" in caplog.text


async def test_long_responses_are_compressed_on_request(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(100)])
    for accept_encoding, encoding in (("gzip", "gzip"), ("identity", None)):
        async with api.session.get(
            f"{api.url}/prices?ticker=btc_usd", headers={"Accept-Encoding": accept_encoding}
        ) as response:
            assert response.headers.get("Content-Encoding") == encoding
            assert len(await response.json()) == 100


async def test_cross_origin_requests_are_allowed_only_for_configured_origins(dsn: str, api: Api) -> None:
    headers = {"Origin": "https://example.org"}
    async with api.session.get(f"{api.url}/health", headers=headers) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
    async with (
        run_api(Settings(database_url=dsn, cors_origins=("https://example.org",))) as cors_api,
        cors_api.session.get(f"{cors_api.url}/health", headers=headers) as response,
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/a%0a12:00:00Z%20all%20is%20well", "GET /a%0A12%3A00%3A00Z%20all%20is%20well"),
        ("/%1b[31m%e2%80%ae", "GET /%1B%5B31m%E2%80%AE"),
        ("/" + "a" * 5_000, f"GET /{'a' * 199}…"),
    ],
)
async def test_a_path_cannot_break_or_forge_a_line_of_the_access_log(
    api: Api, caplog: pytest.LogCaptureFixture, path: str, message: str
) -> None:
    caplog.set_level(logging.INFO, "graph.access")
    async with api.session.get(URL(api.url + path, encoded=True)) as response:
        assert response.status == 404
    assert [record.getMessage() for record in caplog.records if record.name == "graph.access"] == [message]
