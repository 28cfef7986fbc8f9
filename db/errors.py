"""What can go wrong below the two edges.

DatabaseError
├── DatabaseUnavailableError   the server cannot be reached, or does not answer
│   └── NotMigratedError       its tables are not there yet
├── StatementTimeoutError      the server gave up on a statement
└── MissingReferenceError      a row names another that is not there
ServerError                    an embedded server cannot be started, or a named one not be used
"""


class DatabaseError(Exception):
    """Raised where PostgreSQL did not do what it was asked; the cause is kept."""


class DatabaseUnavailableError(DatabaseError):
    """Raised when no connection can be had or the one in use was lost. Worth trying again."""


class NotMigratedError(DatabaseUnavailableError):
    """Raised when a table is missing. Worth trying again: somebody may be migrating."""


class StatementTimeoutError(DatabaseError):
    """Raised when a statement ran longer than the pool's statement timeout allows."""


class MissingReferenceError(DatabaseError):
    """Raised when a row names another (a price its ticker) that is not there."""


class ServerError(Exception):
    """Raised when PostgreSQL or Valkey cannot be started or used. The message names the setting to change."""
