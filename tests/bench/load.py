"""A client that asks the same over and over on a few connections, and costs little itself."""

import asyncio
import functools
import time
from dataclasses import dataclass, field
from typing import cast

import orjson
import uvloop


@dataclass
class Told:
    """What one round of load saw."""

    seconds: float
    times: list[float] = field(default_factory=list)
    """Seconds of each answer, in the order they came."""
    size: int = 0
    """Bytes of the last answer's body."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def quantile(self, part: float) -> float:
        """Milliseconds below which this part of the answers stayed."""
        ordered = sorted(self.times)
        return 1_000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@dataclass(frozen=True)
class Question:
    """A request, as bytes."""

    port: int
    head: bytes
    body: bytes = b""

    @property
    def bytes(self) -> bytes:
        length = b"Content-Length: %d\r\n" % len(self.body) if self.body else b""
        return self.head + b"Host: bench\r\n" + length + b"\r\n" + self.body


class _Connection(asyncio.Protocol):
    def __init__(self, questions: list[bytes], told: Told, until: float) -> None:
        self._questions = questions
        self._told = told
        self._until = until
        self._asked = 0
        self._missing = 0
        self._head = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        if time.perf_counter() >= self._until:
            self._transport.close()
            self.done.set_result(None)
            return
        self._began = time.perf_counter()
        self._transport.write(self._questions[self._asked % len(self._questions)])
        self._asked += 1

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._head += data
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            assert head.startswith(b"HTTP/1.1 200"), (head, rest[:500])
            self._missing = self._told.size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            data = rest
        self._missing -= len(data)
        if not self._missing:
            self._told.times.append(time.perf_counter() - self._began)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed in the middle"))


async def _load(questions: list[Question], connections: int, seconds: float) -> Told:
    loop, told = asyncio.get_running_loop(), Told(seconds)
    until = time.perf_counter() + seconds
    sent = [question.bytes for question in questions]
    made = []
    for number in range(connections):
        turn = number * len(sent) // connections
        make = functools.partial(_Connection, sent[turn:] + sent[:turn], told, until)
        made.append(await loop.create_connection(make, "127.0.0.1", questions[0].port))
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return told


def load(questions: list[Question], connections: int = 16, seconds: float = 1.0) -> Told:
    """Asks the questions in turn on each connection."""
    return uvloop.run(_load(questions, connections, seconds))


def graphql(port: int, query: str) -> Question:
    """A GraphQL query by POST."""
    head = b"POST /graphql HTTP/1.1\r\nContent-Type: application/json\r\n"
    return Question(port, head, orjson.dumps({"query": query}))


def get(port: int, path: str) -> Question:
    """A GET."""
    return Question(port, f"GET {path} HTTP/1.1\r\n".encode())
