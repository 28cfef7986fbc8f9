"""Runs the Alembic migrations from Python, like `alembic upgrade head`."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

INI = Path(__file__).parent.parent / "alembic.ini"


def config(dsn: str) -> Config:
    """Returns the Alembic configuration for the database at `dsn`."""
    configuration = Config(INI)
    configuration.attributes["dsn"] = dsn
    return configuration


@cache
def head() -> str:
    """Returns the newest revision of this release."""
    found = ScriptDirectory.from_config(Config(INI)).get_current_head()
    assert found is not None  # noqa: S101  the repository has migrations
    return found


@cache
def _known_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(Config(INI)).walk_revisions())


def is_compatible(revision: str | None) -> bool:
    """Whether this release can use a database at the revision: its newest revision, or an unknown one.

    Revisions have no inherent order. An unknown revision belongs to a later release that is being rolled out.
    """
    return revision is not None and (revision == head() or revision not in _known_revisions())


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
