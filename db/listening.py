"""Hearing of commits: a connection of its own that PostgreSQL tells of each."""

import asyncio
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import asyncpg

from db.errors import DatabaseUnavailableError
from db.pool import connect, own_errors
from db.queries.writing import CHANNEL

BEAT_S: Final = 1.0
SILENCE_S: Final = 3.0
"""A listener that hears nothing of its own beats for so long is deaf, which would look like a quiet market."""

PID: Final = "SELECT pg_backend_pid()"
BEAT: Final = "SELECT pg_notify($1, '')"


async def listen(dsn: str, *, on_commit: Callable[[], None], on_beat: Callable[[], None], on_loss: Callable[[], None]) -> None:
    """Calls `on_commit` after each commit of a writer and `on_beat` each second, until the connection fails: then `on_loss`.

    The first two are called once at the beginning: nobody knows what was committed before. Raises DatabaseError.
    """
    own = f"tickgraph_{uuid4().hex}"
    connection = await connect(dsn)

    def heard(_connection: Any, _pid: int, channel: str, _payload: object) -> None:
        if channel == CHANNEL:
            on_commit()
        on_beat()

    try:
        with own_errors():
            await _require_own_session(connection, dsn)
            connection.add_termination_listener(lambda _: on_loss())
            for channel in (CHANNEL, own):
                await connection.add_listener(channel, heard)
            on_commit()
            on_beat()
            while True:
                await connection.execute(BEAT, own, timeout=SILENCE_S)
                await asyncio.sleep(BEAT_S)
    finally:
        connection.terminate()


async def _require_own_session(connection: asyncpg.Connection, dsn: str) -> None:
    """A pooler in transaction mode gives its clients the same session in turns, and notifications go to whoever has it."""
    other = await connect(dsn)
    try:
        if await connection.fetchval(PID) == await other.fetchval(PID):
            raise DatabaseUnavailableError(
                "a pooler in transaction mode passes no notifications on: set DATABASE_LISTEN_URL to the database itself"
            )
    finally:
        other.terminate()
