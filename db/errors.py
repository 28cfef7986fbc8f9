"""Exceptions of the database layer.

DatabaseError
├── PoolExhaustedError         no connection of the pool became free in time
├── DatabaseUnavailableError   the server cannot be reached, or does not respond
│   └── NotMigratedError       a table does not exist
├── StatementTimeoutError      the server cancelled a statement after its timeout
└── RowRejectedError           a row violates a constraint of its table
ServerError                    a server cannot be started or used
"""


class DatabaseError(Exception):
    """Raised when PostgreSQL fails to execute a statement. The driver's exception is its `__cause__`."""


class DatabaseUnavailableError(DatabaseError):
    """Raised when no connection can be opened, or when a connection is lost. Callers may retry."""


class PoolExhaustedError(DatabaseError):
    """Raised when no connection of the pool becomes free in time. The server is available; this process is overloaded."""


class NotMigratedError(DatabaseUnavailableError):
    """Raised when a table does not exist. Callers may retry, because a migration may be running."""


class StatementTimeoutError(DatabaseError):
    """Raised when a statement exceeds the statement timeout of the pool."""


class RowRejectedError(DatabaseError):
    """Raised when a row violates a constraint of its table (SQLSTATE class 22 or 23). A retry fails again."""


class ServerError(Exception):
    """Raised when PostgreSQL or Valkey cannot be started or used. The message names the setting to change."""
