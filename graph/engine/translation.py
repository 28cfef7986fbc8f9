"""The database's errors as what a client is told."""

import logging

from db.errors import DatabaseUnavailableError, NotMigratedError, PoolExhaustedError, StatementTimeoutError
from graph import metrics
from graph.errors import ApiError, BusyError, TimedOutError, UnavailableError

log = logging.getLogger(__name__)


def told(error: BaseException | None) -> ApiError | None:
    """What to tell a client of an error; None where it is a mistake of ours, of which a client is told nothing."""
    match error:
        case ApiError():
            return error
        case NotMigratedError():
            log.warning("%s", error)
            return UnavailableError("The database has no tables yet: its operator should run `python -m db migrate`.")
        case PoolExhaustedError():
            metrics.saturated.labels("database_connections").inc()
            log.warning("%s", error)
            return BusyError("The server is busy: all its connections to the database are in use. Retry in a few seconds.")
        case DatabaseUnavailableError():
            log.warning("the database is away: %s", error)
            return UnavailableError("The database is away; try again in a moment.")
        case StatementTimeoutError():
            return TimedOutError("The query took too long; ask for less.")
        case _:
            return None
