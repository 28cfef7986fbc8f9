"""The API under a sub-path of a proxy, whether the proxy removes the path or not."""

import pytest
from pydantic import ValidationError

from db.pool import Database
from graph.settings import Settings
from tests.graph.conftest import run_api
from tests.sample_data import START_TS, row, store, track


@pytest.mark.parametrize("prefix", ["", "/prices-api"])
async def test_links_start_with_the_root_path(dsn: str, db: Database, prefix: str) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * number) for number in range(3)])
    async with run_api(Settings(database_url=dsn, root_path="prices-api/")) as api:
        for page in ("/", "/graphql", "/docs", "/redoc", "/api/docs", "/nothing"):
            async with api.session.get(f"{api.url}{prefix}{page}", headers={"Accept": "text/html"}) as response:
                text = await response.text()
                assert response.status == (404 if page == "/nothing" else 200)
            assert '"/prices-api/static/' in text
            assert '="/static/' not in text
        async with api.session.get(f"{api.url}{prefix}/prices?ticker=btc_usd&limit=1") as response:
            assert response.headers["Link"].startswith("</prices-api/prices?")
        async with api.session.get(f"{api.url}{prefix}/openapi.json") as response:
            servers = [server["url"] for server in (await response.json())["servers"]]
            assert servers == ["/prices-api/", "/prices-api/v1"]
        async with api.session.post(f"{api.url}{prefix}/graphql", json={"query": "{ tickers { name } }"}) as response:
            assert await response.json() == {"data": {"tickers": [{"name": "btc_usd"}]}}
        async with api.session.ws_connect(f"{api.url}{prefix}/graphql", protocols=("graphql-transport-ws",)) as socket:
            await socket.send_json({"type": "connection_init"})
            assert (await socket.receive_json())["type"] == "connection_ack"


@pytest.mark.parametrize("value", ["prices api", "/a?b", "https://example.org/a"])
def test_an_invalid_root_path_is_rejected(value: str) -> None:
    with pytest.raises(ValidationError, match="should be a path such as /prices-api"):
        Settings(root_path=value)
