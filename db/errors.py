"""Exceptions of the database layer.

DatabaseError
├── PoolExhaustedError         no connection of the pool became free in time
├── DatabaseUnavailableError   the server cannot be reached, or does not respond
│   └── NotMigratedError       a table does not exist
├── StatementTimeoutError      the server cancelled a statement after its timeout
└── RowRejectedError           a row violates a constraint of its table
CommandLineError               a verb cannot continue
└── UsageError                 its arguments do not fit together
"""


class DatabaseError(Exception):
    """Raised when PostgreSQL fails to execute a statement. The driver's exception is its `__cause__`."""


class DatabaseUnavailableError(DatabaseError):
    """Raised when the server cannot be reached or cannot execute now: lost connection, full disk, deadlock, read-only standby.

    Callers may retry.
    """


class PoolExhaustedError(DatabaseError):
    """Raised when no connection of the pool becomes free in time. The server is available; this process is overloaded."""


class NotMigratedError(DatabaseUnavailableError):
    """Raised when a table does not exist. Callers may retry, because a migration may be running."""


class StatementTimeoutError(DatabaseError):
    """Raised when a statement exceeds the statement timeout of the pool."""


class RowRejectedError(DatabaseError):
    """Raised when a row violates a constraint of its table (SQLSTATE class 22 or 23). A retry fails again."""


class CommandLineError(Exception):
    """Raised when a command-line verb cannot continue. The message says what is wrong and what to do."""


class UsageError(CommandLineError):
    """Raised when the arguments of a verb do not fit together. The exit status is 2, as for an unknown argument."""
