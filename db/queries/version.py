"""The data version: two readers at the same one see the same."""

from dataclasses import dataclass
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


# A row as text: the same id with another price is another history.
_PRICE_OF_ID: Final = "SELECT price::text FROM price WHERE id = "

NEWEST: Final = f"""
SELECT ({CURRENT}) AS version, ({REVISION}) AS revision, id, ({_PRICE_OF_ID} newest.id) AS price
  FROM (SELECT max(id) AS id FROM price) AS newest
"""  # noqa: S608  constants of ours

HOLDS: Final = f"""
SELECT ({CURRENT}) >= $1 AND ({REVISION}) >= $2 AND ($3::bigint IS NULL OR ({_PRICE_OF_ID} $3) = $4)
"""


@dataclass(frozen=True)
class Newest:
    """By which another server can tell whether it holds all that this one did."""

    version: int
    revision: str
    id: int | None
    price: str | None
    """The newest price, every column of it."""


async def newest(db: Executor) -> Newest:
    """What was committed last."""
    (row,) = await db.fetch(NEWEST)
    return Newest(**row)


async def holds(db: Executor, newest: Newest) -> bool:
    """Whether a server that follows another holds what that one held, and is of the same history and schema."""
    found: bool | None = await db.fetchval(HOLDS, newest.version, newest.revision, newest.id, newest.price)
    return bool(found)


SERVER: Final = "SELECT pg_postmaster_start_time()::text"


async def server(db: Executor) -> str:
    """Tells this server, as long as it runs, from any other."""
    found: str = await db.fetchval(SERVER)
    return found
