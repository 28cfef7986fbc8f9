"""Checks that tickers are known or tracked. The error suggests similar names."""

from collections.abc import Iterable

from db.pool import Executor
from db.queries import tickers
from graph.errors import UnknownTickerError


async def require_known_tickers(db: Executor, names: Iterable[str]) -> None:
    """Raises UnknownTickerError for the first unknown name. Most callers check only after a query without rows."""
    unique_names = sorted(set(names))
    if unique_names:
        unknown = set(unique_names) - await tickers.filter_known(db, unique_names)
        if unknown:
            raise UnknownTickerError(min(unknown), await tickers.list_tracked(db))


async def require_tracked_tickers(db: Executor, names: Iterable[str]) -> None:
    """Raises UnknownTickerError for the first name that is not tracked now."""
    unique_names = set(names)
    if unique_names:
        tracked = await tickers.list_tracked(db)
        if unique_names - set(tracked):
            raise UnknownTickerError(min(unique_names - set(tracked)), tracked)
