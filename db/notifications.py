"""Notifications of commits, received on a dedicated connection with LISTEN."""

import asyncio
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import asyncpg

from db.errors import DatabaseUnavailableError
from db.pool import connect, translate_errors
from db.queries import ticks
from db.queries.write_lock import CHANNEL

HEARTBEAT_INTERVAL_S: Final = 1.0
HEARTBEAT_TIMEOUT_S: Final = 3.0
"""A listener that receives none of its own heartbeats for this long has a dead connection.

Without heartbeats a dead connection would look like a period without commits."""

PID_COMPARISONS: Final = 5
BACKEND_PID: Final = "SELECT pg_backend_pid()"
SEND_HEARTBEAT: Final = "SELECT pg_backend_pid() FROM pg_notify($1, '')"


async def listen(
    dsn: str,
    *,
    on_commit: Callable[[], None],
    on_ticks: Callable[[str], None],
    on_heartbeat: Callable[[], None],
    on_loss: Callable[[], None],
) -> None:
    """Calls `on_commit` after each commit of a writer, `on_ticks` with each notification of ticks, `on_heartbeat` every second.

    When the connection is lost, it calls `on_loss`. At the start it calls `on_commit` and `on_heartbeat` once, because
    earlier commits sent no notification to this connection. Raises DatabaseError.
    """
    heartbeat_channel = f"tickgraph_{uuid4().hex}"
    connection = await connect(dsn)

    def on_notification(_connection: Any, _pid: int, channel: str, payload: object) -> None:
        if channel == CHANNEL:
            on_commit()
        elif channel == ticks.CHANNEL:
            on_ticks(str(payload))
        on_heartbeat()

    try:
        with translate_errors():
            pid = await _require_dedicated_session(connection, dsn)
            connection.add_termination_listener(lambda _: on_loss())
            for channel in (CHANNEL, ticks.CHANNEL, heartbeat_channel):
                await connection.add_listener(channel, on_notification)
            on_commit()
            on_heartbeat()
            while True:
                if await connection.fetchval(SEND_HEARTBEAT, heartbeat_channel, timeout=HEARTBEAT_TIMEOUT_S) != pid:
                    raise DatabaseUnavailableError(_SHARED_SESSION)
                await asyncio.sleep(HEARTBEAT_INTERVAL_S)
    finally:
        connection.terminate()


_SHARED_SESSION: Final = (
    "a pooler in transaction mode does not deliver notifications. Set DATABASE_LISTEN_URL to a direct connection"
)


async def _require_dedicated_session(connection: asyncpg.Connection, dsn: str) -> int:
    """Returns the pid of the connection's session.

    Raises DatabaseUnavailableError behind a pooler in transaction mode, which does not deliver notifications reliably. Such a
    pooler executes the statements of two idle connections in the same session, and those of one connection, while others are
    busy, in several. So two connections do not have two pids. One comparison may not show it; `listen` also compares later.
    """
    second_connection = await connect(dsn)
    try:
        pids = [
            (await connection.fetchval(BACKEND_PID), await second_connection.fetchval(BACKEND_PID))
            for _ in range(PID_COMPARISONS)
        ]
    finally:
        second_connection.terminate()
    (first, second), *_ = pids
    if first == second or set(pids) != {(first, second)}:
        raise DatabaseUnavailableError(_SHARED_SESSION)
    return int(first)
