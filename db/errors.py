"""What can go wrong below the two edges.

DatabaseError
├── PoolExhaustedError         this process has no connection left for the statement
├── DatabaseUnavailableError   the server cannot be reached, or does not answer
│   └── NotMigratedError       its tables are not there yet
├── StatementTimeoutError      the server gave up on a statement
└── RowRefusedError            a row breaks a rule of its table
ServerError                    an embedded server cannot be started, or a named one not be used
"""


class DatabaseError(Exception):
    """Raised where PostgreSQL did not do what it was asked; the cause is kept."""


class DatabaseUnavailableError(DatabaseError):
    """Raised when no connection can be had or the one in use was lost. Worth trying again."""


class PoolExhaustedError(DatabaseError):
    """Raised when every connection of the pool is in use for too long. The server is there; the process is overloaded."""


class NotMigratedError(DatabaseUnavailableError):
    """Raised when a table is missing. Worth trying again: somebody may be migrating."""


class StatementTimeoutError(DatabaseError):
    """Raised when a statement ran longer than the pool's statement timeout allows."""


class RowRefusedError(DatabaseError):
    """Raised when a row breaks a rule of its table (SQLSTATE class 22 or 23). Trying again changes nothing."""


class ServerError(Exception):
    """Raised when PostgreSQL or Valkey cannot be started or used. The message names the setting to change."""
