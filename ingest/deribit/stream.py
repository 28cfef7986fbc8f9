"""The WebSocket client for Deribit's index channels: connects, reconnects, and passes messages to and from `channel`."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Never

import aiohttp

from db.rows import Reason
from ingest import metrics
from ingest.deribit.channel import MAX_MESSAGE_BYTES, ChannelSubscriptions
from ingest.errors import PermanentError, RetryableError, SourceError
from ingest.ticks import StreamMessage

CONNECT_TIMEOUT_S: Final = 10.0
SEND_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0
SEND_INTERVAL_S: Final = 0.1
"""How often due messages are sent."""
MIN_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
PERMANENT_BACKOFF_S: Final = 300.0
"""Pause after an error that only another configuration ends."""

log = logging.getLogger(__name__)


class DeribitStream:
    """One connection at a time to the exchange's stream, for as long as `run` runs."""

    def __init__(self, session: aiohttp.ClientSession, url: str, receive: Callable[[StreamMessage], None]) -> None:
        """`receive` gets what each message contained, in the order of arrival."""
        self._session = session
        self._url = url
        self._receive = receive
        self._channels: ChannelSubscriptions | None = None
        self._tick_count = 0

    @property
    def subscribed(self) -> frozenset[str]:
        """The tickers whose channels are confirmed now."""
        return frozenset(self._channels.subscribed) if self._channels is not None else frozenset()

    @property
    def refused(self) -> frozenset[str]:
        """The tickers whose channel the exchange left out."""
        return frozenset(self._channels.refused) if self._channels is not None else frozenset()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._channels is not None

    async def run(self, tickers: Callable[[], Sequence[str]]) -> Never:
        """Subscribes the channels of `tickers()`, which may change at any time, and reconnects after every failure."""
        attempt = 0
        while True:
            ticks_before = self._tick_count
            try:
                await self._run_connection(tickers)
            except ExceptionGroup as errors:
                error = errors.exceptions[0]
                if not isinstance(error, SourceError):
                    log.exception("the stream failed with an unexpected error")
            attempt = 0 if self._tick_count > ticks_before else attempt + 1
            backoff_s = self._backoff_s(error, attempt)
            reason = error.reason.value if isinstance(error, SourceError) else "error"
            metrics.stream_reconnects.labels(reason).inc()
            level = logging.ERROR if isinstance(error, PermanentError) else logging.WARNING
            log.log(level, "the stream is disconnected, next attempt in %.1f s: %s", backoff_s, error)
            await asyncio.sleep(backoff_s)

    @staticmethod
    def _backoff_s(error: Exception, attempt: int) -> float:
        if isinstance(error, PermanentError):
            return PERMANENT_BACKOFF_S
        # Jitter, so that many clients do not reconnect at the same moment after an outage.
        exponential_s = MIN_BACKOFF_S * 2.0 ** min(attempt, 10)
        return random.uniform(0.5, 1.0) * min(MAX_BACKOFF_S, exponential_s)  # noqa: S311  no secret

    async def _run_connection(self, tickers: Callable[[], Sequence[str]]) -> None:
        """Runs until the connection ends. Raises an ExceptionGroup of one error."""
        socket = await self._connect()
        self._channels = channels = ChannelSubscriptions(time.monotonic())
        metrics.stream_connected.set(1)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(socket, channels))
                tasks.create_task(self._write(socket, channels, tickers))
        finally:
            self._channels = None
            metrics.stream_connected.set(0)
            metrics.stream_subscribed.set(0)
            # The other side may be silent, so a close handshake may never end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await socket.close()

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._session.ws_connect(self._url, max_msg_size=MAX_MESSAGE_BYTES, compress=0)
        except TimeoutError as error:
            message = f"no connection to DERIBIT_WS_URL={self._url} within {CONNECT_TIMEOUT_S:g} s"
            raise ExceptionGroup("", [RetryableError(message, Reason.TIMEOUT)]) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"no connection to DERIBIT_WS_URL={self._url}: {error or type(error).__name__}"
            raise ExceptionGroup("", [RetryableError(message, Reason.REFUSED)]) from error

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, channels: ChannelSubscriptions) -> Never:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                received = channels.receive(message.data, time.monotonic(), time.time_ns() // 1_000)
                self._tick_count += len(received.ticks)
                self._receive(received)
        raise RetryableError(f"the connection was closed (code {socket.close_code})", Reason.REFUSED)

    async def _write(
        self, socket: aiohttp.ClientWebSocketResponse, channels: ChannelSubscriptions, tickers: Callable[[], Sequence[str]]
    ) -> Never:
        is_complete = False
        while True:
            requested = tickers()
            if requested and not is_complete and set(requested) <= {*channels.subscribed, *channels.refused}:
                is_complete = True
                log.info("the stream is connected: %d tickers are subscribed", len(channels.subscribed))
                if channels.refused:
                    log.warning("the exchange has no channel of %s: they have no ranges", ", ".join(sorted(channels.refused)))
            channels.set_tickers(requested)
            for text in channels.due_messages(time.monotonic(), time.time_ns() // 1_000):
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await socket.send_str(text)
                except (TimeoutError, OSError) as error:
                    raise RetryableError(f"a message could not be sent: {error}", Reason.TIMEOUT) from error
            metrics.stream_subscribed.set(len(channels.subscribed))
            await asyncio.sleep(SEND_INTERVAL_S)
