"""Converts errors of the database into errors for clients."""

import logging

from db.errors import DatabaseUnavailableError, NotMigratedError, PoolExhaustedError, StatementTimeoutError
from graph import metrics
from graph.errors import ApiError, BusyError, TimedOutError, UnavailableError

log = logging.getLogger(__name__)


def to_client_error(error: BaseException | None) -> ApiError | None:
    """Returns the error to send to a client; None for an internal error, whose details a client must not see.

    Logs the reason if the database cannot be used.
    """
    match error:
        case ApiError():
            return error
        case NotMigratedError():
            log.warning("%s", error)
            return UnavailableError("The database has no tables yet. Run `python -m db migrate`.")
        case PoolExhaustedError():
            metrics.saturated.labels("database_connections").inc()
            log.warning("%s", error)
            return BusyError("The server is busy: all its connections to the database are in use. Retry in a few seconds.")
        case DatabaseUnavailableError():
            log.warning("the database is unavailable: %s", error)
            return UnavailableError("The database is unavailable. Retry in a few seconds.")
        case StatementTimeoutError():
            return TimedOutError("The query exceeded the statement timeout. Request less data.")
        case _:
            return None
