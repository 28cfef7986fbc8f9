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
SELECT ({CURRENT}) AS version, ({REVISION}) AS revision, id, ({_PRICE_OF_ID} newest.id) AS price,
       pg_current_wal_flush_lsn()::text AS position
  FROM (SELECT max(id) AS id FROM price) AS newest
"""  # noqa: S608  constants of ours

HELD: Final = f"""
SELECT pg_is_in_recovery() AS follows,
       coalesce(pg_last_wal_replay_lsn() >= $5::text::pg_lsn, false)
       AND ({CURRENT}) >= $1 AND ({REVISION}) >= $2
       AND ($3::bigint IS NULL OR coalesce(({_PRICE_OF_ID} $3) = $4, false)) AS holds
"""


@dataclass(frozen=True)
class Newest:
    """By which another server can tell whether it holds all that this one did."""

    version: int
    revision: str
    id: int | None
    price: str | None
    """The newest price, every column of it: of another history it would be another."""
    position: str
    """In the log (WAL), for commits that draw no id."""


@dataclass(frozen=True)
class Held:
    """What a server says of itself."""

    follows: bool
    """Whether it is a streaming replica."""
    holds: bool


async def newest(db: Executor) -> Newest:
    """What was committed last. On the primary."""
    (row,) = await db.fetch(NEWEST)
    return Newest(**row)


async def held(db: Executor, newest: Newest) -> Held:
    """Whether a server follows another, and holds what that one held."""
    asked = newest.version, newest.revision, newest.id, newest.price, newest.position
    (row,) = await db.fetch(HELD, *asked)
    return Held(**row)


SERVER: Final = "SELECT pg_postmaster_start_time()::text"


async def server(db: Executor) -> str:
    """Tells this server, as long as it runs, from any other."""
    found: str = await db.fetchval(SERVER)
    return found
