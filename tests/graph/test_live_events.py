"""Subscriptions: every event once, in the order of commits, over WebSocket and as server-sent events."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest

from db.pool import Database, Record
from db.queries import bulk_import, events, gaps, write_lock
from db.queries.shapes import Shape
from db.rows import Reason, Source
from graph.engine.commit_listener import CommitListener
from graph.engine.live_events import EventSelection, LiveEvents
from graph.engine.topics import Event
from graph.errors import UnavailableError
from graph.http.protocol import CLOSE_TIMEOUT_S
from graph.settings import Settings
from tests.graph.api_server import run_api_process
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import (
    CHANGES,
    PRICES,
    TERMINATE_COMMIT_LISTENERS,
    open_event_stream,
    open_socket,
    subscribe,
    subscribe_and_wait,
    without_ids,
)
from tests.sample_data import START_TS, row, set_tracked_tickers, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until


async def test_a_stored_price_is_delivered(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with subscribe_and_wait(api, 'subscription { priceAdded(tickers: ["btc_usd"]) { ticker ts price } }') as listener:
        await store(db, [row("eth_usd", START_TS), row("btc_usd", START_TS, "68241.5")])
        assert await listener.events(1) == [{"ticker": "btc_usd", "ts": START_TS, "price": "68241.5"}]


async def _make_changes(db: Database) -> None:
    """Makes one change of every kind."""
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", START_TS): Reason.TIMEOUT, ("btc_usd", START_TS + 60): Reason.TIMEOUT})
    await store(db, [row("btc_usd", START_TS, "1", source=Source.BACKFILL), row("eth_usd", START_TS, "2")])
    async with write_lock.write_transaction(db) as connection:
        await bulk_import.merge(connection, "btc_usd", [(START_TS + 60 * n, "3", None, None, None) for n in range(10, 1_011)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [START_TS + 60])
    async with write_lock.write_transaction(db) as connection:
        await set_tracked_tickers(connection, ["btc_usd"], START_TS + 120)


EXPECTED_CHANGES = [
    {"__typename": "GapOpened", "ticker": "btc_usd", "from": START_TS, "to": START_TS + 120, "count": 2},
    {"__typename": "Price", "ticker": "btc_usd", "ts": START_TS, "price": "1"},
    {"__typename": "Price", "ticker": "eth_usd", "ts": START_TS, "price": "2"},
    {"__typename": "GapClosed", "ticker": "btc_usd", "from": START_TS, "to": START_TS + 60, "count": 1, "filled": True},
    {"__typename": "HistoryChanged", "ticker": "btc_usd", "from": START_TS + 600, "to": START_TS + 60_660, "count": 1_001},
    {"__typename": "GapClosed", "ticker": "btc_usd", "from": START_TS + 60, "to": START_TS + 120, "count": 1, "filled": False},
    {"__typename": "TickerChanged", "ticker": "eth_usd", "from": START_TS + 120},
]


async def test_every_visible_change_is_delivered_live_and_on_resume(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with subscribe_and_wait(api, CHANGES) as listener:
        await _make_changes(db)
        live = await listener.events(len(EXPECTED_CHANGES))
    assert without_ids(live) == EXPECTED_CHANGES
    async with subscribe(api, CHANGES, after=str(int(live[0]["id"]) - 1)) as listener:
        assert await listener.events(len(EXPECTED_CHANGES)) == live
    async with subscribe(api, CHANGES, after=live[2]["id"]) as listener:  # exclusive
        assert await listener.events(4) == live[3:]
        await store(db, [row("btc_usd", START_TS + 180)])
        (last_event,) = await listener.events(1)
        assert (last_event["ts"], int(last_event["id"]) > int(live[-1]["id"])) == (START_TS + 180, True)


async def test_large_imports_are_delivered_only_as_changes(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with subscribe_and_wait(api, PRICES) as listener:
        await _make_changes(db)
        await store(db, [row("eth_usd", START_TS + 60, "9")])
        received = [(one["ticker"], one["ts"]) for one in await listener.events(3)]
    assert received == [("btc_usd", START_TS), ("eth_usd", START_TS), ("eth_usd", START_TS + 60)]


async def test_a_resumed_subscription_reads_missed_events_in_pages(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    row_count = 2 * events.PAGE_ROWS + 10
    await store(db, [row("btc_usd", START_TS - 60, "1"), *(row("eth_usd", START_TS + 60 * n) for n in range(row_count))])
    await store(db, [row("btc_usd", START_TS, "2")])
    async with subscribe(api, 'subscription { priceAdded(tickers: ["btc_usd"], after: "0") { price } }') as listener:
        assert await listener.events(2) == [{"price": "1"}, {"price": "2"}]
        await store(db, [row("btc_usd", START_TS + 60, "3")])
        assert await listener.events(1) == [{"price": "3"}]
    async with subscribe(api, 'subscription { priceAdded(after: "0") { id ticker ts } }') as listener:
        received = without_ids(await listener.events(row_count + 3))
    assert [one["ts"] for one in received if one["ticker"] == "eth_usd"] == [START_TS + 60 * n for n in range(row_count)]


async def test_resuming_from_a_deleted_id_is_an_error(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    await db.execute("UPDATE milestone SET id = 5")
    async with subscribe(api, PRICES.replace("priceAdded", 'priceAdded(after: "4")')) as listener:
        code, message = await listener.error()
    assert (code, "the oldest id to resume from is 5" in message) == ("RESUME_TOO_OLD", True)
    async with subscribe(api, PRICES.replace("priceAdded", 'priceAdded(after: "99")')) as listener:
        code, message = await listener.error()
    assert (code, "resume with after: " in message) == ("HISTORY_CHANGED", True)


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ('priceAdded(after: "x") { id }', "BAD_USER_INPUT"),
        ('priceAdded(after: "-1") { id }', "BAD_USER_INPUT"),
        ('priceAdded(tickers: ["btc_us"]) { id }', "UNKNOWN_TICKER"),
        ('priceAdded(tickers: ["BTC USD"]) { id }', "BAD_USER_INPUT"),
        ('candleUpdated(ticker: "btc_us", interval: ONE_DAY) { ts }', "UNKNOWN_TICKER"),
        ("priceAdded { id } a: priceAdded { id }", "GRAPHQL_VALIDATION_FAILED"),
        ("priceAdded { id ...@include(if: $no) { ts } }", "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_an_invalid_subscription_gets_its_error_code(api: Api, db: Database, field: str, code: str) -> None:
    await track(db, "btc_usd")
    async with subscribe(api, f"subscription {{ {field} }}") as listener:
        assert (await listener.error())[0] == code


async def test_subscriptions_support_aliases_fragments_and_directives(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    query = """
    subscription a($yes: Boolean!) {
      one: priceAdded(after: 0) {
        x: price ...f ...f @skip(if: $yes) ... on Price { __typename } time @skip(if: $yes) observedAt source }
    }
    fragment f on Price { kind: __typename ticker }
    """
    await store(db, [row("btc_usd", START_TS, "7")])
    async with subscribe(api, query, yes=True) as listener:
        message = await listener.message()
    assert json.dumps(message["payload"]) == json.dumps(
        {
            "data": {
                "one": {
                    "x": "7",
                    "kind": "Price",
                    "ticker": "btc_usd",
                    "__typename": "Price",
                    "observedAt": "2024-01-15T11:40:01Z",
                    "source": "LIVE",
                }
            }
        }
    )


async def test_union_members_without_selected_fields_are_empty(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with subscribe_and_wait(
        api, "subscription { changes { ... on GapOpened { count } ... on Change { __typename } } }"
    ) as listener:
        await store(db, [row("btc_usd", START_TS)])
        assert await listener.events(1) == [{"__typename": "Price"}]
    async with subscribe_and_wait(api, "subscription { changes { ... on GapOpened { count } } }") as listener:
        await store(db, [row("btc_usd", START_TS + 60)])
        assert await listener.events(1) == [{}]


async def test_no_event_is_lost_when_the_commit_listener_is_disconnected(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with subscribe_and_wait(api, PRICES) as listener:
        for number in range(5):
            await wait_until(lambda: db.fetchval(TERMINATE_COMMIT_LISTENERS))
            await store(db, [row("btc_usd", START_TS + 60 * number)])
        assert [one["ts"] for one in await listener.events(5)] == [START_TS + 60 * number for number in range(5)]


async def test_every_subscriber_receives_the_same_events_in_the_same_order(dsn: str, db: Database) -> None:
    names = [f"t{number}_usd" for number in range(5)]
    await track(db, *names)
    rows = [row(name, START_TS + 60 * number) for name in names for number in range(40)]
    rows = rows[::3] + rows[1::3] + rows[2::3]
    async with (
        run_api(Settings(database_url=dsn)) as first_api,
        run_api(Settings(database_url=dsn)) as second_api,
        subscribe_and_wait(first_api, CHANGES) as first,
        subscribe_and_wait(second_api, CHANGES) as second,
    ):

        async def write(part: int) -> None:
            for start in range(part, len(rows), 8):
                await store(db, rows[start : start + 2])

        await asyncio.gather(*(write(part) for part in range(0, 8, 2)))
        received = await first.events(len(rows))
        assert await second.events(len(rows)) == received
        async with subscribe(first_api, CHANGES, after=received[57]["id"]) as third:
            assert await third.events(len(rows) - 58) == received[58:]
    assert {(event["ticker"], event["ts"]) for event in without_ids(received)} == {(price.ticker, price.ts) for price in rows}


async def test_a_slow_subscriber_reads_older_events_from_the_database(dsn: str, db: Database) -> None:
    commits = CommitListener()
    live = LiveEvents(commits)
    await track(db, "btc_usd", *(names := [f"t{number:03}_usd" for number in range(110)]))
    selection = EventSelection(
        None, (("price", Shape((("ticker", events.PRICE_COLUMNS["ticker"]), ("ts", events.PRICE_COLUMNS["ts"])))),)
    )
    async with commits.run_in_background(dsn), live.run_in_background(db):
        subscription = await live.subscribe(db, selection, None)
        await store(db, [row("btc_usd", START_TS)])
        received = [await anext(subscription)]
        for start in range(0, 110, 10):  # more events than the memory holds for a selection
            await store(db, [row(name, START_TS + 60 * n) for name in names[start : start + 10] for n in range(100)])
        await store(db, [row("btc_usd", START_TS + 60)])
        async with aclosing(subscription):
            received += [await anext(subscription) for _ in range(11_001)]
    assert [event.position for event in received] == sorted({event.position for event in received})
    assert len({event.text for event in received}) == 11_002


async def test_a_candle_subscription_sends_the_current_candle_and_its_changes(api: Api, db: Database) -> None:
    now = int(time.time())
    day = now // 86_400 * 86_400
    await track(db, "btc_usd", since=day)
    await store(db, [row("btc_usd", day, "5")])
    query = 'subscription { candleUpdated(ticker: "btc_usd", interval: ONE_MONTH) { open close count closed } }'
    async with subscribe(api, query) as listener, subscribe(api, query) as second:
        for subscriber in (listener, second):
            assert await subscriber.events(1) == [{"open": "5", "close": "5", "count": 1, "closed": False}]
        await store(db, [row("btc_usd", day + 60, "6")])
        for subscriber in (listener, second):
            assert await subscriber.events(1) == [{"open": "5", "close": "6", "count": 2, "closed": False}]


async def test_a_later_candle_subscription_starts_with_the_open_candle(api: Api, db: Database) -> None:
    day = int(time.time()) // 86_400 * 86_400
    await track(db, "btc_usd", since=day - 86_400)
    await store(db, [row("btc_usd", day, "5")])
    query = 'subscription { candleUpdated(ticker: "btc_usd", interval: ONE_DAY) { ts close } }'
    async with subscribe(api, query) as first:
        assert await first.events(1) == [{"ts": day, "close": "5"}]
        await store(db, [row("btc_usd", day - 60, "4", source=Source.BACKFILL)])
        assert await first.events(1) == [{"ts": day - 86_400, "close": "4"}]
        async with subscribe(api, query) as second:
            assert await second.events(1) == [{"ts": day, "close": "5"}]


async def test_an_event_stream_sends_retry_while_the_database_is_unavailable(dsn: str) -> None:
    async with run_api(Settings(database_url=f"{dsn}_missing")) as api, open_event_stream(api, PRICES) as stream:
        assert stream.response.status == 200
        assert await stream.response.text() == ": The database is unavailable. Retry in a few seconds.\nretry: 1000\n\n"


async def test_subscriptions_per_client_are_limited(dsn: str) -> None:
    settings = Settings(database_url=dsn, max_sockets_per_client=2)
    async with run_api(settings) as api, open_socket(api) as socket:
        for name in ("1", "2", "3"):
            await socket.send_json({"type": "subscribe", "id": name, "payload": {"query": PRICES}})
        message = await socket.receive_json(timeout=WAIT_TIMEOUT_S)
    assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "RATE_LIMITED")


async def test_events_are_sent_as_server_sent_events(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with open_event_stream(api, PRICES) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert await stream.response.content.readline() == b"retry: 1000\n"
        await store(db, [row("btc_usd", START_TS, "1")])
        event = await stream.event()
    price = {"id": event["id"], "ticker": "btc_usd", "ts": START_TS, "price": "1"}
    assert (event["event"], json.loads(event["data"])) == ("next", {"data": {"priceAdded": price}})
    await store(db, [row("btc_usd", START_TS + 60, "2")])
    async with open_event_stream(api, PRICES, **{"Last-Event-ID": event["id"]}) as stream:
        assert json.loads((await stream.event())["data"])["data"]["priceAdded"]["price"] == "2"


async def test_an_invalid_subscription_has_a_status_that_stops_an_event_source(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    for query in ('subscription { priceAdded(tickers: ["x"]) { id } }', 'subscription { priceAdded(after: "9") { id } }', "{"):
        async with open_event_stream(api, query) as stream:
            assert (stream.response.status, "errors" in await stream.response.json(content_type=None)) == (400, True)


async def test_a_query_result_may_be_sent_as_an_event(api: Api) -> None:
    async with open_event_stream(api, "{ __typename }") as stream:
        assert await stream.response.text() == (
            'event: next\ndata: {"data":{"__typename":"Query"}}\n\nevent: complete\ndata:\n\n'
        )


async def test_a_subscription_needs_a_client_that_accepts_event_streams(api: Api) -> None:
    code, message = await api.error(PRICES)
    assert (code, "text/event-stream" in message) == ("GRAPHQL_VALIDATION_FAILED", True)


async def test_an_event_stream_uses_a_connection_slot_and_no_request_slot(dsn: str) -> None:
    async with (
        run_api(Settings(database_url=dsn, max_in_flight=1, max_sockets=1)) as api,
        open_event_stream(api, PRICES) as stream,
    ):
        assert await stream.response.content.readline() == b"retry: 1000\n"
        assert await api.data("{ tickers { name } }") == {"tickers": []}
        async with open_event_stream(api, PRICES) as other_stream:
            assert other_stream.response.status == 503


async def test_a_client_may_disconnect_during_shutdown(dsn: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with run_api(Settings(database_url=dsn)) as api:
            socket = await session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",))
            closing = asyncio.create_task(_close_at_shutdown(socket, api))
        await closing
    await asyncio.sleep(CLOSE_TIMEOUT_S + 0.1)  # longer than the timeout after which the process closes the socket


async def _close_at_shutdown(socket: aiohttp.ClientWebSocketResponse, api: Api) -> None:
    """Closes the socket as soon as the server accepts no new connections."""

    async def is_shutting_down() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{api.url}/health/live"):
                return False
        except aiohttp.ClientError:
            return True

    await wait_until(is_shutting_down)
    await socket.close()


async def test_shutdown_delivers_pending_events_and_closes_with_service_restart(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    async with run_api_process(dsn, tmp_path) as server:
        api = Api(server.url, server.session)
        query = PRICES.replace("priceAdded", "priceAdded(after: 0)")
        async with subscribe(api, query) as listener, open_event_stream(api, query) as stream:
            await store(db, [row("btc_usd", START_TS)])
            assert len(await listener.events(1)) == 1
            server.process.terminate()
            message = await listener.socket.receive(timeout=WAIT_TIMEOUT_S)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
            assert (await stream.event())["event"] == "next"
            assert b"complete" not in await stream.response.content.read()
    assert server.log.read_text() == ""


class _UnrenderableSelection(EventSelection):
    """A selection whose events cannot be rendered."""

    def render(self, records: Iterable[Record]) -> Iterator[Event]:
        raise ZeroDivisionError


async def test_a_failing_topic_does_not_affect_other_topics(db: Database) -> None:
    await track(db, "btc_usd")
    commits = CommitListener()
    live = LiveEvents(commits)
    shapes = (("price", Shape((("ts", events.PRICE_COLUMNS["ts"]),))),)
    good, bad = EventSelection(None, shapes), _UnrenderableSelection(frozenset({"btc_usd"}), shapes)
    async with (
        live.run_in_background(db),
        aclosing(await live.subscribe(db, bad, None)) as failing_subscription,
        aclosing(await live.subscribe(db, good, None)) as other_subscription,
    ):
        next_event, failing_event = (
            asyncio.create_task(anext(other_subscription)),
            asyncio.create_task(anext(failing_subscription)),
        )
        await wait_until(lambda: live.topics.subscribers == 2)
        await store(db, [row("btc_usd", START_TS)])
        commits.invalidate()
        with pytest.raises(UnavailableError, match="Subscribe again"):
            await failing_event
        assert (await next_event).position > 0


async def test_a_permanent_database_error_ends_subscriptions_with_unavailable(api: Api, db: Database) -> None:
    """A release with a broken statement must not look like a market without changes."""
    await track(db, "btc_usd")
    async with subscribe_and_wait(api, PRICES) as listener:
        await db.execute("ALTER TABLE change RENAME COLUMN kind TO renamed")
        await db.execute("SELECT pg_notify('tickgraph', '')")
        assert (await listener.error())[0] == "UNAVAILABLE"
