"""Parsing and validation are charged by cost, and a fair lock shares them between clients."""

import asyncio
import statistics
import time

import pytest
from graphql import get_introspection_query, validate

from db.pool import Database
from graph.engine.documents import Document, parse_cost
from graph.engine.fair_lock import FairLock
from graph.schema.executable import MAX_VALIDATION_ERRORS, Schema
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import track
from tests.wait import WAIT_TIMEOUT_S

RULES = Schema().field_rules
FRAGMENTS = " ".join(f"fragment F{i} on Price {{ price ts time source id }}" for i in range(48))
HOSTILE_DOCUMENTS = {
    "introspection": get_introspection_query(),
    "copies of a field": '{latest(ticker:"b"){' + "price " * 140 + "}}",
    "copies below copies": "{" + 'prices(ticker:"b"){nodes{price ts} edges{node{price ts}}} ' * 20 + "}",
    "aliases": '{latest(ticker:"b"){' + " ".join(f"a{i}:price" for i in range(50)) + "}}",
    "root fields": "{" + " ".join(f'a{i}:latest(ticker:"b"){{price ts time source id}}' for i in range(20)) + "}",
    "a comment": "#" + "x" * 16_000 + "\n{__typename}",
    "a string": '{latest(ticker:"' + "x" * 16_000 + '"){price}}',
    "a block string": '{latest(ticker:"""' + "x\n" * 8_000 + '"""){price}}',
    "white space": "{" + " " * 16_000 + "__typename}",
    "a long list": "{latestPrices(tickers:[" + ",".join(['"a"'] * 900) + "]){price}}",
    "a large object": "{latest(ticker:{" + " ".join(f"a{i}:1" for i in range(400)) + "}){price}}",
    "directives": '{latest(ticker:"a"){' + "price @skip(if:true) " * 50 + "}}",
    "unknown fields": '{latest(ticker:"b"){' + " ".join(f"pric{i}" for i in range(480)) + "}}",
    "unknown arguments": "{latest(" + " ".join(f"tick{i}:1" for i in range(300)) + "){price}}",
    "fragments": '{latest(ticker:"b"){' + " ".join(f"...F{i}" for i in range(48)) + "}} " + FRAGMENTS,
    "inline fragments": '{latest(ticker:"b"){' + "...{price ts} " * 70 + "}}",
    "variables": "query(" + " ".join(f"$v{i}:Int=1" for i in range(50)) + '){latest(ticker:"b"){price}}',
    "a union": "subscription{changes{" + "...on Price{price} ...on GapOpened{from to count} " * 40 + "}}",
}
MAX_COST_SPREAD = 20


def _cpu_s(schema: Schema, text: str) -> float:
    """Returns the CPU seconds of this thread for parsing and validating the document: the median of five runs."""
    durations_s = []
    for _ in range(5):
        started_at = time.thread_time()
        validate(schema._schema, Document(text, RULES).node, max_errors=MAX_VALIDATION_ERRORS)  # noqa: SLF001  as `prepare` does
        durations_s.append(time.thread_time() - started_at)
    return statistics.median(durations_s)


def test_cost_is_proportional_to_cpu_time_for_hostile_documents() -> None:
    schema = Schema()
    per_cost = {}
    for name, text in HOSTILE_DOCUMENTS.items():
        cost = Document(text, RULES).cost + parse_cost(text)
        assert cost > 0, name
        per_cost[name] = _cpu_s(schema, text) * 1_000 / cost
    report = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(per_cost.items(), key=lambda one: one[1]))
    print(f"CPU milliseconds per unit of cost: {report}")
    assert max(per_cost.values()) / min(per_cost.values()) <= MAX_COST_SPREAD, report


@pytest.mark.usefixtures("no_refill")
async def test_parsing_a_new_document_is_charged_once(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    text = HOSTILE_DOCUMENTS["copies of a field"].replace('"b"', '"btc_usd"')
    document_cost, execution_cost = Document(text, RULES).cost + parse_cost(text), 140
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=600)) as api:
        first, second = [await _remaining(api, text) for _ in range(2)]
    assert 600 - first == pytest.approx(execution_cost + document_cost, abs=1)  # the remaining budget is rounded down
    assert first - second == pytest.approx(execution_cost, abs=1)


async def _remaining(api: Api, text: str) -> int:
    async with api.session.post(f"{api.url}/graphql", json={"query": text}) as response:
        assert response.status == 200
        return int(response.headers["RateLimit"].partition("r=")[2].partition(";")[0])


@pytest.mark.usefixtures("no_refill")
async def test_hostile_documents_use_up_the_rate_limit_of_their_address(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=100)) as api:
        statuses = []
        for number in range(10):
            query = HOSTILE_DOCUMENTS["unknown fields"].replace("pric", f"field{number}")
            async with api.session.post(f"{api.url}/graphql", json={"query": query}) as response:
                statuses.append(response.status)
    assert statuses[0] == 200
    assert statuses[-1] == 429


async def test_the_fair_lock_alternates_between_callers() -> None:
    lock, order = FairLock(), list[str]()
    has_started = asyncio.Event()

    async def work(caller: str, number: int) -> None:
        async with lock.acquire(caller):
            has_started.set()
            order.append(f"{caller}{number}")
            await asyncio.sleep(0)

    tasks_of_a = [asyncio.create_task(work("a", number)) for number in range(50)]
    await has_started.wait()
    await asyncio.gather(work("b", 0), work("c", 0), *tasks_of_a)
    # Some tasks of the first caller ran before the others arrived.
    assert order.index("b0") <= order.index("c0") <= 6
    assert [name for name in order if name[0] == "a"] == [f"a{number}" for number in range(50)]


async def test_a_canceled_waiter_does_not_block_the_fair_lock() -> None:
    lock = FairLock()
    done: list[str] = []

    async def work(caller: str) -> None:
        async with lock.acquire(caller):
            done.append(caller)

    async with lock.acquire("first"):
        waiters = [asyncio.create_task(work(caller)) for caller in ("a", "a", "b")]
        await asyncio.sleep(0)
        waiters[0].cancel()
    waiters[1].cancel()  # at the moment in which it may have acquired the lock
    await asyncio.gather(*waiters, return_exceptions=True)
    async with asyncio.timeout(WAIT_TIMEOUT_S), lock.acquire("last"):
        assert done == ["b"]


@pytest.mark.parametrize("text", ["{" + "__typename " * 150 + "}", "#" + "x" * 20_000 + "\n{__typename}"])
async def test_documents_that_are_slow_to_validate_are_rejected(api: Api, text: str) -> None:
    assert (await api.error(text))[0] == "QUERY_TOO_COMPLEX"
