"""Alembic, called from Python: the same migrations that `alembic upgrade head` runs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

INI = Path(__file__).parent.parent / "alembic.ini"


def config(dsn: str) -> Config:
    """Alembic's configuration for the database at `dsn`."""
    configuration = Config(INI)
    configuration.attributes["dsn"] = dsn
    return configuration


@cache
def head() -> str:
    """The newest revision that this release knows."""
    found = ScriptDirectory.from_config(Config(INI)).get_current_head()
    assert found is not None  # noqa: S101  there are migrations
    return found


@cache
def _known() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(Config(INI)).walk_revisions())


def serves(revision: str | None) -> bool:
    """Whether a database at the revision is one for this release: at its newest, or at one of a later release.

    Revisions have no order of their own: one that is not known here can only be a later release's, which is being rolled out.
    """
    return revision is not None and (revision == head() or revision not in _known())


def upgrade(dsn: str, revision: str = "head") -> None:
    """Migrates up to `revision`. Any number of processes may do so at once.

    Raises DatabaseUnavailableError where the address is wrong or the server away.
    """
    command.upgrade(config(dsn), revision)


def take_away(dsn: str, guard: Callable[[Connection], None]) -> None:
    """Migrates down until nothing is left but Alembic's own table, unless `guard` raises: in the same transaction, before."""
    configuration = config(dsn)
    configuration.attributes["guard"] = guard
    command.downgrade(configuration, "base")
