"""Prometheus metrics of the API, over all its processes."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from db.pool import Database
from db.runtime.embedded import free_port
from graph.metrics import MAX_OPERATION_NAMES, OperationNames
from tests.graph.api_server import ApiProcess, run_api_process
from tests.graph.conftest import Api
from tests.graph.subscriptions import subscribe
from tests.sample_data import START_TS, row, store, track
from tests.wait import wait_until


async def scrape(server: ApiProcess, port: int) -> dict[str, float]:
    """Returns the samples of `/metrics` by name and labels, without the label pid."""
    async with server.session.get(f"http://127.0.0.1:{port}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        samples = [sample for family in families for sample in family.samples]
    return {f"{sample.name}{{{_labels(sample.labels)}}}": sample.value for sample in samples}


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "pid")


@pytest.mark.slow  # starts processes
async def test_requests_are_counted_over_all_processes(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n) for n in range(3)])
    port = free_port()
    async with run_api_process(dsn, tmp_path, API_METRICS_PORT=str(port), WEB_CONCURRENCY="2", ANSWER_CACHE_MB="0") as server:
        query = 'query Some { range(ticker: "btc_usd", from: 0, to: 60) { ts } prices(ticker: "btc_usd") { edges { cursor } } }'
        for _ in range(20):
            async with server.session.post(
                f"{server.url}/graphql", json={"query": query}, headers={"Connection": "close"}
            ) as response:
                assert "errors" not in await response.json()
        async with server.session.post(f"{server.url}/graphql", json={"query": "{ nothing }"}) as response:
            assert response.status == 200
        async with server.session.get(f"{server.url}/prices/last?ticker=unknown_usd") as response:
            assert response.status == 404
        metrics: dict[str, float] = {}

        async def are_counted() -> bool:
            metrics.update(await scrape(server, port))
            counted = [value for name, value in metrics.items() if name.startswith("tickgraph_requests_total")]
            return sum(counted) >= 22

        await wait_until(are_counted)  # a request is counted after its response
    assert metrics["tickgraph_requests_total{kind=graphql,status=200}"] == 21
    assert metrics["tickgraph_requests_total{kind=rest,status=404}"] == 1
    assert metrics["tickgraph_operations_total{operation=Some,outcome=ok}"] == 20
    assert metrics["tickgraph_operation_seconds_count{operation=Some}"] == 20
    assert metrics["tickgraph_list_encodings_total{encoder=postgresql}"] == 20
    assert metrics["tickgraph_list_encodings_total{encoder=python}"] == 20
    assert metrics["tickgraph_rejected_requests_total{code=GRAPHQL_VALIDATION_FAILED}"] == 1
    assert metrics["tickgraph_rejected_requests_total{code=UNKNOWN_TICKER}"] == 1
    assert metrics["tickgraph_operation_cost_count{}"] == 20
    assert any(re.match(r"tickgraph_build_info\{python=3\S+,version=\d", name) for name in metrics)


@pytest.mark.slow  # starts processes
async def test_cache_hits_and_subscribers_are_reported(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    port = free_port()
    async with run_api_process(dsn, tmp_path, API_METRICS_PORT=str(port)) as server:
        api = Api(server.url, server.session)
        async with subscribe(api, "subscription { priceAdded { id } }"):

            async def is_reported() -> bool:
                await api.data("{ tickers { name } }")
                metrics = await scrape(server, port)
                return (
                    metrics["tickgraph_subscribers{}"] == 1
                    and metrics.get("tickgraph_cached_responses_total{outcome=hit}", 0) > 0
                )

            await wait_until(is_reported)


async def test_event_streams_are_not_in_the_request_durations(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    port = free_port()
    body = {"query": "subscription { priceAdded { id } }"}
    async with run_api_process(dsn, tmp_path, API_METRICS_PORT=str(port)) as server:
        async with server.session.post(f"{server.url}/graphql", json=body, headers={"Accept": "text/event-stream"}) as events:
            assert await events.content.readline() == b"retry: 1000\n"

        async def is_counted() -> bool:
            return (await scrape(server, port)).get("tickgraph_requests_total{kind=stream,status=200}") == 1

        await wait_until(is_counted)
        assert not any("request_seconds" in name and "kind=stream" in name for name in await scrape(server, port))


def test_the_number_of_operation_names_is_limited() -> None:
    names = OperationNames()
    assert [names.label_for(f"n{number}") for number in range(MAX_OPERATION_NAMES)] == [
        f"n{number}" for number in range(MAX_OPERATION_NAMES)
    ]
    assert (names.label_for("one more"), names.label_for("n7"), names.label_for(None)) == ("other", "n7", "")
