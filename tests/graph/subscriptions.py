"""Clients of subscriptions: over WebSocket and as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.graph.conftest import Api
from tests.wait import WAIT_TIMEOUT_S, wait_until

PROTOCOL = "graphql-transport-ws"
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
TERMINATE_COMMIT_LISTENERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'SELECT pg_backend_pid() FROM pg_notify($1%'
"""


@asynccontextmanager
async def open_socket(api: Api, *, sends_init: bool = True) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,)) as socket:
        if sends_init:
            await socket.send_json({"type": "connection_init"})
            assert await socket.receive_json(timeout=WAIT_TIMEOUT_S) == {"type": "connection_ack"}
        yield socket


@dataclass
class Subscriber:
    """A WebSocket client with one subscription."""

    socket: aiohttp.ClientWebSocketResponse

    async def message(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=WAIT_TIMEOUT_S)
        return message

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Returns the data of the next `count` events."""
        received = []
        for _ in range(count):
            message = await self.message()
            assert message["type"] == "next", message
            received += message["payload"]["data"].values()
        return received

    async def error(self) -> tuple[str, str]:
        """Returns code and message of the error that ends the subscription."""
        message = await self.message()
        assert message["type"] == "error", message
        (error,) = message["payload"]
        return error["extensions"]["code"], error["message"]


@asynccontextmanager
async def subscribe(api: Api, query: str, **variables: Any) -> AsyncIterator[Subscriber]:
    """Opens a WebSocket with one subscription."""
    async with open_socket(api) as socket:
        await socket.send_json({"type": "subscribe", "id": "1", "payload": {"query": query, "variables": variables}})
        yield Subscriber(socket)


@asynccontextmanager
async def subscribe_and_wait(api: Api, query: str) -> AsyncIterator[Subscriber]:
    """Opens a WebSocket with one subscription, and waits until it receives every later commit."""
    assert api.live is not None
    before = api.live.topics.subscribers
    async with subscribe(api, query) as listener:
        await wait_until(lambda: api.live is not None and api.live.topics.subscribers > before)
        yield listener


def without_ids(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the events without their ids. Fails if the ids do not increase."""
    positions = [int(one["id"]) for one in events]
    assert positions == sorted(set(positions))
    return [{name: value for name, value in one.items() if name != "id"} for one in events]


@dataclass
class EventStream:
    """A response with server-sent events."""

    response: aiohttp.ClientResponse

    async def event(self) -> dict[str, str]:
        """Returns the next event; skips `retry` and comments."""
        fields: dict[str, str] = {}
        while "event" not in fields:
            fields = {}
            while (line := (await asyncio.wait_for(self.response.content.readline(), WAIT_TIMEOUT_S)).decode()) not in (
                "\n",
                "",
            ):
                name, _, value = line.rstrip("\n").partition(":")
                fields[name] = value.removeprefix(" ")
        return fields


@asynccontextmanager
async def open_event_stream(api: Api, query: str, **headers: str) -> AsyncIterator[EventStream]:
    async with api.session.get(
        f"{api.url}/graphql", params={"query": query}, headers={"Accept": "text/event-stream", **headers}
    ) as response:
        yield EventStream(response)
