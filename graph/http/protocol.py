"""HTTP/1.1 and WebSocket by uvicorn, with bounds of which it has none itself: on heads, idle connections, clients that do not
read; and with a word to those who listen before it ends.
"""

import asyncio
import logging
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from graph import metrics

log = logging.getLogger(__name__)

HEAD_MOST: Final = 64 * 1024
"""Bytes of the request line and the headers."""
CAME_WITHIN_S: Final = 15.0
"""For a request to come, whole, from the first of it on, or from the opening of the connection."""
READ_WITHIN_S: Final = 30.0
"""A client that takes nothing of its answer for so long has gone."""

LEFT_WITHIN_S: Final = 0.5
"""WebSockets that are not closed by then are closed when the process ends."""
LEAVE: Final = "leave"
"""The name in the lifespan's state of what tells those who listen that the process ends."""

_BAD_HOST: Final = "Send one Host header"
_BAD_UPGRADE: Final = "A request that asks for a WebSocket has no body"
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Patient(asyncio.Protocol):
    """Cuts off a client that takes nothing; tells the application when the process is about to end."""

    loop: asyncio.AbstractEventLoop
    app_state: dict[str, Any]
    transport: asyncio.Transport
    client: tuple[str, int] | None
    _stalled: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._goes_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(READ_WITHIN_S, self._look, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._goes_on()
        super().resume_writing()

    def shutdown(self) -> None:
        self.app_state.get(LEAVE, lambda: None)()
        super().shutdown()  # type: ignore[misc]  # uvicorn's, behind this in the order of classes

    def _look(self, waited_for: int) -> None:
        """Whether the client took anything since so much waited for it."""
        waits = self.transport.get_write_buffer_size()
        if waits >= waited_for:  # more than before where a ping or a close was added to it
            log.warning(
                "%s took nothing for %g s while %d bytes waited for it, and is cut off", self.client, READ_WITHIN_S, waits
            )
            metrics.cut.inc()
            self.transport.abort()
        else:
            self._stalled = self.loop.call_later(READ_WITHIN_S, self._look, waits)

    def _goes_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class BoundedWebSocket(_Patient, WebSocketsSansIOProtocol):
    """Before the process ends, those who listen are told what is there; then they are closed by the endpoint.

    A connection whose handshake is not answered in time is closed.
    """

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._overdue = self.loop.call_later(CAME_WITHIN_S, self._refuse_to_wait)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        super().connection_lost(exc)

    def _refuse_to_wait(self) -> None:
        if not self.handshake_complete:
            self.transport.close()

    def handle_ping(self) -> None:
        # Whoever pings and takes no answer gets no more of them, for they would be kept for it.
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def shutdown(self) -> None:
        self.app_state.get(LEAVE, lambda: None)()
        self.loop.call_later(LEFT_WITHIN_S, self._end)

    def _end(self) -> None:
        if not self.transport.is_closing():  # the client may have gone meanwhile
            WebSocketsSansIOProtocol.shutdown(self)


class BoundedHttp(_Patient, HttpToolsProtocol):
    """Closes connections with which strangers would hold memory and sockets.

    A head is too long; a request does not come to its end, or something else comes; an answer is not read. A timer runs only
    while there is something to wait for: most requests come in one piece.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = self._in_request = False
        self._came = False
        self._head_size = 0
        self._too_long = False
        self._refusal = ""
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # later ones are trailers, which nobody reads and which have no end
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_MOST:
            self._too_long = True
            raise ValueError  # the parser stops at it, and the request is refused below
        self._refusal = self._wrong_with_head()
        if self._refusal:
            raise ValueError
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_request = False
        self._came = True
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._came = False
        if self._in_head or not self._in_request:
            self._head_size += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_size > HEAD_MOST:
            self._too_long = True
            self.send_400_response("")
        elif (self._came and not self._in_request) or self.transport.get_protocol() is not self:
            self._request_came()
        else:
            self._await_request()

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP, which is uvicorn's to say, and for heads that are too long."""
        if self._too_long:
            self.transport.write(_TOO_LONG)
            self.transport.close()
        else:
            super().send_400_response(self._refusal or msg)

    def _wrong_with_head(self) -> str:
        """What makes a head one that is refused; '' where nothing does."""
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            return _BAD_HOST  # RFC 9112, 3.2
        has_body = b"transfer-encoding" in names or any(
            name == b"content-length" and value.strip() != b"0" for name, value in self.headers
        )
        if has_body and self.parser.should_upgrade() and self._should_upgrade():
            return _BAD_UPGRADE
        return ""

    def _await_request(self) -> None:
        if self._overdue is None:
            self._overdue = self.loop.call_later(CAME_WITHIN_S, self._refuse_to_wait)

    def _request_came(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _refuse_to_wait(self) -> None:
        if self._in_request and not (self.cycle is not None and self.cycle.response_started):
            self.transport.write(_TOO_SLOW)
        self.transport.close()
