"""The subscription of tests.bench.live with plain Strawberry: its own handler, and a queue per subscriber.

DATABASE_URL=… uvicorn tests.bench.plain_live:app
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import strawberry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL

from tests.bench.floor import latest

NEWEST = "SELECT id, ticker, ts, price::text FROM price WHERE id > $1 ORDER BY id"
queues: set[asyncio.Queue[asyncpg.Record]] = set()


@strawberry.type
class Price:
    ticker: str
    ts: int
    price: str


@strawberry.type
class Query:
    nothing: bool = True


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def price_added(self) -> AsyncGenerator[Price, None]:
        queue: asyncio.Queue[asyncpg.Record] = asyncio.Queue()
        queues.add(queue)
        try:
            while True:
                record = await queue.get()
                yield Price(ticker=record["ticker"], ts=record["ts"], price=record["price"])
        finally:
            queues.discard(queue)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool, pool.acquire() as listener:
        app.state.pool = pool
        last_id = await pool.fetchval("SELECT coalesce(max(id), 0) FROM price")

        async def publish() -> None:
            nonlocal last_id
            for record in await pool.fetch(NEWEST, last_id):
                last_id = record["id"]
                for queue in queues:
                    queue.put_nowait(record)

        publish_tasks: set[asyncio.Task[None]] = set()

        def on_notification(*_: object) -> None:
            publish_tasks.add(asyncio.create_task(publish()))

        await listener.add_listener("tickgraph", on_notification)
        yield
        await listener.remove_listener("tickgraph", on_notification)


async def _nothing(_request: Request) -> Response:
    return Response()


endpoint = GraphQL[None, None](strawberry.Schema(Query, subscription=Subscription))
app = Starlette(
    routes=[Route("/latest", latest), Route("/", _nothing), WebSocketRoute("/graphql", endpoint)], lifespan=_lifespan
)
