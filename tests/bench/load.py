"""A client that repeats requests on a few connections with little overhead."""

import asyncio
import functools
import time
from dataclasses import dataclass, field
from typing import cast

import orjson
import uvloop


@dataclass
class LoadResult:
    """The response times of one round of load."""

    seconds: float
    times: list[float] = field(default_factory=list)
    """Seconds of each response, in the order of arrival."""
    size: int = 0
    """Bytes of the last response body."""

    @property
    def rate(self) -> float:
        """Responses per second."""
        return len(self.times) / self.seconds

    def quantile(self, fraction: float) -> float:
        """Returns the milliseconds below which this fraction of the responses stayed."""
        ordered = sorted(self.times)
        return 1_000 * ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


@dataclass(frozen=True)
class BenchRequest:
    """An HTTP request as bytes."""

    port: int
    head: bytes
    body: bytes = b""

    @property
    def bytes(self) -> bytes:
        length = b"Content-Length: %d\r\n" % len(self.body) if self.body else b""
        return self.head + b"Host: bench\r\n" + length + b"\r\n" + self.body


class _Connection(asyncio.Protocol):
    def __init__(self, requests: list[bytes], result: LoadResult, deadline: float) -> None:
        self._requests = requests
        self._result = result
        self._deadline = deadline
        self._sent_count = 0
        self._missing_bytes = 0
        self._head = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._deadline:
            self._transport.close()
            self.done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._requests[self._sent_count % len(self._requests)])
        self._sent_count += 1

    def data_received(self, data: bytes) -> None:
        if not self._missing_bytes:
            self._head += data
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            assert head.startswith(b"HTTP/1.1 200"), (head, rest[:500])
            self._missing_bytes = self._result.size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            data = rest
        self._missing_bytes -= len(data)
        if not self._missing_bytes:
            self._result.times.append(time.perf_counter() - self._sent_at)
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed in the middle"))


async def _load(requests: list[BenchRequest], connections: int, seconds: float) -> LoadResult:
    loop, result = asyncio.get_running_loop(), LoadResult(seconds)
    deadline = time.perf_counter() + seconds
    sent = [request.bytes for request in requests]
    opened = []
    for number in range(connections):
        offset = number * len(sent) // connections
        make = functools.partial(_Connection, sent[offset:] + sent[:offset], result, deadline)
        opened.append(await loop.create_connection(make, "127.0.0.1", requests[0].port))
    await asyncio.gather(*(protocol.done for _, protocol in opened))
    return result


def load(requests: list[BenchRequest], connections: int = 16, seconds: float = 1.0) -> LoadResult:
    """Sends the requests in rotation on each connection."""
    return uvloop.run(_load(requests, connections, seconds))


def graphql(port: int, query: str) -> BenchRequest:
    """Builds a POST request with a GraphQL query."""
    head = b"POST /graphql HTTP/1.1\r\nContent-Type: application/json\r\n"
    return BenchRequest(port, head, orjson.dumps({"query": query}))


def get(port: int, path: str) -> BenchRequest:
    """Builds a GET request."""
    return BenchRequest(port, f"GET {path} HTTP/1.1\r\n".encode())
