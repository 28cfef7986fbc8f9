"""Shares statements between requests that read the same prices in the same turn of the event loop.

As a DataLoader does within one request, but across requests. A statement starts in the next turn, so each result is as new as
its request. A request for one ticker waits for the statement for all tickers that were requested in its turn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from db.pool import Executor
from db.queries import prices
from db.queries.prices import PricePage
from db.queries.shapes import Shape
from db.queries.snapshots import Snapshot

T = TypeVar("T")


@dataclass
class _Batch:
    read: Callable[[Collection[str]], Awaitable[Any]]
    tickers: set[str] = field(default_factory=set)
    waiters: list[asyncio.Future[Any]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class SharedReads:
    """Reads of prices as JSON, like those of `db.queries.prices`. A cancelled request cancels no other one.

    Responses that read from a replica share nothing, because each of them falls back to the primary on its own.
    """

    def __init__(self) -> None:
        self._batches: dict[Hashable, _Batch] = {}

    async def latest_json(
        self, db: Executor, shape: Shape, tickers: Collection[str], now: float, snapshot: Snapshot | None = None
    ) -> dict[str, str]:
        """Returns the newest price of each ticker that has one. The result may contain more tickers. Raises DatabaseError.

        One statement serves all requests of a turn, also those for other tickers.
        """
        return await self._share(
            ("latest", db, shape, snapshot),
            tickers,
            lambda requested: prices.latest_json(db, shape, sorted(requested), now, snapshot),
        )

    async def window_json(self, db: Executor, shape: Shape, ticker: str, low: int, high: int, **options: Any) -> bytes:
        """Returns the prices of a window. One statement serves identical requests. Raises DatabaseError."""
        read = partial(prices.window_json, db, shape, ticker, low, high, **options)
        return await self._share(("window", db, shape, ticker, low, high, *options.items()), (), lambda _: read())

    async def fetch_page(self, db: Executor, shape: Shape, ticker: str, low: int, high: int, **options: Any) -> PricePage:
        """Returns a page of prices. One statement serves identical requests. Raises DatabaseError."""
        read = partial(prices.fetch_page, db, shape, ticker, low, high, **options)
        return await self._share(("page", db, shape, ticker, low, high, *options.items()), (), lambda _: read())

    async def _share(self, key: Hashable, tickers: Collection[str], read: Callable[[Collection[str]], Awaitable[T]]) -> T:
        """Returns what `read` returns for these tickers and those of other requests with the same key."""
        loop = asyncio.get_running_loop()
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = _Batch(read)
            loop.call_soon(self._start, key, batch)
        batch.tickers.update(tickers)
        waiter: asyncio.Future[T] = loop.create_future()
        batch.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if batch.task is not None and all(other.done() for other in batch.waiters):
                if not batch.task.cancelling():  # a second cancellation would interrupt the release of the connection
                    batch.task.cancel()
                await asyncio.wait([batch.task])  # until the statement has ended
            raise

    def _start(self, key: Hashable, batch: _Batch) -> None:
        del self._batches[key]
        if not all(waiter.done() for waiter in batch.waiters):
            batch.task = asyncio.create_task(self._run(batch))

    async def _run(self, batch: _Batch) -> None:
        try:
            found = await batch.read(batch.tickers)
        except Exception as error:  # noqa: BLE001  each request handles it
            for waiter in batch.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        else:
            for waiter in batch.waiters:
                if not waiter.done():
                    waiter.set_result(found)
