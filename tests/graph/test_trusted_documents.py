"""TRUSTED_DOCUMENTS closes the API to all documents that are not in the manifest; `/schema.graphql` and `/llms.txt`."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import graphql
import pytest

from db.pool import Database
from graph.http.application import application
from graph.settings import Settings
from tests.conftest import ROOT
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import open_socket, subscribe_and_wait
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S

LATEST = "query Latest($ticker: String!) {\n  latest(ticker: $ticker) {\n    ts\n  }\n}"
ADDED = "subscription Added { priceAdded { ts } }"
MANIFEST = {sha256(text.encode()).hexdigest(): text for text in (LATEST, ADDED)}
VARIABLES = {"ticker": "btc_usd"}


async def post(api: Api, **body: Any) -> dict[str, Any]:
    async with api.session.post(f"{api.url}/graphql", json=body) as response:
        found: dict[str, Any] = await response.json()
        return found


def _code(body: dict[str, Any]) -> str:
    (error,) = body["errors"]
    return str(error["extensions"]["code"])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "persisted-documents.json"
    file.write_text(json.dumps(MANIFEST))
    return file


async def test_only_documents_of_the_manifest_are_executed(dsn: str, db: Database, manifest: Path) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    expected = {"data": {"latest": {"ts": START_TS}}}
    digest = sha256(LATEST.encode()).hexdigest()
    async with run_api(Settings(database_url=dsn, trusted_documents=manifest)) as api:
        assert await post(api, query=LATEST, variables=VARIABLES) == expected
        assert await post(api, query=" ".join(LATEST.split()), variables=VARIABLES) == expected, "with other white space"
        persisted = {"persistedQuery": {"version": 1, "sha256Hash": digest}}
        assert await post(api, extensions=persisted, variables=VARIABLES) == expected
        for document_id in (digest, f"sha256:{digest}"):
            assert await post(api, documentId=document_id, variables=VARIABLES) == expected
            params = {"documentId": document_id, "variables": json.dumps(VARIABLES)}
            async with api.session.get(f"{api.url}/graphql", params=params, headers={"Accept": "application/json"}) as response:
                assert await response.json() == expected
        for query in ("{ tickers { name } }", "{ __typename }", 'query Latest { latest(ticker: "btc_usd") { ts } }', "{", "#"):
            assert _code(await post(api, query=query)) == "FORBIDDEN", query
        other = "{ tickers { name } }"
        for _ in range(2):  # a client cannot add a document
            assert (
                _code(
                    await post(
                        api,
                        query=other,
                        extensions={"persistedQuery": {"version": 1, "sha256Hash": sha256(other.encode()).hexdigest()}},
                    )
                )
                == "FORBIDDEN"
            )
        assert _code(await post(api, documentId="0" * 64)) == "PERSISTED_QUERY_NOT_FOUND"
        async with subscribe_and_wait(api, ADDED) as listener:
            await store(db, [row("btc_usd", START_TS + 60)])
            assert await listener.events(1) == [{"ts": START_TS + 60}]
        async with open_socket(api) as socket:
            payload = {"query": "subscription { priceAdded { id } }"}
            await socket.send_json({"id": "1", "type": "subscribe", "payload": payload})
            message = await socket.receive_json(timeout=WAIT_TIMEOUT_S)
            assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "FORBIDDEN")


async def test_without_a_manifest_a_document_id_is_no_document(api: Api) -> None:
    assert _code(await post(api, documentId="x")) == "BAD_REQUEST"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"a": "query {"}', '{"a": 1}', '{"format": "apollo-persisted-query-manifest"}']
)
def test_an_invalid_manifest_ends_the_start(tmp_path: Path, content: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(content)
    for path in (file, tmp_path / "missing.json"):
        with pytest.raises(SystemExit, match=f"TRUSTED_DOCUMENTS={re.escape(str(path))}: "):
            application(Settings(database_url="postgresql://127.0.0.1/none", trusted_documents=path))


async def test_an_apollo_manifest_is_read(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    operation = {"id": "abc", "name": "Types", "type": "query", "body": "query Types { __typename }"}
    file.write_text(json.dumps({"format": "apollo-persisted-query-manifest", "version": 1, "operations": [operation]}))
    async with run_api(Settings(database_url=dsn, trusted_documents=file)) as api:
        assert await post(api, documentId="abc") == {"data": {"__typename": "Query"}}


async def test_the_schema_is_served_as_text(api: Api, dsn: str) -> None:
    async with api.session.get(f"{api.url}/schema.graphql") as response:
        text = await response.text()
    assert text == (ROOT / "graph" / "schema.graphql").read_text()
    graphql.build_schema(text)
    async with (
        run_api(Settings(database_url=dsn, introspection=False)) as closed,
        closed.session.get(f"{closed.url}/schema.graphql") as response,
    ):
        assert response.status == 404


async def test_the_queries_for_agents_work(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    async with api.session.get(f"{api.url}/llms.txt") as response:
        text = await response.text()
        assert response.content_type == "text/plain"
    assert f"{api.url}/graphql" in text
    assert "{base}" not in text
    queries = re.findall(r"^- `(\{.*\})`", text, re.MULTILINE)
    assert len(queries) == 5
    for query in queries:
        await api.data(query)
    for path in re.findall(r"\]\((http[^)]+)\)", text):
        async with api.session.get(path) as response:
            assert response.status == 200, path
