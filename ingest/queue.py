"""Dramatiq's Redis broker where Redis fails or holds what is no message: nothing ends for it, and each line is said once."""

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

RETRY_EVERY_S: Final = 1.0
RETRY_FOR_S: Final = 50.0
"""How long a scheduled message is tried to be sent: the next minute's follows then."""
UNDECODABLE: Final = "tickgraph:undecodable"
UNDECODABLE_COUNT: Final = 1_000
"""Messages that are set aside, the newest."""

log = logging.getLogger(__name__)


class QueueConsumer(_RedisConsumer):
    """Sets aside what cannot be decoded, and has every error of Redis retried like a lost connection."""

    def __next__(self) -> Any:
        while True:
            with _lost_connection():
                try:
                    return super().__next__()  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
                except DecodeError as error:
                    self._set_aside(error.data)

    def ack(self, message: Any) -> None:
        with _lost_connection():
            super().ack(message)  # type: ignore[no-untyped-call]  # likewise

    def nack(self, message: Any) -> None:
        with _lost_connection():
            super().nack(message)  # type: ignore[no-untyped-call]  # likewise

    def requeue(self, messages: Any) -> None:
        with _lost_connection():
            super().requeue(messages)  # type: ignore[no-untyped-call]  # likewise

    def _set_aside(self, data: bytes) -> None:
        log.error("a message of the queue %s cannot be read and is set aside: %.80r", self.queue_name, data)
        self.broker.client.lpush(UNDECODABLE, data)
        self.broker.client.ltrim(UNDECODABLE, 0, UNDECODABLE_COUNT - 1)
        # Dramatiq keeps messages by an id that stands in them, which cannot be read.
        key = f"{self.broker.namespace}:{self.queue_name}.msgs"
        for message_id, stored in self.broker.client.hgetall(key).items():
            if stored == data:
                self.broker.do_ack(self.queue_name, message_id)


class QueueBroker(RedisBroker):
    """Redis as a broker for workers and the scheduler."""

    @property
    def consumer_class(self) -> type[QueueConsumer]:
        """What reads the queues."""
        return QueueConsumer

    def __init__(self, *, url: str, state: RedisState, middleware: list[dramatiq.Middleware]) -> None:
        # Each command may look for messages of dead workers; by default one in a thousand does, which takes minutes.
        super().__init__(url=url, middleware=middleware, maintenance_chance=1_000_000)  # type: ignore[no-untyped-call]
        self._state = state

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":
        """Sends a message. One of the schedule is tried for most of its minute, and then left out: the next one follows."""
        deadline = time.monotonic() + RETRY_FOR_S
        while True:
            try:
                sent = super().enqueue(message, delay=delay)
            except redis.RedisError as error:
                self._state.failed(error)
                if "scheduled_at" not in message.options:
                    raise
                if time.monotonic() > deadline:
                    return message
                time.sleep(RETRY_EVERY_S)
            else:
                self._state.works()
                return sent


@contextlib.contextmanager
def _lost_connection() -> Iterator[None]:
    """Dramatiq retries after a lost connection in a few lines, after any other error of Redis with a traceback."""
    try:
        yield
    except redis.RedisError as error:
        raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # likewise
