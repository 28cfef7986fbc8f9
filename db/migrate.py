"""Runs the Alembic migrations from Python, like `alembic upgrade head`."""

import threading
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

INI = Path(__file__).parent.parent / "alembic.ini"
_lock = threading.Lock()
"""Alembic's current migration is global to the process."""


def config(dsn: str) -> Config:
    """Returns the Alembic configuration for the database at `dsn`."""
    configuration = Config(INI)
    configuration.attributes["dsn"] = dsn
    return configuration


def upgrade(dsn: str, revision: str = "head") -> None:
    """Migrates the database up to `revision`. Several processes and threads may call it at the same time.

    Raises ValueError if `dsn` is invalid, DatabaseUnavailableError if the server is unavailable, and SQLAlchemyError or
    CommandError if a migration fails.
    """
    with _lock:
        command.upgrade(config(dsn), revision)


def drop_schema(dsn: str, guard: Callable[[Connection], None]) -> None:
    """Drops the schema, except for Alembic's own table. Calls `guard` first in the same transaction; it may raise to abort."""
    configuration = config(dsn)
    configuration.attributes["guard"] = guard
    with _lock:
        command.downgrade(configuration, "base")
