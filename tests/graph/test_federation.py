"""The schema as a subgraph. Apollo's composition and gateway run in tests/e2e/test_clients.py."""

from collections.abc import AsyncIterator

import graphql
import pytest

from db.pool import Database
from graph.schema.federation import DIRECTIVES, build_sdl
from graph.settings import Settings
from tests.graph.conftest import Api, run_api, wait_until_listening
from tests.sample_data import START_TS, row, store, track

ENTITIES = (
    "query ($them: [_Any!]!) { _entities(representations: $them) { ... on Ticker { name tracked latest { ts price } } } }"
)


@pytest.fixture
async def subgraph(dsn: str) -> AsyncIterator[Api]:
    async with run_api(Settings(database_url=dsn, federation=True)) as running_api:
        await wait_until_listening(running_api)
        yield running_api


def _ticker(name: object) -> dict[str, object]:
    return {"__typename": "Ticker", "name": name}


async def test_entities_come_in_the_order_of_their_names_with_one_statement(
    subgraph: Api, db: Database, work_log: list[str]
) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    del work_log[:]
    found = await subgraph.data(ENTITIES, them=[_ticker("eth_usd"), _ticker("not a name!"), _ticker("BTC_USD")] * 2)
    assert (
        found["_entities"]
        == [
            {"name": "eth_usd", "tracked": True, "latest": None},
            None,
            {"name": "btc_usd", "tracked": True, "latest": {"ts": START_TS, "price": "68241.5"}},
        ]
        * 2
    )
    assert len([one for one in work_log if one != "validation"]) == 1


@pytest.mark.parametrize(
    "wrong", ["btc_usd", 1, [], {}, {"name": "btc_usd"}, {"__typename": "Price", "name": "btc_usd"}, _ticker(1)]
)
async def test_a_representation_that_is_no_ticker_is_named(subgraph: Api, wrong: object) -> None:
    code, message = await subgraph.error(ENTITIES, them=[_ticker("btc_usd"), wrong])
    assert code == "BAD_USER_INPUT"
    assert message.startswith("representations: ")


async def test_the_number_of_entities_is_bounded(subgraph: Api) -> None:
    code, message = await subgraph.error(ENTITIES, them=[_ticker("btc_usd")] * 1_001)
    assert (code, message) == ("BAD_USER_INPUT", "representations: 1001 exceed the maximum of 1000")


async def test_the_sdl_for_a_gateway_has_a_directive_for_each_shared_type(subgraph: Api, api: Api) -> None:
    sdl = (await subgraph.data("{ _service { sdl } }"))["_service"]["sdl"]
    assert sdl == build_sdl()
    document = graphql.parse(sdl)
    found = {
        node.name.value: [one.name.value for one in node.directives]
        for node in document.definitions
        if isinstance(node, graphql.ObjectTypeDefinitionNode) and node.directives
    }
    assert found == {name: [directive[1:].partition("(")[0]] for name, directive in DIRECTIVES.items()}
    # Without the setting, the fields do not exist.
    assert (await api.error("{ _service { sdl } }"))[0] == "GRAPHQL_VALIDATION_FAILED"
