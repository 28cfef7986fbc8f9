"""HTTP/1.1 by uvicorn, with bounds of which it has none itself: on heads, on idle connections, on clients that do not read."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MOST: Final = 64 * 1024
"""Bytes of the request line and the headers."""
HEAD_WITHIN_S: Final = 10.0
READ_WITHIN_S: Final = 20.0
"""A client that takes nothing of its answer for so long has gone."""

_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """Closes connections with which strangers would hold memory and sockets.

    A head is too long, or does not come; an answer is not read; something else than a request is sent.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_size = 0
        self._too_long = False
        self._overdue: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._goes_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(READ_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._goes_on()
        super().resume_writing()

    def _goes_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # later ones are trailers, which nobody reads and which have no end
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_came()
        self._in_head = False
        self._head_size = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_MOST:
            self._too_long = True
            raise ValueError  # the parser stops at it, and the request is refused below
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._in_head and self._head_size > HEAD_MOST and not self.transport.is_closing():
            self._too_long = True
            self.send_400_response("")
        if self.cycle is not None and self.cycle.response_complete and self.transport.get_protocol() is self:
            self._await_head()  # what came was not the next request; whatever it is, it does not keep the connection open

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP, which is uvicorn's to say, and for heads that are too long."""
        if self._too_long:
            self.transport.write(_TOO_LONG)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _await_head(self) -> None:
        if self._overdue is None:
            self._overdue = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)

    def _head_came(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
