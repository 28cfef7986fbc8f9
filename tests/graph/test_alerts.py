"""Alerts over GraphQL. tests/ingest/test_alerts.py covers what fires."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from db.pool import Database
from db.queries import alerts
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

TOKEN = "t" * 32
CREATE = "mutation ($alert: AlertInput!) { createAlert(alert: $alert) { id kind ticker level hysteresis direction url muted } }"
LIST = "{ alerts { id kind minutes percent muted deliveries { id text attempts deliveredAt failedAt error } } }"
CROSSES = {"kind": "CROSSES", "ticker": "BTC_USD", "level": "70000.5", "url": "https://example.org/hook"}


@pytest.fixture
async def admin_api(dsn: str) -> AsyncIterator[Api]:
    async with run_api(Settings(database_url=dsn, admin_token=SecretStr(TOKEN))) as running_api:
        yield running_api


async def _execute(api: Api, query: str, token: str | None = TOKEN, **variables: Any) -> dict[str, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = {"query": query, "variables": variables}
    async with api.session.post(f"{api.url}/graphql", json=body, headers=headers) as response:
        result: dict[str, Any] = await response.json()
        return result


async def test_an_alert_is_created_listed_muted_tested_and_deleted(admin_api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    created = (await _execute(admin_api, CREATE, alert=CROSSES))["data"]["createAlert"]
    alert_id = created.pop("id")
    assert created == CROSSES | {"ticker": "btc_usd", "hysteresis": "0", "direction": "EITHER", "muted": False}
    moves = {"kind": "MOVES", "ticker": "btc_usd", "percent": 5, "minutes": 10, "url": "https://example.org", "format": "SLACK"}
    assert "errors" not in await _execute(admin_api, CREATE, alert=moves)
    muted = await _execute(admin_api, f'mutation {{ muteAlert(id: "{alert_id}") {{ muted }} }}')
    assert muted["data"] == {"muteAlert": {"muted": True}}
    delivery_id = (await _execute(admin_api, f'mutation {{ testAlert(id: "{alert_id}") }}'))["data"]["testAlert"]
    (claimed,) = await alerts.claim(db, 10)
    assert claimed["id"] == delivery_id
    await alerts.set_failed(db, delivery_id, "HTTP 500")
    first, second = (await _execute(admin_api, LIST))["data"]["alerts"]
    assert (first["id"], first["muted"], second["kind"], second["percent"], second["minutes"]) == (
        alert_id, True, "MOVES", "5", 10,
    )  # fmt: skip
    assert first["deliveries"] == [
        {
            "id": delivery_id,
            "text": f"This is a test of alert {alert_id} for btc_usd",
            "attempts": 1,
            "deliveredAt": None,
            "failedAt": None,
            "error": "HTTP 500",
        }
    ]
    assert second["deliveries"] == []
    delete = f'mutation {{ deleteAlert(id: "{alert_id}") }}'
    assert [(await _execute(admin_api, delete))["data"]["deleteAlert"] for _ in range(2)] == [True, False]
    assert len((await _execute(admin_api, LIST))["data"]["alerts"]) == 1


async def test_no_cache_may_store_the_urls_of_webhooks(admin_api: Api) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for query in ("{ alerts { url } }", "query { __typename mine: alerts { url } }"):
        async with admin_api.session.get(f"{admin_api.url}/graphql", params={"query": query}, headers=headers) as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize("token", [None, "wrong" * 8])
async def test_alerts_need_the_admin_token(admin_api: Api, api: Api, token: str | None) -> None:
    for query in (
        LIST, CREATE, 'mutation { deleteAlert(id: "1") }', 'mutation { testAlert(id: "1") }',
        'mutation { muteAlert(id: "1") { id } }',
    ):  # fmt: skip
        variables: dict[str, Any] = {"alert": CROSSES} if query is CREATE else {}
        (error,) = (await _execute(admin_api, query, token, **variables))["errors"]
        assert error["extensions"]["code"] in ("FORBIDDEN", "UNAUTHENTICATED")
        if token is None:  # nobody may, without an ADMIN_TOKEN
            (error,) = (await _execute(api, query, **variables))["errors"]
            assert error["extensions"]["code"] == "FORBIDDEN"
            assert "ADMIN_TOKEN is not set" in error["message"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"level": None}, "level: CROSSES needs level"),
        ({"url": "example.org"}, "url: should look like https://example.org/hook"),
        ({"ticker": "nobody_usd"}, "Unknown ticker: nobody_usd"),
        ({"minutes": 3}, "minutes: CROSSES needs level, and no other"),
        ({"hysteresis": "-1"}, "hysteresis (-1) must be 0 or more"),
    ],
)
async def test_an_invalid_alert_is_explained(admin_api: Api, db: Database, changes: dict[str, Any], expected: str) -> None:
    await track(db, "btc_usd")
    (error,) = (await _execute(admin_api, CREATE, alert=CROSSES | changes))["errors"]
    assert error["message"].startswith(expected)
    for query in (
        'mutation { testAlert(id: "99") }',
        'mutation { muteAlert(id: "99") { id } }',
        'mutation { testAlert(id: "x") }',
    ):
        (error,) = (await _execute(admin_api, query))["errors"]
        assert error["message"].startswith("id: ")
