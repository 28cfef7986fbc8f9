"""A TCP proxy between a client and a server of a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class TcpProxy:
    """A TCP proxy on loopback. Its target can change, like the address of a cluster at a failover."""

    target: int
    port: int = 0
    cut_after_bytes: int | None = None
    """If set, the next bytes from the target are cut after this many of them, and the connection with them."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Forwards connections while the block runs."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self._close_connections()

    def switch_to(self, target: int) -> None:
        """Forwards new connections to another server, and closes the existing ones."""
        self.target = target
        self._close_connections()

    def cut_in_mid_frame(self) -> None:
        """Closes the connection that next receives bytes from the target, in the middle of them."""
        self.cut_after_bytes = 40

    def _close_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    cut, self.cut_after_bytes = (self.cut_after_bytes, None) if sink is writer else (None, self.cut_after_bytes)
                    sink.write(data[:cut])
                    await sink.drain()
                    if cut is not None:
                        break
            sink.transport.abort()

        with contextlib.suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, upstream_writer}
            async with asyncio.TaskGroup() as both:
                both.create_task(pipe(reader, upstream_writer))
                both.create_task(pipe(upstream_reader, writer))
            self._writers -= {writer, upstream_writer}
        writer.transport.abort()
