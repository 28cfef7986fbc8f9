"""Runs the Alembic migrations from Python, like `alembic upgrade head`."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

INI = Path(__file__).parent.parent / "alembic.ini"


def config(dsn: str) -> Config:
    """Returns the Alembic configuration for the database at `dsn`."""
    configuration = Config(INI)
    configuration.attributes["dsn"] = dsn
    return configuration


def upgrade(dsn: str, revision: str = "head") -> None:
    """Migrates the database up to `revision`. Several processes may call it at the same time.

    Raises ValueError if `dsn` is invalid, DatabaseUnavailableError if the server is unavailable, and SQLAlchemyError or
    CommandError if a migration fails.
    """
    command.upgrade(config(dsn), revision)


def drop_schema(dsn: str, guard: Callable[[Connection], None]) -> None:
    """Drops the schema, except for Alembic's own table. Calls `guard` first in the same transaction; it may raise to abort."""
    configuration = config(dsn)
    configuration.attributes["guard"] = guard
    command.downgrade(configuration, "base")
