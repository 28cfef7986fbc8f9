"""The connection pool for PostgreSQL. Its methods raise the exceptions of `db.errors`."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Literal, Protocol

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from db import connection_url
from db.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    NotMigratedError,
    PoolExhaustedError,
    RowRejectedError,
    StatementTimeoutError,
)

log = logging.getLogger(__name__)

Record = asyncpg.Record

ACQUIRE_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_GRACE_S = 0.5
"""Seconds added to the server's statement timeout before the client gives up on an unresponsive server."""

WRITER_TIMEOUT_S: Final = 60.0
"""Statement timeout of a writer, in seconds. It also limits the statement that waits for the writer lock."""

SESSION_SETTINGS: Final = {
    "jit": "off",  # compiling takes longer than the queries of this product
    # One plan for any values, made once. A plan for the values takes longer to make than to run, and expects a single price of
    # a ticker that was added after the last ANALYZE: its candles took seconds.
    "plan_cache_mode": "force_generic_plan",
    "work_mem": "16MB",  # enough for grouping minutes in memory, without a sort on disk
    # If a writer is paused or its host fails, the server ends its session, which releases the writer lock.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_user_timeout": "15s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_UNAVAILABLE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InternalClientError,  # the server closed the connection while it was idle
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.PostgresSystemError,  # I/O error of the server
    asyncpg.TransactionRollbackError,  # deadlock, or promotion of a standby
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
_ROW_ERROR_CLASSES = ("22", "23")
_DISCARD_SQLSTATES = ("08", "25006", "53", "57P")
"""SQLSTATEs, or their prefixes, after which a connection is closed instead of reused.

Such a session may keep a wrong state, for example a read-only default from before a promotion."""


class Executor(Protocol):
    """Executes statements: the pool, or a connection inside a transaction."""

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]: ...
    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None: ...
    async def fetchval(self, statement: str, /, *args: Any) -> Any: ...
    async def execute(self, statement: str, /, *args: Any) -> str: ...


class Transaction(Executor, Protocol):
    """A connection inside a transaction, which also supports COPY."""

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
        return ""  # sessions are never modified, and the default reset costs a third of a small query


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translates exceptions of asyncpg into those of `db.errors`."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise StatementTimeoutError(str(error)) from error
    except asyncpg.UndefinedTableError as error:
        raise NotMigratedError(f"{error}: run `python -m db migrate`") from error
    except asyncpg.InterfaceError as error:
        # asyncpg raises the same class for a closed connection and for incorrect use of its API.
        if any(word in str(error) for word in ("closed", "closing", "released back", "terminated")):
            raise DatabaseUnavailableError(f"{type(error).__name__}: {error}") from error
        raise DatabaseError(f"{type(error).__name__}: {error}") from error
    except _UNAVAILABLE_ERRORS as error:
        reason = str(error) or ("no response in time" if isinstance(error, TimeoutError) else "no further details")
        raise DatabaseUnavailableError(f"{type(error).__name__}: {reason}") from error
    except asyncpg.PostgresError as error:
        # The SQLSTATE distinguishes invalid data from server errors; the exception classes do not.
        if (error.sqlstate or "")[:2] in _ROW_ERROR_CLASSES:
            raise RowRejectedError(str(error)) from error
        raise DatabaseError(f"{type(error).__name__}: {error}") from error


class _Lease:
    """Holds a connection of the pool until the block ends. Raises PoolExhaustedError if none becomes free in time."""

    __slots__ = ("_connection", "_free", "_pool")

    def __init__(self, pool: asyncpg.Pool, free: asyncio.Semaphore) -> None:
        self._pool = pool
        self._free = free

    async def __aenter__(self) -> PoolConnectionProxy:
        with translate_errors():
            return await self._acquire()

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        with translate_errors():
            await self._release(error)

    async def _acquire(self) -> PoolConnectionProxy:
        if self._free.locked():
            try:
                async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                    await self._free.acquire()
            except TimeoutError:
                raise PoolExhaustedError(f"no connection of the pool became free within {ACQUIRE_TIMEOUT_S:g} s") from None
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
            if _must_discard_connection(error):
                self._terminate()
            await self._pool.release(self._connection, timeout=ACQUIRE_TIMEOUT_S)
        except BaseException:
            self._terminate()  # otherwise the pool and the next acquisition would wait for this connection
            raise
        finally:
            self._free.release()

    def _terminate(self) -> None:
        with suppress(asyncpg.InterfaceError):  # it was already returned to the pool
            self._connection.terminate()


def _must_discard_connection(error: BaseException | None) -> bool:
    cause = error.__cause__ if isinstance(error, DatabaseError) else error
    return isinstance(cause, asyncpg.PostgresError) and (cause.sqlstate or "").startswith(_DISCARD_SQLSTATES)


class _OpenTransaction:
    """The connection of a transaction. Statements raise DatabaseError; other exceptions of the block are not translated."""

    def __init__(self, connection: PoolConnectionProxy) -> None:
        self._connection = connection

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]:
        with translate_errors():
            rows: list[Record] = await self._connection.fetch(statement, *args)
            return rows

    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None:
        with translate_errors():
            return await self._connection.fetchrow(statement, *args)

    async def fetchval(self, statement: str, /, *args: Any) -> Any:
        with translate_errors():
            return await self._connection.fetchval(statement, *args)

    async def execute(self, statement: str, /, *args: Any) -> str:
        with translate_errors():
            status: str = await self._connection.execute(statement, *args)
            return status

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        with translate_errors():
            status: str = await self._connection.copy_to_table(table_name, **options)
            return status


class Database:
    """A connection pool. Each call acquires a connection, executes one statement and releases the connection.

    Statements are prepared on first use. Every method raises DatabaseError, or a subclass of it if the server is
    unavailable, exceeds a timeout, or rejects a row.
    """

    def __init__(self, pool: asyncpg.Pool, max_connections: int) -> None:
        self._pool = pool
        # The timeout of asyncpg's pool creates a task for each acquisition. This semaphore avoids that cost: a caller that
        # has acquired it always finds a free connection.
        self._free = asyncio.Semaphore(max_connections)

    @property
    def in_use(self) -> int:
        """Number of connections in use."""
        return self._pool.get_size() - self._pool.get_idle_size()

    def terminate(self) -> None:
        """Closes all connections immediately. Current and later callers get DatabaseUnavailableError."""
        self._pool.terminate()

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]:
        with translate_errors():
            async with _Lease(self._pool, self._free) as connection:
                rows: list[Record] = await connection.fetch(statement, *args)
                return rows

    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None:
        with translate_errors():
            async with _Lease(self._pool, self._free) as connection:
                return await connection.fetchrow(statement, *args)

    async def fetchval(self, statement: str, /, *args: Any) -> Any:
        with translate_errors():
            async with _Lease(self._pool, self._free) as connection:
                return await connection.fetchval(statement, *args)

    async def execute(self, statement: str, /, *args: Any) -> str:
        with translate_errors():
            async with _Lease(self._pool, self._free) as connection:
                status: str = await connection.execute(statement, *args)
                return status

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Runs the block in a READ COMMITTED transaction. Commits at the end of the block; rolls back if it raises."""
        async with _Lease(self._pool, self._free) as connection:
            transaction = connection.transaction()
            with translate_errors():
                await transaction.start()
            try:
                yield _OpenTransaction(connection)
            except BaseException:
                # If the connection is lost, the server rolls back.
                with suppress(DatabaseError), translate_errors():
                    await transaction.rollback()
                raise
            with translate_errors():
                await transaction.commit()


@asynccontextmanager
async def open_database(
    dsn: str,
    *,
    application_name: str,
    statement_timeout_s: float | None = None,
    max_connections: int = 10,
    check_connection: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> AsyncIterator[Database]:
    """Opens a Database that connects on first use, so that a process can start without its database.

    The pool calls `check_connection` with each new connection; it raises if the connection must not be used.
    """
    settings = {"application_name": application_name, **SESSION_SETTINGS}
    if statement_timeout_s is not None:
        settings["statement_timeout"] = str(int(statement_timeout_s * 1000))
    pool = asyncpg.create_pool(
        min_size=0,
        max_size=max_connections,
        connect=_Connector(dsn, settings),
        command_timeout=None if statement_timeout_s is None else statement_timeout_s + COMMAND_TIMEOUT_GRACE_S,
        connection_class=_Connection,
        init=check_connection,
    )
    async with pool:
        yield Database(pool, max_connections)


async def connect(dsn: str) -> asyncpg.Connection:
    """Opens a single connection with default session settings and without prepared statements.

    Raises ValueError if `dsn` is invalid, and DatabaseUnavailableError.
    """
    with translate_errors():
        return await _Connector(dsn, {})()


def _close_unused(connecting: asyncio.Future[asyncpg.Connection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


class _Connector:
    """Opens connections to one URL. Raises DatabaseUnavailableError for errors that `translate_errors` would misclassify.

    The constructor raises ValueError if the URL is invalid.
    """

    def __init__(self, dsn: str, settings: Mapping[str, str]) -> None:
        self._address = connection_url.parse(dsn)
        self._settings = dict(settings)
        self._options: dict[str, Any] = {} if settings else {"statement_cache_size": 0}  # not worth preparing a few statements
        if self._address.is_pooled:
            self._disable_session_state("pgbouncer=true")

    async def __call__(self, *_args: Any, **options: Any) -> asyncpg.Connection:
        try:
            try:
                return await self._connect(options)
            except asyncpg.ProtocolViolationError as error:
                if "startup parameter" not in str(error):
                    raise
                self._disable_session_state(str(error))
                return await self._connect(options)
        except FileNotFoundError as error:
            problems = self._address.problems()
            raise DatabaseUnavailableError("; ".join(problems) or str(error)) from error
        except (asyncpg.InterfaceError, ValueError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError) as error:
            raise DatabaseUnavailableError(f"{type(error).__name__}: {error}") from error

    async def _connect(self, options: Mapping[str, Any]) -> asyncpg.Connection:
        names = ("command_timeout", "connection_class", "loop", "record_class")
        connect_options = {name: value for name, value in options.items() if name in names}
        connecting = asyncio.ensure_future(
            asyncpg.connect(
                self._address.asyncpg_dsn,
                timeout=self._address.connect_timeout_s,
                server_settings=self._settings,
                **connect_options,
                **self._options,
            )
        )
        # asyncpg leaves an exception behind, which asyncio logs, if it is cancelled while it connects.
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_unused)
            raise

    def _disable_session_state(self, reason: str) -> None:
        """Disables session settings and prepared statements, because a pooler may run each statement in another session."""
        unset_settings = [name for name in self._settings if name != "application_name"]
        if unset_settings:
            log.warning(
                "the connection URL points to a pooler (%s), so sessions use default settings. Set them for the role: %s",
                *(reason, "; ".join(f"ALTER ROLE … SET {name} = '{self._settings[name]}'" for name in unset_settings)),
            )
        self._settings = {name: value for name, value in self._settings.items() if name == "application_name"}
        self._options["statement_cache_size"] = 0
