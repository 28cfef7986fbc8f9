"""Connections to PostgreSQL: one pool a process, whose errors are the package's own."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Literal, Protocol

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from db import address
from db.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    NotMigratedError,
    PoolExhaustedError,
    RowRefusedError,
    StatementTimeoutError,
)

log = logging.getLogger(__name__)

Record = asyncpg.Record

ACQUIRE_TIMEOUT_S = 2.0
GRACE_S = 0.5
"""How much longer than the server's own statement timeout we wait for a server that says nothing any more."""

WRITER_TIMEOUT_S: Final = 60.0
"""For one statement of a writer, the wait for the writers' lock included."""

SESSION: Final = {
    "jit": "off",  # compiling takes longer than our queries
    "work_mem": "16MB",  # so that minutes are grouped without being sorted
    # A process that is paused, or whose host is lost, gives the writers' lock back: the server ends its session.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_user_timeout": "15s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InternalClientError,  # a connection whose server said goodbye while it lay idle
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.PostgresSystemError,  # its disk failed
    asyncpg.TransactionRollbackError,  # a deadlock, a standby that was promoted
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
_ROW_REFUSED = ("22", "23")
_LOST = ("08", "25006", "53", "57P")
"""SQLSTATEs, or how they begin, after which a connection is not used again: it may keep what was wrong when it began, like a
default of read-only transactions."""


class Executor(Protocol):
    """What a named statement runs on: the pool, or a connection inside a transaction."""

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]: ...
    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None: ...
    async def fetchval(self, statement: str, /, *args: Any) -> Any: ...
    async def execute(self, statement: str, /, *args: Any) -> str: ...


class Transaction(Executor, Protocol):
    """A connection inside a transaction, which can also take rows in bulk."""

    async def copy_to_table(
        self,
        table_name: str,
        *,
        source: AsyncIterable[bytes],
        columns: Iterable[str] | None = None,
        format: Literal["csv"] | None = None,  # noqa: A002  asyncpg's name
    ) -> str: ...


class _Connection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        return ""  # nothing is ever set on a session, and the usual reset costs a third of a small query


@contextmanager
def own_errors() -> Iterator[None]:
    """Makes the server's errors the package's own."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise StatementTimeoutError(str(error)) from error
    except asyncpg.UndefinedTableError as error:
        raise NotMigratedError(f"{error}: run `python -m db migrate`") from error
    except asyncpg.InterfaceError as error:
        # asyncpg has one class for a connection that is gone and for a mistake in how it is called.
        if any(word in str(error) for word in ("closed", "closing", "released back", "terminated")):
            raise DatabaseUnavailableError(f"{type(error).__name__}: {error}") from error
        raise DatabaseError(f"{type(error).__name__}: {error}") from error
    except _UNAVAILABLE as error:
        said = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else "it says no more")
        raise DatabaseUnavailableError(f"{type(error).__name__}: {said}") from error
    except asyncpg.PostgresError as error:
        # By its SQLSTATE: exception classes do not tell data apart from servers.
        if (error.sqlstate or "")[:2] in _ROW_REFUSED:
            raise RowRefusedError(str(error)) from error
        raise DatabaseError(f"{type(error).__name__}: {error}") from error


class _Lease:
    """A connection of the pool for the length of a block. Raises PoolExhaustedError where none is free for too long."""

    __slots__ = ("_connection", "_free", "_pool")

    def __init__(self, pool: asyncpg.Pool, free: asyncio.Semaphore) -> None:
        self._pool = pool
        self._free = free

    async def __aenter__(self) -> PoolConnectionProxy:
        with own_errors():
            return await self._acquire()

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        with own_errors():
            await self._release(error)

    async def _acquire(self) -> PoolConnectionProxy:
        if self._free.locked():
            try:
                async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                    await self._free.acquire()
            except TimeoutError:
                raise PoolExhaustedError(f"no connection of the pool is free within {ACQUIRE_TIMEOUT_S:g} s") from None
        else:
            await self._free.acquire()
        try:
            self._connection = await self._pool.acquire()
        except BaseException:
            self._free.release()
            raise
        return self._connection

    async def _release(self, error: BaseException | None) -> None:
        try:
            if _loses_connection(error):
                self._terminate()
            await self._pool.release(self._connection, timeout=ACQUIRE_TIMEOUT_S)
        except BaseException:
            self._terminate()  # else the pool waits for it, and whoever acquires next waits for the pool
            raise
        finally:
            self._free.release()

    def _terminate(self) -> None:
        with suppress(asyncpg.InterfaceError):  # the pool had it back already
            self._connection.terminate()


def _loses_connection(error: BaseException | None) -> bool:
    cause = error.__cause__ if isinstance(error, DatabaseError) else error
    return isinstance(cause, asyncpg.PostgresError) and (cause.sqlstate or "").startswith(_LOST)


class _OpenTransaction:
    """The connection of a transaction. Statements raise DatabaseError; what else the block raises stays as it is."""

    def __init__(self, connection: PoolConnectionProxy) -> None:
        self._connection = connection

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]:
        with own_errors():
            rows: list[Record] = await self._connection.fetch(statement, *args)
            return rows

    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None:
        with own_errors():
            return await self._connection.fetchrow(statement, *args)

    async def fetchval(self, statement: str, /, *args: Any) -> Any:
        with own_errors():
            return await self._connection.fetchval(statement, *args)

    async def execute(self, statement: str, /, *args: Any) -> str:
        with own_errors():
            status: str = await self._connection.execute(statement, *args)
            return status

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        with own_errors():
            status: str = await self._connection.copy_to_table(table_name, **options)
            return status


class Database:
    """A pool of connections; each call takes one, runs one statement (prepared on first use) and gives it back.

    Every method raises DatabaseError: one of its kinds where the server is away, slow, or refuses a row.
    """

    def __init__(self, pool: asyncpg.Pool, connections: int) -> None:
        self._pool = pool
        # The pool's own timeout makes a task of each acquisition. Whoever has one of these finds a connection free.
        self._free = asyncio.Semaphore(connections)

    @property
    def in_use(self) -> int:
        """Connections that somebody has now."""
        return self._pool.get_size() - self._pool.get_idle_size()

    def terminate(self) -> None:
        """Ends every connection at once: whoever waits for one gets DatabaseUnavailableError, now and later."""
        self._pool.terminate()

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]:
        with own_errors():
            async with _Lease(self._pool, self._free) as connection:
                rows: list[Record] = await connection.fetch(statement, *args)
                return rows

    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None:
        with own_errors():
            async with _Lease(self._pool, self._free) as connection:
                return await connection.fetchrow(statement, *args)

    async def fetchval(self, statement: str, /, *args: Any) -> Any:
        with own_errors():
            async with _Lease(self._pool, self._free) as connection:
                return await connection.fetchval(statement, *args)

    async def execute(self, statement: str, /, *args: Any) -> str:
        with own_errors():
            async with _Lease(self._pool, self._free) as connection:
                status: str = await connection.execute(statement, *args)
                return status

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction (READ COMMITTED): committed at the end of the block, rolled back when it raises."""
        async with _Lease(self._pool, self._free) as connection:
            transaction = connection.transaction()
            with own_errors():
                await transaction.start()
            try:
                yield _OpenTransaction(connection)
            except BaseException:
                # The server rolls back by itself where the connection is lost.
                with suppress(DatabaseError), own_errors():
                    await transaction.rollback()
                raise
            with own_errors():
                await transaction.commit()


@asynccontextmanager
async def open_database(
    dsn: str,
    *,
    application_name: str,
    statement_timeout_s: float | None = None,
    connections: int = 10,
    accept: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> AsyncIterator[Database]:
    """A Database that connects when it is first used, so that a process starts without its database.

    `accept` looks at each new connection, and raises where it is not to be used.
    """
    settings = {"application_name": application_name, **SESSION}
    if statement_timeout_s is not None:
        settings["statement_timeout"] = str(int(statement_timeout_s * 1000))
    pool = asyncpg.create_pool(
        min_size=0,
        max_size=connections,
        connect=_Connecting(dsn, settings),
        command_timeout=None if statement_timeout_s is None else statement_timeout_s + GRACE_S,
        connection_class=_Connection,
        init=accept,
    )
    async with pool:
        yield Database(pool, connections)


async def connect(dsn: str) -> asyncpg.Connection:
    """A single connection, for migrations and for looking whether the address is right."""
    with own_errors():
        return await _Connecting(dsn, {})()


class _Connecting:
    """Connects to one address. Raises DatabaseUnavailableError where no session can be had, whatever the reason."""

    def __init__(self, dsn: str, settings: Mapping[str, str]) -> None:
        self._address = address.parse(dsn)
        self._settings = dict(settings)
        self._options: dict[str, Any] = {} if settings else {"statement_cache_size": 0}  # one that asks little
        if self._address.is_pooled:
            self._use_a_pooler("pgbouncer=true")

    async def __call__(self, *_args: Any, **options: Any) -> asyncpg.Connection:
        try:
            try:
                return await self._connect(options)
            except asyncpg.ProtocolViolationError as error:
                if "startup parameter" not in str(error):
                    raise
                self._use_a_pooler(str(error))
                return await self._connect(options)
        except FileNotFoundError as error:
            problems = self._address.problems()
            raise DatabaseUnavailableError("; ".join(problems) or str(error)) from error
        except (asyncpg.InterfaceError, ValueError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError) as error:
            raise DatabaseUnavailableError(f"{type(error).__name__}: {error}") from error

    async def _connect(self, options: Mapping[str, Any]) -> asyncpg.Connection:
        names = ("command_timeout", "connection_class", "loop", "record_class")
        known = {name: value for name, value in options.items() if name in names}
        return await asyncpg.connect(
            self._address.asyncpg,
            timeout=self._address.connect_timeout_s,
            server_settings=self._settings,
            **known,
            **self._options,
        )

    def _use_a_pooler(self, why: str) -> None:
        """A pooler takes no settings of a session, and may give each statement another session."""
        lost = [name for name in self._settings if name != "application_name"]
        if lost:
            log.warning(
                "DATABASE_URL leads to a pooler (%s), so sessions keep PostgreSQL's own settings: set them for the role, %s",
                *(why, "; ".join(f"ALTER ROLE … SET {name} = '{self._settings[name]}'" for name in lost)),
            )
        self._settings = {name: value for name, value in self._settings.items() if name == "application_name"}
        self._options["statement_cache_size"] = 0
