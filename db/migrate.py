"""Alembic, called from Python: the same migrations that `alembic upgrade head` runs."""

from pathlib import Path

from alembic import command
from alembic.config import Config

INI = Path(__file__).parent.parent / "alembic.ini"


def config(dsn: str) -> Config:
    """Alembic's configuration for the database at `dsn`."""
    configuration = Config(INI)
    configuration.attributes["dsn"] = dsn
    return configuration


def upgrade(dsn: str, revision: str = "head") -> None:
    """Migrates up to `revision`. Any number of processes may do so at once.

    Raises DatabaseUnavailableError where the address is wrong or the server away.
    """
    command.upgrade(config(dsn), revision)
