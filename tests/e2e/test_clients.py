"""Real GraphQL clients, auditors and code generators, of Node.js and Python, against a running API."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gql
import pytest
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.aiohttp_websockets import AIOHTTPWebsocketsTransport
from gql.transport.exceptions import TransportQueryError
from graphql import GraphQLError

from db.pool import Database
from graph.settings import Settings
from tests.conftest import ROOT
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S

CLIENTS = ROOT / "tests" / "clients"
PYTHON = CLIENTS / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
    pytest.mark.skipif(not (CLIENTS / "node_modules").exists(), reason="the clients of Node.js are not installed"),
]


@pytest.fixture
async def api(dsn: str) -> AsyncIterator[Api]:
    async with run_api(Settings(database_url=dsn)) as running:
        yield running


async def _run(script: str, *arguments: str) -> list[dict[str, Any]]:
    """Runs a script of tests/clients and returns the JSON objects that it prints, one per line."""
    process = await asyncio.create_subprocess_exec(
        *("node", script, *arguments), cwd=CLIENTS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.splitlines()]


async def test_all_graphql_over_http_audits_pass(api: Api) -> None:
    audits = await _run("audit.js", f"{api.url}/graphql")
    assert [audit for audit in audits if audit["status"] != "ok"] == []
    assert len(audits) == 61


async def test_each_client_receives_data_nulls_and_error_codes(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i, f"6824{i}.5") for i in range(3)])
    latest = await api.data('{ latest(ticker: "btc_usd") { id ts price observedAt source } }')
    found = {one.pop("name"): one for one in await _run("clients.js", f"{api.url}/graphql")}
    assert set(found) == {
        "graphql-request",
        "urql",
        "urql by GET",
        "Apollo Client",
        "Apollo Client by GET",
        "Apollo Client by digest",
    }
    for name, responses in found.items():
        results = {query_name: _without_typenames(response) for query_name, response in responses.items()}
        assert results["latest"] == {"data": latest}, name
        assert results["nothing"] == {"data": {"latest": None}}, name
        prices = [{"ts": START_TS + 60 * i, "price": f"6824{i}.5"} for i in range(2)]
        assert results["window"] == {"data": {"range": prices}}, name
        assert results["openEnd"] == {"data": {"range": []}}, name
        assert [error["code"] for error in results["unknown"]["errors"]] == ["UNKNOWN_TICKER"], name
        assert [error["code"] for error in results["missing"]["errors"]] == ["BAD_USER_INPUT"], name
        assert "ticker" in results["missing"]["errors"][0]["message"], name


async def test_a_graphql_ws_connection_survives_an_invalid_query(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    (results,) = await _run("socket.js", f"{api.url.replace('http', 'ws', 1)}/graphql")
    latest = {"data": {"latest": {"price": "68241.5"}}}
    assert (results["first"], results["afterError"], results["closed"]) == (latest, latest, [])
    assert results["syntax"] == {"refused": ["GRAPHQL_PARSE_FAILED"]}
    assert results["unknown"]["errors"][0]["extensions"]["code"] == "UNKNOWN_TICKER"


async def test_gql_reads_the_schema_and_validates_against_it(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    transport = AIOHTTPTransport(f"{api.url}/graphql", ssl=False)
    async with gql.Client(transport=transport, fetch_schema_from_transport=True) as session:
        document = "query ($t: String!) { latest(ticker: $t) { price ts } }"
        found = await session.execute(gql.GraphQLRequest(document, variable_values={"t": "btc_usd"}))
        assert found == {"latest": {"price": "68241.5", "ts": START_TS}}
        with pytest.raises(TransportQueryError) as raised:
            await session.execute(gql.GraphQLRequest(document, variable_values={"t": "nobody_usd"}))
        assert (raised.value.errors or [])[0]["extensions"]["code"] == "UNKNOWN_TICKER"
        with pytest.raises(GraphQLError, match="Cannot query field 'prise'"):
            await session.execute(gql.gql('{ latest(ticker: "a") { prise } }'))


async def test_each_subscribing_client_receives_every_price_in_order(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i, f"{i + 1}") for i in range(3)])
    process = await asyncio.create_subprocess_exec(
        *("node", "live.js", api.url.removeprefix("http://"), "5"),
        cwd=CLIENTS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    results: dict[str, list[str]] = {}
    for _ in range(5 * 3):
        event = json.loads(await asyncio.wait_for(process.stdout.readline(), WAIT_TIMEOUT_S) or await process.stderr.read())
        results.setdefault(event["name"], []).append(event["price"])
    await store(db, [row("btc_usd", START_TS + 60 * i, f"{i + 1}") for i in range(3, 5)])
    out, err = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT_S)
    assert process.returncode == 0, err.decode()
    for event in map(json.loads, out.splitlines()):
        results[event["name"]].append(event["price"])
    names = "graphql-ws", "Apollo Client", "urql over WebSocket", "urql over events", "graphql-sse"
    assert results == {name: ["1", "2", "3", "4", "5"] for name in names}


async def test_gql_subscribes(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "1")])
    transport = AIOHTTPWebsocketsTransport(f"{api.url.replace('http', 'ws', 1)}/graphql")
    async with gql.Client(transport=transport) as session:
        events = session.subscribe(gql.gql('subscription { priceAdded(after: "0") { price } }'))
        assert await anext(events) == {"priceAdded": {"price": "1"}}
        await store(db, [row("btc_usd", START_TS + 60, "2")])
        assert await anext(events) == {"priceAdded": {"price": "2"}}
        await events.aclose()


@pytest.mark.skipif(not (PYTHON / ".venv").exists(), reason="the clients of Python are not installed")
async def test_a_typed_python_client_is_generated_and_executes_queries(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i, f"6824{i}.5") for i in range(3)])
    commands = PYTHON / ".venv" / "bin"
    env = {
        "SCHEMA": f"{api.url}/graphql",
        "PATH": f"{commands}:{os.environ['PATH']}",
    }  # the generator runs a formatter of the same folder
    await _run_command(commands / "ariadne-codegen", "--config", "ariadne.toml", folder=PYTHON, **env)
    await _run_command(commands / "mypy", "typed.py", folder=PYTHON)
    results = json.loads(await _run_command(commands / "python", "typed.py", f"{api.url}/graphql", folder=PYTHON))
    assert results == {
        "price": "68242.5",
        "minutes": [START_TS + 120, START_TS + 60],
        "ratio": 1.0,
        "nothing": None,
        "codes": ["UNKNOWN_TICKER"],
    }


async def test_generated_types_pass_a_strict_compiler(api: Api) -> None:
    commands = CLIENTS / "node_modules" / ".bin"
    await _run_command(commands / "graphql-codegen", "--config", "codegen.js", SCHEMA=f"{api.url}/graphql")
    await _run_command(commands / "tsc", "--project", "tsconfig.json")


async def test_the_manifest_of_graphql_codegen_is_trusted(api: Api, dsn: str) -> None:
    commands = CLIENTS / "node_modules" / ".bin"
    await _run_command(commands / "graphql-codegen", "--config", "codegen.js", SCHEMA=f"{api.url}/graphql")
    manifest = CLIENTS / "generated" / "trusted" / "persisted-documents.json"
    documents = json.loads(manifest.read_text())
    assert len(documents) >= 3
    async with run_api(Settings(database_url=dsn, trusted_documents=manifest)) as closed:
        for document_id, text in documents.items():
            outcomes = []
            for body in ({"documentId": document_id}, {"query": text}):
                async with closed.session.post(f"{closed.url}/graphql", json=body) as response:
                    outcomes.append({error["extensions"]["code"] for error in (await response.json()).get("errors", [])})
            assert outcomes[0] == outcomes[1]
            assert not outcomes[0] & {"FORBIDDEN", "PERSISTED_QUERY_NOT_FOUND"}
        async with closed.session.post(f"{closed.url}/graphql", json={"query": "{ __typename }"}) as response:
            assert (await response.json())["errors"][0]["extensions"]["code"] == "FORBIDDEN"


async def test_dashboards_match_the_schema_of_grafana() -> None:
    generated = CLIENTS / "generated" / "dashboards.ts"
    generated.parent.mkdir(exist_ok=True)
    boards = (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")
    declarations = [f"export const {board.stem}: Board = {board.read_text()};" for board in sorted(boards)]
    assert len(declarations) == 3
    generated.write_text("\n".join(["import type { Board } from '../grafana.js';", *declarations]))
    await _run_command(CLIENTS / "node_modules" / ".bin" / "tsc", "--project", "tsconfig.grafana.json")


async def _run_command(command: Path, *arguments: str, folder: Path = CLIENTS, **env: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(command), *arguments),
        cwd=folder,
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def _without_typenames(value: Any) -> Any:
    """Removes `__typename`, which some clients add to every selection."""
    if isinstance(value, dict):
        return {name: _without_typenames(member) for name, member in value.items() if name != "__typename"}
    return [_without_typenames(member) for member in value] if isinstance(value, list) else value


async def test_apollo_s_gateway_joins_prices_with_another_service(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    query = '{ positions { size ticker { name tracked latest { price } } } latest(ticker: "btc_usd") { ts } }'
    async with run_api(Settings(database_url=dsn, federation=True)) as subgraph:
        composition, answer = await _run("federation.js", f"{subgraph.url}/graphql", query)
    assert composition["errors"] == []
    assert answer["problems"] == []
    assert answer["result"]["data"] == {
        "positions": [
            {"size": 3, "ticker": {"name": "btc_usd", "tracked": True, "latest": {"price": "68241.5"}}},
            {"size": 2, "ticker": None},
            {"size": 1, "ticker": {"name": "eth_usd", "tracked": True, "latest": None}},
        ],
        "latest": {"ts": START_TS},
    }
    assert answer["requests"] == 2
