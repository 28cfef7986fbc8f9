"""The data version: two readers at the same one see the same. And the history that its ids belong to."""

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


HISTORY: Final = f"""
SELECT database_identity() AS identity, ({CURRENT}) AS version, epoch.first_id AS epoch, epoch.forked_at
  FROM epoch ORDER BY first_id DESC LIMIT 1
"""  # noqa: S608  a constant of ours

# The fork that an id was lost at: it was given after the last id that the next epoch kept, and before that epoch began.
FORK: Final = """
SELECT min(forked_at) FROM epoch WHERE forked_at < $1 AND first_id > $1
"""


@dataclass(frozen=True)
class History:
    """What the primary says of the history of its ids."""

    identity: str
    """Of the cluster, its timeline and the table: another one after a restore or a failover."""
    version: int
    """The highest id committed."""
    epoch: int
    """The first id of the present epoch."""
    forked_at: int
    """The last id of before that this history holds."""


async def history(db: Executor) -> History:
    """On the primary."""
    (row,) = await db.fetch(HISTORY)
    return History(**row)


async def fork_of(db: Executor, position: int) -> int | None:
    """Where an id was given in a history that is lost, the last id that both have; None where it belongs to this one."""
    found: int | None = await db.fetchval(FORK, position)
    return found


# The whole row as text: the same id with another column is another history.
_ROW_OF_ID: Final = "SELECT found::text FROM price AS found WHERE found.id = "

NEWEST: Final = f"""
SELECT ({CURRENT}) AS version, id, ({_ROW_OF_ID} newest.id) AS row,
       pg_current_wal_flush_lsn()::text AS position
  FROM (SELECT max(id) AS id FROM price) AS newest
"""  # noqa: S608  constants of ours

HELD: Final = f"""
SELECT pg_is_in_recovery() AS follows,
       coalesce(pg_last_wal_replay_lsn() >= $4::text::pg_lsn, false)
       AND ({CURRENT}) >= $1
       AND ($2::bigint IS NULL OR coalesce(({_ROW_OF_ID} $2) = $3, false)) AS holds
"""


@dataclass(frozen=True)
class Newest:
    """By which another server can tell whether it holds all that this one did."""

    version: int
    id: int | None
    row: str | None
    """The newest price, every column of it: of another history it would be another."""
    position: str
    """In the log (WAL), for commits that draw no id, migrations among them."""


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
    (row,) = await db.fetch(HELD, newest.version, newest.id, newest.row, newest.position)
    return Held(**row)


SERVER: Final = "SELECT pg_postmaster_start_time()::text"


async def server(db: Executor) -> str:
    """Tells this server, as long as it runs, from any other."""
    found: str = await db.fetchval(SERVER)
    return found
