"""The OpenAPI document is valid and complete, and matches the API."""

import asyncio
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from openapi_spec_validator import validate

from db.pool import Database
from graph.http.rest.openapi import build_document
from graph.settings import Settings
from tests.conftest import ROOT
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

CONFIG = Path(__file__).with_name("schemathesis.toml")

PATHS = {
    "/export",
    "/prices",
    "/prices/all",
    "/prices/last",
    "/prices/latest",
    "/prices/filter",
    "/prices/range",
    "/prices/filtered",
    "/prices/by-date",
    "/candles",
    "/tickers",
    "/coverage",
    "/fetch-prices",
    "/health",
}


def test_the_document_is_valid_and_lists_every_path_status_and_example() -> None:
    api = build_document()
    validate(api)
    assert api["openapi"].startswith("3.1")
    assert set(api["paths"]) == PATHS
    for path, item in api["paths"].items():
        operation = item["get"]
        assert operation["summary"], path
        for parameter in operation.get("parameters", []):
            required = (
                {"description"} if parameter["name"] == "as_of" else {"description", "example"}
            )  # no archive has the same
            assert required <= set(parameter), (path, parameter["name"])
        for response in operation["responses"].values():
            assert response["description"]
            assert response["content"]
        if path != "/health":
            assert {"404", "422", "500", "503", "504"} <= set(operation["responses"])


async def test_examples_of_the_document_are_accepted(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    for path, item in build_document()["paths"].items():
        parameters = item["get"].get("parameters", [])
        if path == "/fetch-prices":
            continue
        examples = {p["name"]: p["example"] for p in parameters if "example" in p}
        query = urlencode(examples, doseq=True)
        async with api.session.get(f"{api.url}{path}?{query}") as response:
            assert response.status == 200, (path, query, await response.text())


# A GraphQL schema cannot express which strings are index names. schemathesis_scalars replaces the second check.
GRAPHQL_OPTIONS = ("--exclude-checks", "positive_data_acceptance,not_a_server_error")


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "options"), [("openapi.json", ()), ("graphql", GRAPHQL_OPTIONS)])
async def test_schemathesis_finds_no_failures(
    dsn: str, redis_url: str, db: Database, tmp_path: Path, schema: str, options: tuple[str, ...]
) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(10)])
    async with run_api(Settings(database_url=dsn, redis_url=redis_url)) as api:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG)),
            *("run", f"{api.url}/{schema}", *(("--url", api.url) if schema == "openapi.json" else ())),
            *("--max-examples", "25", "--seed", "42", "--generation-database", "none", "--no-color", *options),
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.graph.schemathesis_scalars", "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.parametrize("path", ["/graphql", "/docs", "/api/docs", "/redoc", "/api/redoc"])
async def test_html_pages_use_only_files_of_this_server(api: Api, path: str) -> None:
    async with api.session.get(f"{api.url}{path}", headers={"Accept": "text/html"}) as response:
        page = await response.text()
    assert response.status == 200
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy, "default-src must apply to scripts: no inline scripts, no eval"
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bon\w+=", page) == []
    assert "//" not in page.replace("<!doctype html>", "")
    for link in [part.split('"')[0] for part in page.replace('src="', 'href="').split('href="')[1:]]:
        async with api.session.get(f"{api.url}{link}", headers={"Accept": "text/html, */*"}) as response:
            assert response.status == 200, link
