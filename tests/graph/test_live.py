"""Subscriptions: every event once, in the order of commits, over WebSocket and as server-sent events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from db.pool import Database, Record
from db.queries import bulk_import, events, gaps, write_lock
from db.queries.shapes import Shape
from db.tables import Reason, Source
from graph.engine.commit_listener import CommitListener
from graph.engine.live_events import EventSelection, LiveEvents
from graph.engine.topics import Event
from graph.errors import UnavailableError
from graph.http.protocol import CLOSE_TIMEOUT_S
from graph.settings import Settings
from tests.graph.conftest import Api, serving
from tests.graph.stand import api_process
from tests.graph.test_socket import connected
from tests.stored import MINUTE, follow, row, store, track
from tests.waiting import PATIENCE_S, until

PRICES = "subscription { priceAdded { id ticker ts price } }"
CHANGES = """
subscription ($after: ID) {
  changes(after: $after) {
    __typename
    ... on Price { id ticker ts price }
    ... on HistoryChanged { id ticker from to count }
    ... on GapOpened { id ticker from to count }
    ... on GapClosed { id ticker from to count filled }
    ... on TickerChanged { id ticker from }
  }
}
"""


@dataclass
class Listener:
    """A client that listens."""

    socket: aiohttp.ClientWebSocketResponse

    async def message(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=PATIENCE_S)
        return message

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The data of the next so many events."""
        found = []
        for _ in range(count):
            message = await self.message()
            assert message["type"] == "next", message
            found += message["payload"]["data"].values()
        return found

    async def error(self) -> tuple[str, str]:
        """Code and message of the error that ends the subscription."""
        message = await self.message()
        assert message["type"] == "error", message
        (error,) = message["payload"]
        return error["extensions"]["code"], error["message"]


@asynccontextmanager
async def listening(api: Api, query: str, **variables: Any) -> AsyncIterator[Listener]:
    """A WebSocket with one subscription."""
    async with connected(api) as socket:
        await socket.send_json({"type": "subscribe", "id": "1", "payload": {"query": query, "variables": variables}})
        yield Listener(socket)


@asynccontextmanager
async def told_of(api: Api, query: str) -> AsyncIterator[Listener]:
    """The same, once it has begun: what is stored from then on is told."""
    assert api.live is not None
    before = api.live.subscribers
    async with listening(api, query) as listener:
        await until(lambda: api.live is not None and api.live.subscribers > before)
        yield listener


def without_ids(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, whose ids must grow, without them."""
    positions = [int(one["id"]) for one in events]
    assert positions == sorted(set(positions))
    return [{name: value for name, value in one.items() if name != "id"} for one in events]


async def test_a_stored_price_is_told(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with told_of(api, 'subscription { priceAdded(tickers: ["btc_usd"]) { ticker ts price } }') as listener:
        await store(db, [row("eth_usd", MINUTE), row("btc_usd", MINUTE, "68241.5")])
        assert await listener.events(1) == [{"ticker": "btc_usd", "ts": MINUTE, "price": "68241.5"}]


async def _happen(db: Database) -> None:
    """Something of every kind."""
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", MINUTE): Reason.TIMEOUT, ("btc_usd", MINUTE + 60): Reason.TIMEOUT})
    await store(db, [row("btc_usd", MINUTE, "1", source=Source.BACKFILL), row("eth_usd", MINUTE, "2")])
    async with write_lock.write_transaction(db) as connection:
        await bulk_import.merge(connection, "btc_usd", [(MINUTE + 60 * n, "3", None, None) for n in range(10, 1_011)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [MINUTE + 60])
    async with write_lock.write_transaction(db) as connection:
        await follow(connection, ["btc_usd"], MINUTE + 120)


HAPPENED = [
    {"__typename": "GapOpened", "ticker": "btc_usd", "from": MINUTE, "to": MINUTE + 120, "count": 2},
    {"__typename": "Price", "ticker": "btc_usd", "ts": MINUTE, "price": "1"},
    {"__typename": "Price", "ticker": "eth_usd", "ts": MINUTE, "price": "2"},
    {"__typename": "GapClosed", "ticker": "btc_usd", "from": MINUTE, "to": MINUTE + 60, "count": 1, "filled": True},
    {"__typename": "HistoryChanged", "ticker": "btc_usd", "from": MINUTE + 600, "to": MINUTE + 60_660, "count": 1_001},
    {"__typename": "GapClosed", "ticker": "btc_usd", "from": MINUTE + 60, "to": MINUTE + 120, "count": 1, "filled": False},
    {"__typename": "TickerChanged", "ticker": "eth_usd", "from": MINUTE + 120},
]


async def test_whatever_a_reader_can_see_is_told_live_and_to_who_comes_back(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with told_of(api, CHANGES) as listener:
        await _happen(db)
        live = await listener.events(len(HAPPENED))
    assert without_ids(live) == HAPPENED
    async with listening(api, CHANGES, after=str(int(live[0]["id"]) - 1)) as listener:
        assert await listener.events(len(HAPPENED)) == live
    async with listening(api, CHANGES, after=live[2]["id"]) as listener:  # exclusive
        assert await listener.events(4) == live[3:]
        await store(db, [row("btc_usd", MINUTE + 180)])
        (last,) = await listener.events(1)
        assert (last["ts"], int(last["id"]) > int(live[-1]["id"])) == (MINUTE + 180, True)


async def test_large_imports_are_told_in_changes_alone(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with told_of(api, PRICES) as listener:
        await _happen(db)
        await store(db, [row("eth_usd", MINUTE + 60, "9")])
        told = [(one["ticker"], one["ts"]) for one in await listener.events(3)]
    assert told == [("btc_usd", MINUTE), ("eth_usd", MINUTE), ("eth_usd", MINUTE + 60)]


async def test_who_was_away_reads_what_came_since_in_pages(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    many = 2 * events.PAGE_ROWS + 10
    await store(db, [row("btc_usd", MINUTE - 60, "1"), *(row("eth_usd", MINUTE + 60 * n) for n in range(many))])
    await store(db, [row("btc_usd", MINUTE, "2")])
    async with listening(api, 'subscription { priceAdded(tickers: ["btc_usd"], after: "0") { price } }') as listener:
        assert await listener.events(2) == [{"price": "1"}, {"price": "2"}]
        await store(db, [row("btc_usd", MINUTE + 60, "3")])
        assert await listener.events(1) == [{"price": "3"}]
    async with listening(api, 'subscription { priceAdded(after: "0") { id ticker ts } }') as listener:
        told = without_ids(await listener.events(many + 3))
    assert [one["ts"] for one in told if one["ticker"] == "eth_usd"] == [MINUTE + 60 * n for n in range(many)]


async def test_what_was_forgotten_is_no_silent_hole(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE)])
    await db.execute("UPDATE milestone SET id = 5")
    async with listening(api, PRICES.replace("priceAdded", 'priceAdded(after: "4")')) as listener:
        code, message = await listener.error()
    assert (code, "the oldest id to resume from is 5" in message) == ("RESUME_TOO_OLD", True)
    async with listening(api, PRICES.replace("priceAdded", 'priceAdded(after: "99")')) as listener:
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
async def test_what_cannot_be_subscribed_to_is_told(api: Api, db: Database, field: str, code: str) -> None:
    await track(db, "btc_usd")
    async with listening(api, f"subscription {{ {field} }}") as listener:
        assert (await listener.error())[0] == code


async def test_aliases_fragments_and_directives_are_as_in_a_query(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    query = """
    subscription a($yes: Boolean!) {
      one: priceAdded(after: 0) {
        x: price ...f ...f @skip(if: $yes) ... on Price { __typename } time @skip(if: $yes) observedAt source }
    }
    fragment f on Price { kind: __typename ticker }
    """
    await store(db, [row("btc_usd", MINUTE, "7")])
    async with listening(api, query, yes=True) as listener:
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


async def test_members_that_are_not_asked_about_are_empty(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with told_of(api, "subscription { changes { ... on GapOpened { count } ... on Change { __typename } } }") as listener:
        await store(db, [row("btc_usd", MINUTE)])
        assert await listener.events(1) == [{"__typename": "Price"}]
    async with told_of(api, "subscription { changes { ... on GapOpened { count } } }") as listener:
        await store(db, [row("btc_usd", MINUTE + 60)])
        assert await listener.events(1) == [{}]


async def test_nothing_is_lost_when_commits_are_not_heard(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with told_of(api, PRICES) as listener:
        for number in range(5):
            await until(lambda: db.fetchval(END_LISTENERS))
            await store(db, [row("btc_usd", MINUTE + 60 * number)])
        assert [one["ts"] for one in await listener.events(5)] == [MINUTE + 60 * number for number in range(5)]


END_LISTENERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'SELECT pg_notify($1%'
"""


async def test_everybody_is_told_the_same_in_the_same_order(dsn: str, db: Database) -> None:
    names = [f"t{number}_usd" for number in range(5)]
    await track(db, *names)
    rows = [row(name, MINUTE + 60 * number) for name in names for number in range(40)]
    rows = rows[::3] + rows[1::3] + rows[2::3]
    async with (
        serving(Settings(database_url=dsn)) as one,
        serving(Settings(database_url=dsn)) as other,
        told_of(one, CHANGES) as first,
        told_of(other, CHANGES) as second,
    ):

        async def write(part: int) -> None:
            for start in range(part, len(rows), 8):
                await store(db, rows[start : start + 2])

        await asyncio.gather(*(write(part) for part in range(0, 8, 2)))
        told = await first.events(len(rows))
        assert await second.events(len(rows)) == told
        async with listening(one, CHANGES, after=told[57]["id"]) as third:
            assert await third.events(len(rows) - 58) == told[58:]
    assert {(event["ticker"], event["ts"]) for event in without_ids(told)} == {(price.ticker, price.ts) for price in rows}


async def test_who_reads_slowly_reads_from_the_database(dsn: str, db: Database) -> None:
    commits = CommitListener()
    live = LiveEvents(commits)
    await track(db, "btc_usd", *(names := [f"t{number:03}_usd" for number in range(110)]))
    selection = EventSelection(
        None, (("price", Shape((("ticker", events.PRICE_COLUMNS["ticker"]), ("ts", events.PRICE_COLUMNS["ts"])))),)
    )
    async with commits.run_in_background(dsn), live.run_in_background(db):
        told = await live.subscribe(db, selection, None)
        await store(db, [row("btc_usd", MINUTE)])
        found = [await anext(told)]
        for start in range(0, 110, 10):  # more than memory holds of a question
            await store(db, [row(name, MINUTE + 60 * n) for name in names[start : start + 10] for n in range(100)])
        await store(db, [row("btc_usd", MINUTE + 60)])
        async with aclosing(told):
            found += [await anext(told) for _ in range(11_001)]
    assert [event.position for event in found] == sorted({event.position for event in found})
    assert len({event.text for event in found}) == 11_002


async def test_a_candle_is_told_as_it_stands_and_as_it_changes(api: Api, db: Database) -> None:
    now = int(time.time())
    day = now // 86_400 * 86_400
    await track(db, "btc_usd", since=day)
    await store(db, [row("btc_usd", day, "5")])
    query = 'subscription { candleUpdated(ticker: "btc_usd", interval: ONE_MONTH) { open close count closed } }'
    async with listening(api, query) as listener, listening(api, query) as other:
        for one in (listener, other):
            assert await one.events(1) == [{"open": "5", "close": "5", "count": 1, "closed": False}]
        await store(db, [row("btc_usd", day + 60, "6")])
        for one in (listener, other):
            assert await one.events(1) == [{"open": "5", "close": "6", "count": 2, "closed": False}]


async def test_who_follows_a_candle_later_begins_with_the_open_one(api: Api, db: Database) -> None:
    day = int(time.time()) // 86_400 * 86_400
    await track(db, "btc_usd", since=day - 86_400)
    await store(db, [row("btc_usd", day, "5")])
    query = 'subscription { candleUpdated(ticker: "btc_usd", interval: ONE_DAY) { ts close } }'
    async with listening(api, query) as first:
        assert await first.events(1) == [{"ts": day, "close": "5"}]
        await store(db, [row("btc_usd", day - 60, "4", source=Source.BACKFILL)])
        assert await first.events(1) == [{"ts": day - 86_400, "close": "4"}]
        async with listening(api, query) as second:
            assert await second.events(1) == [{"ts": day, "close": "5"}]


async def test_who_has_only_http_comes_back_while_the_database_is_away(dsn: str) -> None:
    async with serving(Settings(database_url=f"{dsn}_away")) as api, streaming(api, PRICES) as stream:
        assert stream.response.status == 200
        assert await stream.response.text() == ": The database is unavailable. Retry in a few seconds.\nretry: 1000\n\n"


async def test_subscriptions_of_one_client_have_a_bound(dsn: str) -> None:
    settings = Settings(database_url=dsn, max_sockets_per_client=2)
    async with serving(settings) as api, connected(api) as socket:
        for name in ("1", "2", "3"):
            await socket.send_json({"type": "subscribe", "id": name, "payload": {"query": PRICES}})
        message = await socket.receive_json(timeout=PATIENCE_S)
    assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "RATE_LIMITED")


@dataclass
class Streamed:
    """What came of a stream of events."""

    response: aiohttp.ClientResponse

    async def event(self) -> dict[str, str]:
        """The next event that is none of the connection's own."""
        found: dict[str, str] = {}
        while "event" not in found:
            found = {}
            while (line := (await asyncio.wait_for(self.response.content.readline(), PATIENCE_S)).decode()) not in ("\n", ""):
                name, _, value = line.rstrip("\n").partition(":")
                found[name] = value.removeprefix(" ")
        return found


@asynccontextmanager
async def streaming(api: Api, query: str, **headers: str) -> AsyncIterator[Streamed]:
    async with api.session.get(
        f"{api.url}/graphql", params={"query": query}, headers={"Accept": "text/event-stream", **headers}
    ) as response:
        yield Streamed(response)


async def test_events_are_streamed_to_whoever_has_only_http(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with streaming(api, PRICES) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert await stream.response.content.readline() == b"retry: 1000\n"
        await store(db, [row("btc_usd", MINUTE, "1")])
        event = await stream.event()
    price = {"id": event["id"], "ticker": "btc_usd", "ts": MINUTE, "price": "1"}
    assert (event["event"], json.loads(event["data"])) == ("next", {"data": {"priceAdded": price}})
    await store(db, [row("btc_usd", MINUTE + 60, "2")])
    async with streaming(api, PRICES, **{"Last-Event-ID": event["id"]}) as stream:
        assert json.loads((await stream.event())["data"])["data"]["priceAdded"]["price"] == "2"


async def test_a_subscription_that_cannot_be_has_a_status_that_ends_an_event_source(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    for query in ('subscription { priceAdded(tickers: ["x"]) { id } }', 'subscription { priceAdded(after: "9") { id } }', "{"):
        async with streaming(api, query) as stream:
            assert (stream.response.status, "errors" in await stream.response.json(content_type=None)) == (400, True)


async def test_a_query_may_be_answered_as_an_event(api: Api) -> None:
    async with streaming(api, "{ __typename }") as stream:
        assert await stream.response.text() == (
            'event: next\ndata: {"data":{"__typename":"Query"}}\n\nevent: complete\ndata:\n\n'
        )


async def test_a_subscription_needs_a_client_that_takes_events(api: Api) -> None:
    code, message = await api.error(PRICES)
    assert (code, "text/event-stream" in message) == ("GRAPHQL_VALIDATION_FAILED", True)


async def test_a_stream_takes_a_connection_and_no_request(dsn: str) -> None:
    async with (
        serving(Settings(database_url=dsn, max_in_flight=1, max_sockets=1)) as api,
        streaming(api, PRICES) as stream,
    ):
        assert await stream.response.content.readline() == b"retry: 1000\n"
        assert await api.data("{ tickers { name } }") == {"tickers": []}
        async with streaming(api, PRICES) as other:
            assert other.response.status == 503


async def test_a_client_may_go_while_the_process_ends(dsn: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with serving(Settings(database_url=dsn)) as api:
            socket = await session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",))
            going = asyncio.create_task(_close_when_asked(socket, api))
        await going
    await asyncio.sleep(CLOSE_TIMEOUT_S + 0.1)  # until the process would have closed it


async def _close_when_asked(socket: aiohttp.ClientWebSocketResponse, api: Api) -> None:
    """Closes as soon as nobody new is let in."""

    async def is_ending() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{api.url}/health/live"):
                return False
        except aiohttp.ClientError:
            return True

    await until(is_ending)
    await socket.close()


async def test_a_process_that_ends_tells_what_is_there_and_to_come_back(dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    async with api_process(dsn, tmp_path) as stand:
        api = Api(stand.url, stand.session)
        query = PRICES.replace("priceAdded", "priceAdded(after: 0)")
        async with listening(api, query) as listener, streaming(api, query) as stream:
            await store(db, [row("btc_usd", MINUTE)])
            assert len(await listener.events(1)) == 1
            stand.process.terminate()
            message = await listener.socket.receive(timeout=PATIENCE_S)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
            assert (await stream.event())["event"] == "next"
            assert b"complete" not in await stream.response.content.read()
    assert stand.log.read_text() == ""


class _Unwritable(EventSelection):
    """A question whose answers cannot be written."""

    def render(self, records: Iterable[Record]) -> Iterator[Event]:
        raise ZeroDivisionError


async def test_a_topic_that_fails_ends_alone_and_the_others_miss_nothing(db: Database) -> None:
    await track(db, "btc_usd")
    commits = CommitListener()
    live = LiveEvents(commits)
    shapes = (("price", Shape((("ts", events.PRICE_COLUMNS["ts"]),))),)
    good, bad = EventSelection(None, shapes), _Unwritable(frozenset({"btc_usd"}), shapes)
    async with (
        live.run_in_background(db),
        aclosing(await live.subscribe(db, bad, None)) as failing,
        aclosing(await live.subscribe(db, good, None)) as others,
    ):
        waiting, broken = asyncio.create_task(anext(others)), asyncio.create_task(anext(failing))
        await until(lambda: live.subscribers == 2)
        await store(db, [row("btc_usd", MINUTE)])
        commits.invalidate()
        with pytest.raises(UnavailableError, match="Subscribe again"):
            await broken
        assert (await waiting).position > 0


async def test_an_error_that_no_waiting_mends_ends_subscriptions_with_unavailable(api: Api, db: Database) -> None:
    """A release whose statement breaks must not look like a quiet market."""
    await track(db, "btc_usd")
    async with told_of(api, PRICES) as listener:
        await db.execute("ALTER TABLE change RENAME COLUMN kind TO renamed")
        await db.execute("SELECT pg_notify('tickgraph', '')")
        assert (await listener.error())[0] == "UNAVAILABLE"
