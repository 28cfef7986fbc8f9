"""Dramatiq's Redis broker that survives failures of Redis and undecodable messages, and logs each failure once."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed, DecodeError

from ingest.redis_state import RedisState

RETRY_INTERVAL_S: Final = 1.0
RETRY_TIMEOUT_S: Final = 50.0
"""How long sending a scheduled message is retried. The next minute's message follows then."""
UNDECODABLE: Final = "tickgraph:undecodable"
MAX_UNDECODABLE: Final = 1_000
"""Maximum length of the list of undecodable messages. The oldest ones are deleted."""

log = logging.getLogger(__name__)


class QueueConsumer(_RedisConsumer):
    """Moves undecodable messages to a list, and lets Dramatiq retry every Redis error like a lost connection."""

    def __next__(self) -> Any:
        while True:
            with _as_connection_closed():
                try:
                    return super().__next__()  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
                except DecodeError as error:
                    self._quarantine(error.data)

    def ack(self, message: Any) -> None:
        with _as_connection_closed():
            super().ack(message)  # type: ignore[no-untyped-call]  # likewise

    def nack(self, message: Any) -> None:
        with _as_connection_closed():
            super().nack(message)  # type: ignore[no-untyped-call]  # likewise

    def requeue(self, messages: Any) -> None:
        with _as_connection_closed():
            super().requeue(messages)  # type: ignore[no-untyped-call]  # likewise

    def _quarantine(self, data: bytes) -> None:
        log.error(
            "a message of the queue %s cannot be decoded and is moved to tickgraph:undecodable: %.80r", self.queue_name, data
        )
        self.broker.client.lpush(UNDECODABLE, data)
        self.broker.client.ltrim(UNDECODABLE, 0, MAX_UNDECODABLE - 1)
        # Dramatiq stores messages by an id that is part of the message, so the undecodable one is found by its content.
        key = f"{self.broker.namespace}:{self.queue_name}.msgs"
        for message_id, stored in self.broker.client.hgetall(key).items():
            if stored == data:
                self.broker.do_ack(self.queue_name, message_id)


class QueueBroker(RedisBroker):
    """The Redis broker of the workers and the scheduler."""

    @property
    def consumer_class(self) -> type[QueueConsumer]:
        """The class that reads the queues."""
        return QueueConsumer

    def __init__(self, *, url: str, state: RedisState, middleware: list[dramatiq.Middleware]) -> None:
        # Makes every command look for messages of dead workers. By default one in a thousand does, so they wait for minutes.
        super().__init__(url=url, middleware=middleware, maintenance_chance=1_000_000)  # type: ignore[no-untyped-call]
        self._state = state

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":
        """Sends a message. Sending a scheduled message is retried for RETRY_TIMEOUT_S, then skipped: the next one follows."""
        deadline = time.monotonic() + RETRY_TIMEOUT_S
        while True:
            try:
                sent = super().enqueue(message, delay=delay)
            except redis.RedisError as error:
                self._state.record_failure(error)
                if "scheduled_at" not in message.options:
                    raise
                if time.monotonic() > deadline:
                    return message
                time.sleep(RETRY_INTERVAL_S)
            else:
                self._state.record_success()
                return sent


@contextlib.contextmanager
def _as_connection_closed() -> Iterator[None]:
    """Raises Redis errors as ConnectionClosed: Dramatiq logs any other error of Redis with a traceback."""
    try:
        yield
    except redis.RedisError as error:
        raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # likewise
