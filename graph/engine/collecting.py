"""Asking the workers for prices now: a message by queue and actor name, through a broker opened at first use."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from db import tracing
from db.queues import Actor, Queue
from graph.errors import UnavailableError

PATIENCE_S = 1.0
REMEMBERED_S = 120
SENT_WITHIN_S = 3


@dataclass(frozen=True)
class Receipt:
    """What became of a wish for prices."""

    ts: int
    """The minute, UNIX seconds."""
    queued: bool
    """False where the same was asked for in this minute before."""
    tickers: list[str]
    """Those asked for; empty for all that are tracked."""


class Collecting:
    """The way to the workers. Reads need none of it: without Redis only this fails."""

    def __init__(self, broker_url: str | None) -> None:
        self._url = broker_url
        self._broker: RedisBroker | None = None
        self._opening = threading.Lock()

    async def request(self, minute: int, tickers: Sequence[str]) -> Receipt:
        """Sends one collect message a minute for the same tickers; none means all that are tracked.

        Raises UnavailableError within two seconds where Redis is away.
        """
        wanted = sorted(set(tickers))
        try:
            queued = await asyncio.to_thread(self._send, minute, wanted)
        except redis.RedisError as error:
            raise UnavailableError("The queue of messages is away; try again in a moment.") from error
        return Receipt(minute, queued, wanted)

    def _send(self, minute: int, tickers: list[str]) -> bool:
        broker = self._opened()
        # Short until the message is sent: where that fails, or this process ends, the next request sends it again.
        mark = f"tickgraph:fetch:{minute}:{','.join(tickers)}"
        if not broker.client.set(mark, 1, nx=True, ex=SENT_WITHIN_S):
            return False
        broker.enqueue(
            dramatiq.Message(
                queue_name=Queue.COLLECT,
                actor_name=Actor.COLLECT,
                args=(),
                kwargs={"minute": minute} | ({"only": tickers} if tickers else {}),
                options=tracing.carrier(),
            )
        )
        broker.client.expire(mark, REMEMBERED_S)
        return True

    def _opened(self) -> RedisBroker:
        with self._opening:
            return self._broker or self._open()

    def _open(self) -> RedisBroker:
        if self._broker is None:
            if self._url is None:
                raise UnavailableError("Prices cannot be asked for here: REDIS_URL is not set.")
            client = redis.Redis.from_url(
                self._url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0)
            )
            self._broker = RedisBroker(client=client, middleware=[])  # type: ignore[no-untyped-call]  # left untyped
        return self._broker

    def close(self) -> None:
        """Gives the connections back."""
        if self._broker is not None:
            self._broker.client.close()
