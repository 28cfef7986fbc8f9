"""Uvicorn's HTTP/1.1 and WebSocket protocols with limits that uvicorn lacks.

They limit the size of the headers, the time to receive a request and the time without progress in writing. On shutdown, they
notify the subscriptions before uvicorn closes the connections.
"""

import asyncio
import logging
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from graph import metrics

log = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 64 * 1024
"""Limit for the request line and the headers together."""
RECEIVE_TIMEOUT_S: Final = 15.0
"""Seconds to receive a complete request, from its first byte or from the start of the connection."""
WRITE_TIMEOUT_S: Final = 30.0
"""Seconds without any read by the client after which its connection is aborted."""

CLOSE_TIMEOUT_S: Final = 0.5
"""Seconds that the endpoint has to close a WebSocket on shutdown; then the protocol closes it."""
ON_SHUTDOWN: Final = "on_shutdown"
"""Key in the lifespan state: the callback that ends the subscriptions on shutdown."""

_BAD_HOST: Final = "Send exactly one Host header"
_BAD_UPGRADE: Final = "A WebSocket upgrade request must not have a body"
_HEADERS_TOO_LARGE_RESPONSE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class WriteTimeoutProtocol(asyncio.Protocol):
    """Aborts the connection of a client that does not read. Calls the shutdown callback of the application."""

    loop: asyncio.AbstractEventLoop
    app_state: dict[str, Any]
    transport: asyncio.Transport
    client: tuple[str, int] | None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._check_progress, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def shutdown(self) -> None:
        self.app_state.get(ON_SHUTDOWN, lambda: None)()
        super().shutdown()  # type: ignore[misc]  # defined by uvicorn's class, later in the MRO

    def _check_progress(self, previous_bytes: int) -> None:
        """Aborts the connection if the client has read nothing since `previous_bytes` were pending."""
        pending_bytes = self.transport.get_write_buffer_size()
        if pending_bytes >= previous_bytes:  # may have grown by a ping or a close
            log.warning(
                "disconnecting %s: it read nothing for %g s while %d bytes were pending",
                self.client,
                WRITE_TIMEOUT_S,
                pending_bytes,
            )
            metrics.slow_clients_disconnected.inc()
            self.transport.abort()
        else:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._check_progress, pending_bytes)

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class BoundedWebSocket(WriteTimeoutProtocol, WebSocketsSansIOProtocol):
    """WebSocket protocol: on shutdown, subscriptions send their pending events before the endpoint closes the connection.

    It closes a connection whose handshake is not complete within RECEIVE_TIMEOUT_S.
    """

    _request_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._request_timer = self.loop.call_later(RECEIVE_TIMEOUT_S, self._on_request_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
        super().connection_lost(exc)

    def _on_request_timeout(self) -> None:
        if not self.handshake_complete:
            self.transport.close()

    def handle_ping(self) -> None:
        # Drops the pong of a client that does not read: pongs would accumulate in memory.
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def shutdown(self) -> None:
        self.app_state.get(ON_SHUTDOWN, lambda: None)()
        self.loop.call_later(CLOSE_TIMEOUT_S, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():  # the client may have disconnected
            WebSocketsSansIOProtocol.shutdown(self)


class ResponseWriter:
    """Passes the writes of one response to the transport, its head together with the start of its body.

    uvicorn writes them separately, which costs a system call and a packet. A head without a body is written in the next turn
    of the event loop.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = b""  # empty before the first write, then the pending head, then None

    def write(self, data: bytes) -> None:
        """Writes data. The first data waits for the next call, at most until the next turn of the event loop."""
        if self._head == b"":
            self._head = data
            self._loop.call_soon(self._flush)
        elif self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines([head, data])
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Closes the connection after everything is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closing."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = None


class BoundedHttp(WriteTimeoutProtocol, HttpToolsProtocol):
    """HTTP protocol: closes connections that would hold memory or sockets.

    Reasons are too large headers, an incomplete request, an idle connection, or a response that the client does not read.
    A timer runs only while data is outstanding, because most requests arrive in one piece.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = self._in_request = False
        self._completed_request_in_chunk = False
        self._head_size = 0
        self._is_head_too_long = False
        self._head_error = ""
        self._request_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._start_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_request_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # later ones are trailers, which are unused and unlimited
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        self._check_head()
        previous_cycle = self.cycle
        super().on_headers_complete()
        # A HEAD response has no body to wait for.
        if self.cycle is not None and self.cycle is not previous_cycle and self.scope["method"] != "HEAD":
            self.cycle.transport = ResponseWriter(self.transport, self.loop)  # type: ignore[assignment]  # has all methods that a cycle calls

    def on_message_complete(self) -> None:
        self._in_request = False
        self._completed_request_in_chunk = True
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._completed_request_in_chunk = False
        if self._in_head or not self._in_request:
            self._head_size += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_size > MAX_HEADER_BYTES:
            self._is_head_too_long = True
            self.send_400_response("")
        elif (self._completed_request_in_chunk and not self._in_request) or self.transport.get_protocol() is not self:
            self._cancel_request_timer()
        else:
            self._start_request_timer()

    def send_400_response(self, msg: str) -> None:
        """Rejects invalid HTTP with 400 and too large headers with 431."""
        if self._is_head_too_long:
            self.transport.write(_HEADERS_TOO_LARGE_RESPONSE)
            self.transport.close()
        else:
            super().send_400_response(self._head_error or msg)

    def _check_head(self) -> None:
        """Raises ValueError, which stops the parser, if the headers must be rejected; `send_400_response` gives the reason."""
        size, hosts, has_body = len(self.url), 0, False
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0"):
                has_body = True
        self._is_head_too_long = size > MAX_HEADER_BYTES
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._head_error = _BAD_HOST  # RFC 9112, 3.2
        elif has_body and self.parser.should_upgrade() and self._should_upgrade():
            self._head_error = _BAD_UPGRADE
        if self._is_head_too_long or self._head_error:
            raise ValueError

    def _start_request_timer(self) -> None:
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(RECEIVE_TIMEOUT_S, self._on_request_timeout)

    def _cancel_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _on_request_timeout(self) -> None:
        if self._in_request and not (self.cycle is not None and self.cycle.response_started):
            self.transport.write(_TIMEOUT_RESPONSE)
        self.transport.close()
