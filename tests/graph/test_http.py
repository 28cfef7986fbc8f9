"""The application: health, database outages, HTML pages, static files, and unexpected errors."""

import asyncio
import hashlib
import time
from pathlib import Path

import pytest

from db import migrate
from db.pool import Database, open_database
from db.runtime import embedded
from graph.http.graphql import STATIC_DIR
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import row, store, track
from tests.wait import wait_until


async def test_health_lists_last_minute_age_and_staleness_of_each_ticker(api: Api, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", "eth_usd", since=now - 600)
    await store(db, [row("btc_usd", now), row("eth_usd", now - 300)])
    async with api.session.get(f"{api.url}/health") as response:
        assert response.status == 200
        body = await response.json()
    assert body["status"] == "ok"
    btc, eth = body["tickers"]
    assert 0 <= btc.pop("age_s") < 120
    assert btc == {"ticker": "btc_usd", "tracked": True, "ts": now, "stale": False}
    assert eth["stale"] is True


async def test_requests_fail_quickly_without_the_database_and_recover_by_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with embedded.postgres(folder, durable=False) as server:
        await asyncio.to_thread(migrate.upgrade, server.url)
        port = server.url.rpartition(":")[2].partition("/")[0]
        async with open_database(server.url, application_name="tests") as db:
            await track(db, "btc_usd")
    async with run_api(Settings(database_url=server.url)) as api:
        await _check_unavailable(api)
        with embedded.postgres(folder, durable=False, port=int(port)):
            await wait_until(lambda: _is_available(api))
        await _check_unavailable(api)
        with embedded.postgres(folder, durable=False, port=int(port)):
            await wait_until(lambda: _is_available(api))


async def _is_available(api: Api) -> bool:
    return (await api.execute("{ tickers { name } }")).get("data") == {"tickers": [{"name": "btc_usd"}]}


async def _check_unavailable(api: Api) -> None:
    code, message = await api.error("{ tickers { name } }")
    assert (code, message) == ("UNAVAILABLE", "The database is unavailable. Retry in a few seconds.")
    async with api.session.get(f"{api.url}/health") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "unavailable"


async def test_graphiql_uses_only_files_of_this_server(api: Api) -> None:
    async with api.session.get(f"{api.url}/graphql", headers={"Accept": "text/html"}) as response:
        page = await response.text()
    assert response.status == 200
    assert "http://" not in page
    assert "https://" not in page
    for link in [part.split('"')[0] for part in page.replace('src="', 'href="').split('href="')[1:]]:
        async with api.session.get(f"{api.url}{link}", headers={"Accept": "text/html, */*"}) as response:
            assert response.status == 200, link


def test_vendored_files_match_their_published_checksums() -> None:
    vendor = STATIC_DIR / "vendor"
    lines = (vendor / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    paths = (file.relative_to(vendor) for file in vendor.rglob("*") if file.is_file())
    files = {path.as_posix() for path in paths if path.suffix not in (".LICENSE", ".md", "")}
    assert set(sums) == files
    for name, expected in sums.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == expected, name
        assert all(part in (vendor / "README.md").read_text() for part in name.split("/", 1))


async def test_an_unexpected_error_exposes_no_internal_details(
    api: Api, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await db.execute("ALTER TABLE price RENAME COLUMN observed_at TO seen_at")
    query = {"query": '{ latest(ticker: "btc_usd") { price } }'}
    async with api.session.post(f"{api.url}/graphql", json=query, headers={"X-Request-ID": "mine-7"}) as response:
        (error,) = (await response.json())["errors"]
    assert error["message"] == "Internal server error. Report the request id mine-7."
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    assert 'column "observed_at" does not exist' in caplog.text


async def test_health_fails_for_a_database_without_tables(empty_dsn: str) -> None:
    async with run_api(Settings(database_url=empty_dsn)) as api:
        async with api.session.get(f"{api.url}/health") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert "python -m db migrate" in (await response.json())["database"]
        code, message = await api.error("{ tickers { name } }")
        assert code == "UNAVAILABLE"
        assert "python -m db migrate" in message


@pytest.mark.parametrize("body", ["null", "7", '"x"', "", "{", "\xff"])
async def test_a_body_that_is_not_an_object_is_a_client_error(api: Api, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with api.session.post(f"{api.url}/graphql", data=body.encode("latin-1"), headers=headers) as response:
        assert response.status == 400


async def test_static_files_have_cache_headers_and_etags(api: Api) -> None:
    for path, cache_control in (
        ("vendor/react-18.3.1.production.min.js", "public, max-age=31536000, immutable"),
        ("page.css", "no-cache"),
    ):
        async with api.session.get(f"{api.url}/static/{path}") as response:
            assert response.status == 200
            assert response.headers["Cache-Control"] == cache_control
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            tag = response.headers["ETag"]
        async with api.session.get(f"{api.url}/static/{path}", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
    async with api.session.get(f"{api.url}/graphql", headers={"Accept": "text/html"}) as response:
        assert "Accept" in response.headers["Vary"]


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.css", "/v1/nothing"])
async def test_an_unknown_path_is_a_page_for_browsers_and_a_problem_for_programs(api: Api, path: str) -> None:
    async with api.session.get(api.url + path, headers={"Accept": "text/html,*/*;q=0.8"}) as response:
        assert (response.status, response.content_type) == (404, "text/html")
    async with api.session.get(api.url + path) as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
        assert "This path does not exist" in (await response.json())["detail"]
