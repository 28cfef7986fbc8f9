"""After a restore or a failover with lost commits, the API never returns data of the lost history as current."""

import asyncio
import json
from typing import Any

import pytest

from db.pool import Database
from db.queries import version
from graph.engine.commit_listener import CommitListener
from graph.engine.history import HistoryWatch
from tests.graph.conftest import Api
from tests.graph.subscriptions import PRICES, subscribe, subscribe_and_wait
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until


async def _replace_history(db: Database, since: int) -> None:
    """Simulates a restore: deletes the rows after the id, changes the identity, and sets the sequence back."""
    await db.execute("DELETE FROM price WHERE id > $1", since)
    await db.execute("DELETE FROM change WHERE id > $1", since)
    await db.execute("UPDATE epoch SET identity = 'of before the restore'")
    await db.execute("SELECT setval('data_version', $1)", since)
    await db.execute("SELECT pg_notify('tickgraph', '')")


@pytest.fixture
async def common_id(api: Api, db: Database) -> int:
    """The id up to which both histories are equal; `_replace_history` deletes the rows after it."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "1")])
    return await version.current(db)


async def _error_extensions(listener: Any) -> dict[str, Any]:
    message = await listener.message()
    assert message["type"] == "error", message
    extensions: dict[str, Any] = message["payload"][0]["extensions"]
    return extensions


async def test_a_subscription_ends_with_the_id_to_resume_from_and_misses_no_event(
    api: Api, db: Database, common_id: int
) -> None:
    async with subscribe_and_wait(api, PRICES) as listener:
        await store(db, [row("btc_usd", START_TS + 60, "2")])
        (lost_event,) = await listener.events(1)
        await _replace_history(db, common_id)
        assert await _error_extensions(listener) == {"code": "HISTORY_CHANGED", "resumeFrom": str(common_id)}
    await store(db, [row("btc_usd", START_TS + 60, "3"), row("btc_usd", START_TS + 120, "4")])
    resume = PRICES.replace("priceAdded", f'priceAdded(after: "{common_id}")')
    async with subscribe(api, resume) as listener:
        resumed = await listener.events(2)
    assert [(one["ts"], one["price"]) for one in resumed] == [(START_TS + 60, "3"), (START_TS + 120, "4")]
    assert int(resumed[0]["id"]) > int(lost_event["id"])
    async with subscribe(api, PRICES.replace("priceAdded", f'priceAdded(after: "{lost_event["id"]}")')) as listener:
        assert await _error_extensions(listener) == {"code": "HISTORY_CHANGED", "resumeFrom": str(common_id)}


async def test_an_id_above_the_newest_gets_the_id_to_resume_from(api: Api, db: Database, common_id: int) -> None:
    """After a failover and before the next commit, an id that a client received can be above every id in the database."""
    async with subscribe(api, PRICES.replace("priceAdded", f'priceAdded(after: "{common_id + 5}")')) as listener:
        assert (await _error_extensions(listener))["resumeFrom"] == str(common_id)


async def test_server_sent_events_report_a_history_change(api: Api, db: Database, common_id: int) -> None:
    body, headers = {"query": PRICES}, {"Accept": "text/event-stream"}
    async with api.session.post(f"{api.url}/graphql", json=body, headers=headers) as response:
        await wait_until(lambda: api.live is not None and api.live.topics.subscribers == 1)
        await store(db, [row("btc_usd", START_TS + 60, "2")])
        await wait_until(lambda: api.live is not None and api.live.position > common_id)
        await _replace_history(db, common_id)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            async for line in response.content:
                if b"HISTORY_CHANGED" in line:
                    (error,) = json.loads(line.removeprefix(b"data: "))["errors"]
                    assert error["extensions"]["resumeFrom"] == str(common_id)
                    return
    pytest.fail("the stream ended without HISTORY_CHANGED")


async def test_etags_of_a_lost_history_do_not_match(api: Api, db: Database, common_id: int) -> None:
    window = f'{{range(ticker:"btc_usd",from:{START_TS},to:{START_TS + 120}){{price}}}}'
    latest = '{latest(ticker:"btc_usd"){price}}'
    await store(db, [row("btc_usd", START_TS + 60, "2")])

    async def get(query: str, tag: str = "") -> tuple[int, str, str]:
        headers = {"If-None-Match": tag} if tag else {}
        async with api.session.get(f"{api.url}/graphql", params={"query": query}, headers=headers) as response:
            return response.status, response.headers["ETag"], await response.text()

    tags = {query: (await get(query))[1] for query in (window, latest)}
    assert [(await get(query, tag))[0] for query, tag in tags.items()] == [304, 304]
    await _replace_history(db, common_id)
    await store(db, [row("btc_usd", START_TS + 60, "3")])

    async def all_are_new() -> bool:
        responses = [await get(query, tag) for query, tag in tags.items()]
        return all(status == 200 and '"3"' in text for status, _, text in responses)

    await wait_until(all_are_new)


async def test_a_cursor_of_a_lost_history_is_rejected_with_the_id_to_resume_from(
    api: Api, db: Database, common_id: int
) -> None:
    query = 'query ($a: String) { prices(ticker: "btc_usd", first: 1, after: $a) { pageInfo { endCursor } } }'
    await store(db, [row("btc_usd", START_TS + 60, "2")])
    cursor = (await api.data(query))["prices"]["pageInfo"]["endCursor"]
    await _replace_history(db, common_id)
    await store(db, [row("btc_usd", START_TS + 60, "3")])

    async def is_rejected() -> bool:
        result = await api.execute(query, a=cursor)
        return "errors" in result and result["errors"][0]["extensions"] == {
            "code": "HISTORY_CHANGED",
            "resumeFrom": str(common_id),
        }

    await wait_until(is_rejected)
    assert "errors" not in await api.execute(query, a=(await api.data(query))["prices"]["pageInfo"]["endCursor"])


async def test_a_version_that_decreases_is_a_history_change_even_with_the_same_identity(
    api: Api, db: Database, common_id: int
) -> None:
    """A disk snapshot that was restored has the same cluster and the same timeline."""
    async with subscribe_and_wait(api, PRICES) as listener:
        await store(db, [row("btc_usd", START_TS + 60, "2")])
        await listener.events(1)
        await db.execute("DELETE FROM price WHERE id > $1", common_id)
        await db.execute("SELECT pg_notify('tickgraph', '')")
        assert (await _error_extensions(listener))["resumeFrom"] == str(common_id)


async def test_the_id_to_resume_from_ignores_events_delivered_from_the_new_history(db: Database) -> None:
    """Events may be read before the history is checked."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "1")])
    common_id = await version.current(db)
    resume_ids: list[int] = []
    delivered = 0
    watch = HistoryWatch(CommitListener(), resume_ids.append, lambda: delivered)
    await store(db, [row("btc_usd", START_TS + 60, "2")])
    await watch.check(db)
    await _replace_history(db, common_id)
    await store(db, [row("btc_usd", START_TS + 60, "3")])
    delivered = await version.current(db)
    await watch.check(db)
    assert resume_ids == [common_id]
