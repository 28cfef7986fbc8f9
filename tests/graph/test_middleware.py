"""What surrounds every request."""

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
from tests.graph.conftest import Api, serving, serving_app
from tests.stored import MINUTE, row, store, track


async def _broken(_request: Request) -> Response:
    raise ZeroDivisionError("the inside")


async def test_a_request_id_is_taken_over_when_well_formed_else_made(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    async with api.session.get(f"{api.url}/health", headers={"X-Request-ID": "mine-42"}) as response:
        assert response.headers["X-Request-ID"] == "mine-42"
    for bad in ("has space", "x" * 200, "ä"):
        async with api.session.get(f"{api.url}/health", headers={"X-Request-ID": bad}) as response:
            made = response.headers["X-Request-ID"]
            assert made != bad
            assert len(made) == 32


async def test_each_request_is_one_line_of_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "graph.access")
    async with api.session.get(f"{api.url}/prices?ticker=btc_usd") as response:
        size = len(await response.read())
    (line,) = [record for record in caplog.records if record.name == "graph.access"]
    assert line.getMessage() == "GET /prices"
    assert (line.__dict__["status"], line.__dict__["bytes"]) == (404, size)
    assert line.__dict__["duration_ms"] >= 0


async def test_a_mistake_of_ours_is_a_500_with_the_requests_id_and_nothing_of_the_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Starlette(
        routes=[Route("/prices", _broken), Route("/graphql", _broken)],
        middleware=[Middleware(AccessLogMiddleware)],
    )
    async with serving_app(app) as api:
        async with api.session.get(f"{api.url}/prices", headers={"X-Request-ID": "r1"}) as response:
            assert response.status == 500
            assert response.headers["Content-Type"] == "application/problem+json"
            assert (await response.json(content_type=None))["detail"] == "Internal server error. Report the request id r1."
        async with api.session.get(f"{api.url}/graphql") as response:
            assert response.status == 500
            body = json.loads(await response.text())
            assert body["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert "the inside" in caplog.text


async def test_long_answers_are_compressed_where_asked_for(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * i) for i in range(100)])
    for asked, encoding in (("gzip", "gzip"), ("identity", None)):
        async with api.session.get(f"{api.url}/prices?ticker=btc_usd", headers={"Accept-Encoding": asked}) as response:
            assert response.headers.get("Content-Encoding") == encoding
            assert len(await response.json()) == 100


async def test_pages_of_other_origins_may_call_only_where_it_is_set(dsn: str, api: Api) -> None:
    headers = {"Origin": "https://example.org"}
    async with api.session.get(f"{api.url}/health", headers=headers) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
    async with (
        serving(Settings(database_url=dsn, cors_origins=("https://example.org",))) as other,
        other.session.get(f"{other.url}/health", headers=headers) as response,
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"


@pytest.mark.parametrize(
    ("path", "format_path"),
    [
        ("/a%0a12:00:00Z%20all%20is%20well", "GET /a%0A12%3A00%3A00Z%20all%20is%20well"),
        ("/%1b[31m%e2%80%ae", "GET /%1B%5B31m%E2%80%AE"),
        ("/" + "a" * 5_000, f"GET /{'a' * 199}…"),
    ],
)
async def test_a_line_of_the_log_is_one_line(api: Api, caplog: pytest.LogCaptureFixture, path: str, format_path: str) -> None:
    caplog.set_level(logging.INFO, "graph.access")
    async with api.session.get(URL(api.url + path, encoded=True)) as response:
        assert response.status == 404
    assert [record.getMessage() for record in caplog.records if record.name == "graph.access"] == [format_path]
