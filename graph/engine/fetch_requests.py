"""Sends fetch requests to the workers, as Dramatiq messages addressed by queue and actor name.

The connection to Redis opens with the first request.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from db.queues import Actor, Queue
from db.runtime import tracing
from graph.errors import UnavailableError

REDIS_TIMEOUT_S = 1.0
SENT_TTL_S = 120
PENDING_TTL_S = 3


@dataclass(frozen=True)
class Receipt:
    """Result of a fetch request."""

    ts: int
    """The minute to fetch, in UNIX seconds."""
    queued: bool
    """False if the same request was already sent in this minute."""
    tickers: list[str]
    """The requested tickers; empty for all tracked tickers."""


class FetchRequests:
    """Sends fetch requests through Redis. Reads do not use Redis, so only these requests fail without it."""

    def __init__(self, broker_url: str | None) -> None:
        self._url = broker_url
        self._broker: RedisBroker | None = None
        self._opening_lock = threading.Lock()

    async def send(self, minute: int, tickers: Sequence[str]) -> Receipt:
        """Sends a collect message for the tickers, or for all tracked tickers if the list is empty.

        Sends at most one message a minute for the same tickers. Raises UnavailableError within two seconds without Redis.
        """
        names = sorted(set(tickers))
        try:
            queued = await asyncio.to_thread(self._send, minute, names)
        except redis.RedisError as error:
            raise UnavailableError("The message queue is unavailable. Retry in a few seconds.") from error
        return Receipt(minute, queued, names)

    def _send(self, minute: int, tickers: list[str]) -> bool:
        broker = self._get_broker()
        # Until the message is sent, the key has a short TTL, so that a later request can retry a failed send.
        deduplication_key = f"tickgraph:fetch:{minute}:{','.join(tickers)}"
        if not broker.client.set(deduplication_key, 1, nx=True, ex=PENDING_TTL_S):
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
        broker.client.expire(deduplication_key, SENT_TTL_S)
        return True

    def _get_broker(self) -> RedisBroker:
        if self._url is None:
            raise UnavailableError("Fetch requests are disabled because REDIS_URL is not set.")
        with self._opening_lock:
            if self._broker is None:
                client = redis.Redis.from_url(
                    self._url,
                    socket_timeout=REDIS_TIMEOUT_S,
                    socket_connect_timeout=REDIS_TIMEOUT_S,
                    retry=Retry(NoBackoff(), 0),
                )
                self._broker = RedisBroker(client=client, middleware=[])  # type: ignore[no-untyped-call]  # untyped
            return self._broker

    def close(self) -> None:
        """Closes the connections to Redis."""
        if self._broker is not None:
            self._broker.client.close()
