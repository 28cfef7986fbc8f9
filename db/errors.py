"""What can go wrong below the two edges.

DatabaseError
├── DatabaseUnavailableError   the server cannot be reached, or ended the connection
└── StatementTimeoutError      the server gave up on a statement
ServerError                    an embedded server cannot be started, or a named one not be used
"""


class DatabaseError(Exception):
    """Raised where PostgreSQL did not do what it was asked; the cause is kept."""


class DatabaseUnavailableError(DatabaseError):
    """Raised when no connection can be had or the one in use was lost. Worth trying again."""


class StatementTimeoutError(DatabaseError):
    """Raised when a statement ran longer than the pool's statement timeout allows."""


class ServerError(Exception):
    """Raised when PostgreSQL or Valkey cannot be started or used. The message names the setting to change."""
