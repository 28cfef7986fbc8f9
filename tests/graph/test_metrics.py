"""What Prometheus is told of the API: what was asked, how it was answered, by all its processes."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from db.pool import Database
from graph.metrics import MAX_OPERATION_NAMES, OperationNames
from tests.e2e.conftest import free_port
from tests.graph.conftest import Api
from tests.graph.stand import Stand, api_process
from tests.graph.test_live import listening
from tests.stored import MINUTE, row, store, track
from tests.waiting import until


async def scraped(stand: Stand, port: int) -> dict[str, float]:
    """The samples of `/metrics`, by name and labels, without those of time and memory."""
    async with stand.session.get(f"http://127.0.0.1:{port}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        samples = [sample for family in families for sample in family.samples]
    return {f"{sample.name}{{{_labels(sample.labels)}}}": sample.value for sample in samples}


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "pid")


async def test_requests_are_counted_over_all_processes(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * n) for n in range(3)])
    port = free_port()
    async with api_process(dsn, tmp_path, API_METRICS_PORT=str(port), WEB_CONCURRENCY="2", ANSWER_CACHE_MB="0") as stand:
        query = 'query Some { range(ticker: "btc_usd", from: 0, to: 60) { ts } prices(ticker: "btc_usd") { edges { cursor } } }'
        for _ in range(20):
            async with stand.session.post(
                f"{stand.url}/graphql", json={"query": query}, headers={"Connection": "close"}
            ) as response:
                assert "errors" not in await response.json()
        async with stand.session.post(f"{stand.url}/graphql", json={"query": "{ nothing }"}) as response:
            assert response.status == 200
        async with stand.session.get(f"{stand.url}/prices/last?ticker=nobody_usd") as response:
            assert response.status == 404
        told = await scraped(stand, port)
    assert told["tickgraph_requests_total{kind=graphql,status=200}"] == 21
    assert told["tickgraph_requests_total{kind=rest,status=404}"] == 1
    assert told["tickgraph_operations_total{operation=Some,outcome=ok}"] == 20
    assert told["tickgraph_operation_seconds_count{operation=Some}"] == 20
    assert told["tickgraph_list_encodings_total{encoder=postgresql}"] == 20
    assert told["tickgraph_list_encodings_total{encoder=python}"] == 20
    assert told["tickgraph_rejected_requests_total{code=GRAPHQL_VALIDATION_FAILED}"] == 1
    assert told["tickgraph_rejected_requests_total{code=UNKNOWN_TICKER}"] == 1
    assert told["tickgraph_operation_cost_count{}"] == 20
    assert any(re.match(r"tickgraph_build_info\{python=3\S+,version=\d", name) for name in told)


async def test_answers_kept_and_subscriptions_are_told(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    port = free_port()
    async with api_process(dsn, tmp_path, API_METRICS_PORT=str(port)) as stand:
        api = Api(stand.url, stand.session)
        async with listening(api, "subscription { priceAdded { id } }"):

            async def is_told() -> bool:
                await api.data("{ tickers { name } }")
                told = await scraped(stand, port)
                return told["tickgraph_subscribers{}"] == 1 and told.get("tickgraph_cached_responses_total{outcome=hit}", 0) > 0

            await until(is_told)


async def test_a_stream_of_events_is_no_slow_request(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    port = free_port()
    body = {"query": "subscription { priceAdded { id } }"}
    async with api_process(dsn, tmp_path, API_METRICS_PORT=str(port)) as stand:
        async with stand.session.post(f"{stand.url}/graphql", json=body, headers={"Accept": "text/event-stream"}) as events:
            assert await events.content.readline() == b"retry: 1000\n"

        async def is_counted() -> bool:
            return (await scraped(stand, port)).get("tickgraph_requests_total{kind=stream,status=200}") == 1

        await until(is_counted)
        assert not any("request_seconds" in name and "kind=stream" in name for name in await scraped(stand, port))


def test_nobody_makes_new_series_without_end() -> None:
    names = OperationNames()
    assert [names.label_for(f"n{number}") for number in range(MAX_OPERATION_NAMES)] == [
        f"n{number}" for number in range(MAX_OPERATION_NAMES)
    ]
    assert (names.label_for("one more"), names.label_for("n7"), names.label_for(None)) == ("other", "n7", "")
