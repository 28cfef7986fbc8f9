"""The database's errors as what a client is told."""

from db.errors import DatabaseUnavailableError, StatementTimeoutError
from graph.errors import ApiError, TimedOutError, UnavailableError


def told(error: BaseException | None) -> ApiError | None:
    """What to tell a client of an error; None where it is a mistake of ours, of which a client is told nothing."""
    match error:
        case ApiError():
            return error
        case DatabaseUnavailableError():
            return UnavailableError("The database is away; try again in a moment.")
        case StatementTimeoutError():
            return TimedOutError("The query took too long; ask for less.")
        case _:
            return None
