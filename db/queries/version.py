"""The data version: two readers at the same one see the same."""

from typing import Final

from db.pool import Executor

# Both draw from one sequence, and writers take turns, so it grows with every commit that a reader can see. Changes are
# forgotten in time, milestones stay.
CURRENT: Final = """
SELECT greatest((SELECT max(id) FROM price), (SELECT max(id) FROM change), (SELECT max(id) FROM milestone), 0)
"""


async def current(db: Executor) -> int:
    """The highest id committed; 0 where nothing was ever stored."""
    version: int = await db.fetchval(CURRENT)
    return version


REVISION: Final = "SELECT version_num FROM alembic_version"


async def revision(db: Executor) -> str | None:
    """The migration that the database stands at; None where there was none yet."""
    found: str | None = await db.fetchval(REVISION)
    return found
