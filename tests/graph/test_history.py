"""After a restore or a failover with lost commits nothing of the lost history is taken for the present one."""

import asyncio
import json
from typing import Any

import pytest

from db.pool import Database
from db.queries import version
from graph.engine.commit_listener import CommitListener
from graph.engine.history import HistoryWatch
from tests.graph.conftest import Api
from tests.graph.test_live import PRICES, listening, told_of
from tests.stored import MINUTE, row, store, track
from tests.waiting import PATIENCE_S, until


async def _lose(db: Database, since: int) -> None:
    """What a restore leaves: the rows of before, under another identity, and a sequence that goes back."""
    await db.execute("DELETE FROM price WHERE id > $1", since)
    await db.execute("DELETE FROM change WHERE id > $1", since)
    await db.execute("UPDATE epoch SET identity = 'of before the restore'")
    await db.execute("SELECT setval('data_version', $1)", since)
    await db.execute("SELECT pg_notify('tickgraph', '')")


@pytest.fixture
async def kept(api: Api, db: Database) -> int:
    """The id up to which both histories are the same; what is stored after it is lost by `_lose`."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE, "1")])
    return await version.current(db)


async def _error_of(listener: Any) -> dict[str, Any]:
    message = await listener.message()
    assert message["type"] == "error", message
    extensions: dict[str, Any] = message["payload"][0]["extensions"]
    return extensions


async def test_a_subscription_ends_with_the_id_to_resume_from_and_nothing_is_missed(api: Api, db: Database, kept: int) -> None:
    async with told_of(api, PRICES) as listener:
        await store(db, [row("btc_usd", MINUTE + 60, "2")])
        (lost,) = await listener.events(1)
        await _lose(db, kept)
        assert await _error_of(listener) == {"code": "HISTORY_CHANGED", "resumeFrom": str(kept)}
    await store(db, [row("btc_usd", MINUTE + 60, "3"), row("btc_usd", MINUTE + 120, "4")])
    resume = PRICES.replace("priceAdded", f'priceAdded(after: "{kept}")')
    async with listening(api, resume) as listener:
        found = await listener.events(2)
    assert [(one["ts"], one["price"]) for one in found] == [(MINUTE + 60, "3"), (MINUTE + 120, "4")]
    assert int(found[0]["id"]) > int(lost["id"])
    async with listening(api, PRICES.replace("priceAdded", f'priceAdded(after: "{lost["id"]}")')) as listener:
        assert await _error_of(listener) == {"code": "HISTORY_CHANGED", "resumeFrom": str(kept)}


async def test_an_id_that_is_above_all_of_the_database_is_told_from_where_to_resume(api: Api, db: Database, kept: int) -> None:
    """Between the failover and the first commit after it."""
    async with listening(api, PRICES.replace("priceAdded", f'priceAdded(after: "{kept + 5}")')) as listener:
        assert (await _error_of(listener))["resumeFrom"] == str(kept)


async def test_over_server_sent_events_it_is_told_as_well(api: Api, db: Database, kept: int) -> None:
    body, headers = {"query": PRICES}, {"Accept": "text/event-stream"}
    async with api.session.post(f"{api.url}/graphql", json=body, headers=headers) as response:
        await until(lambda: api.live is not None and api.live.subscribers == 1)
        await store(db, [row("btc_usd", MINUTE + 60, "2")])
        await until(lambda: api.live is not None and api.live.position > kept)
        await _lose(db, kept)
        async with asyncio.timeout(PATIENCE_S):
            async for line in response.content:
                if b"HISTORY_CHANGED" in line:
                    (error,) = json.loads(line.removeprefix(b"data: "))["errors"]
                    assert error["extensions"]["resumeFrom"] == str(kept)
                    return
    pytest.fail("the stream ended without a word")


async def test_no_tag_of_the_lost_history_is_taken_for_the_present_one(api: Api, db: Database, kept: int) -> None:
    window = f'{{range(ticker:"btc_usd",from:{MINUTE},to:{MINUTE + 120}){{price}}}}'
    latest = '{latest(ticker:"btc_usd"){price}}'
    await store(db, [row("btc_usd", MINUTE + 60, "2")])

    async def get(query: str, tag: str = "") -> tuple[int, str, str]:
        headers = {"If-None-Match": tag} if tag else {}
        async with api.session.get(f"{api.url}/graphql", params={"query": query}, headers=headers) as response:
            return response.status, response.headers["ETag"], await response.text()

    tags = {query: (await get(query))[1] for query in (window, latest)}
    assert [(await get(query, tag))[0] for query, tag in tags.items()] == [304, 304]
    await _lose(db, kept)
    await store(db, [row("btc_usd", MINUTE + 60, "3")])

    async def all_new() -> bool:
        found = [await get(query, tag) for query, tag in tags.items()]
        return all(status == 200 and '"3"' in text for status, _, text in found)

    await until(all_new)


async def test_a_cursor_of_the_lost_history_is_refused_with_where_to_begin(api: Api, db: Database, kept: int) -> None:
    query = 'query ($a: String) { prices(ticker: "btc_usd", first: 1, after: $a) { pageInfo { endCursor } } }'
    await store(db, [row("btc_usd", MINUTE + 60, "2")])
    cursor = (await api.data(query))["prices"]["pageInfo"]["endCursor"]
    await _lose(db, kept)
    await store(db, [row("btc_usd", MINUTE + 60, "3")])

    async def refused() -> bool:
        answer = await api.ask(query, a=cursor)
        return "errors" in answer and answer["errors"][0]["extensions"] == {
            "code": "HISTORY_CHANGED",
            "resumeFrom": str(kept),
        }

    await until(refused)
    assert "errors" not in await api.ask(query, a=(await api.data(query))["prices"]["pageInfo"]["endCursor"])


async def test_a_version_below_the_one_seen_is_another_history_although_its_identity_is_the_same(
    api: Api, db: Database, kept: int
) -> None:
    """A disk that was put back: the same cluster, the same timeline."""
    async with told_of(api, PRICES) as listener:
        await store(db, [row("btc_usd", MINUTE + 60, "2")])
        await listener.events(1)
        await db.execute("DELETE FROM price WHERE id > $1", kept)
        await db.execute("SELECT pg_notify('tickgraph', '')")
        assert (await _error_of(listener))["resumeFrom"] == str(kept)


async def test_an_id_of_the_new_history_that_was_delivered_already_is_nothing_to_resume_from(db: Database) -> None:
    """Events may be read faster than the history is looked at."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE, "1")])
    kept = await version.current(db)
    told: list[int] = []
    delivered = 0
    watch = HistoryWatch(CommitListener(), told.append, lambda: delivered)
    await store(db, [row("btc_usd", MINUTE + 60, "2")])
    await watch.check(db)
    await _lose(db, kept)
    await store(db, [row("btc_usd", MINUTE + 60, "3")])
    delivered = await version.current(db)
    await watch.check(db)
    assert told == [kept]
