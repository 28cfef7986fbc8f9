"""The data version, which identifies the state that a query sees; the history of ids; and the state of a replica."""

from dataclasses import dataclass
from typing import Final

from db.pool import Executor

# Prices, ranges and changes share one sequence and the writer lock, so the version grows with each commit. Old changes are
# deleted; milestones remain.
CURRENT: Final = """
SELECT greatest((SELECT max(id) FROM price), (SELECT max(id) FROM minute_range), (SELECT max(id) FROM change),
                (SELECT max(id) FROM milestone), 0)
"""


async def current(db: Executor) -> int:
    """Returns the highest committed id; 0 if nothing was ever stored."""
    version: int = await db.fetchval(CURRENT)
    return version


REVISION: Final = "SELECT version_num FROM alembic_version"


async def revision(db: Executor) -> str | None:
    """Returns the Alembic revision of the database, or None if it has none."""
    found: str | None = await db.fetchval(REVISION)
    return found


HISTORY: Final = f"""
SELECT database_identity() AS identity, ({CURRENT}) AS version, epoch.first_id AS epoch, epoch.forked_at
  FROM epoch ORDER BY first_id DESC LIMIT 1
"""  # noqa: S608  inserts a constant

# An id was lost if it is above `forked_at` of an epoch, the last id that the epoch retained, and below its first id.
FORK: Final = """
SELECT min(forked_at) FROM epoch WHERE forked_at < $1 AND first_id > $1
"""


@dataclass(frozen=True)
class History:
    """The history of ids, read from the primary."""

    identity: str
    """Identifies the cluster, its timeline and the table. It changes after a restore or a failover."""
    version: int
    """The highest committed id."""
    epoch: int
    """The first id of the current epoch."""
    forked_at: int
    """The last id before this epoch that the history contains."""


async def history(db: Executor) -> History:
    """Returns the current history. Run it on the primary."""
    (row,) = await db.fetch(HISTORY)
    return History(**row)


async def fork_of(db: Executor, position: int) -> int | None:
    """Returns the last common id if `position` belongs to a lost history, or None if it belongs to the current one."""
    found: int | None = await db.fetchval(FORK, position)
    return found


# The whole row as text, because the same id with a different value belongs to a different history.
_ROW_OF_ID: Final = "SELECT found::text FROM price AS found WHERE found.id = "

LAST_COMMIT: Final = f"""
SELECT ({CURRENT}) AS version, id, ({_ROW_OF_ID} newest.id) AS row,
       pg_current_wal_flush_lsn()::text AS position
  FROM (SELECT max(id) AS id FROM price) AS newest
"""  # noqa: S608  inserts constants

REPLICA_STATE: Final = f"""
SELECT pg_is_in_recovery() AS is_replica,
       coalesce(pg_last_wal_replay_lsn() >= $4::text::pg_lsn, false)
       AND ({CURRENT}) >= $1
       AND ($2::bigint IS NULL OR coalesce(({_ROW_OF_ID} $2) = $3, false)) AS is_caught_up
"""


@dataclass(frozen=True)
class LastCommit:
    """The last commit of the primary. A replica compares it with its own state."""

    version: int
    id: int | None
    row: str | None
    """All columns of the newest price as text; they differ in a different history."""
    position: str
    """WAL position, for commits without an id, for example migrations."""


@dataclass(frozen=True)
class ReplicaState:
    """State of a replica."""

    is_replica: bool
    """Whether the server is a streaming replica."""
    is_caught_up: bool


async def read_last_commit(db: Executor) -> LastCommit:
    """Returns the last commit. Run it on the primary."""
    (row,) = await db.fetch(LAST_COMMIT)
    return LastCommit(**row)


async def replica_state(db: Executor, newest: LastCommit) -> ReplicaState:
    """Returns whether a server is a replica, and whether it contains the given commit of the primary."""
    (row,) = await db.fetch(REPLICA_STATE, newest.version, newest.id, newest.row, newest.position)
    return ReplicaState(**row)


SERVER_START: Final = "SELECT pg_postmaster_start_time()::text"


async def read_server_start(db: Executor) -> str:
    """Returns the start time of the server, which identifies it until its next restart."""
    found: str = await db.fetchval(SERVER_START)
    return found
