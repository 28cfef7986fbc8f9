"""Which tickers can be asked about, and the error that helps where one cannot."""

from collections.abc import Iterable

from db.pool import Executor
from db.queries import tickers
from graph.errors import UnknownTickerError


async def require_known(db: Executor, names: Iterable[str]) -> None:
    """Raises UnknownTickerError for the first of the names that is not known. Asked only where nothing was found."""
    asked = sorted(set(names))
    if asked:
        unknown = set(asked) - await tickers.known(db, asked)
        if unknown:
            raise UnknownTickerError(min(unknown), await tickers.tracked(db))


async def require_tracked(db: Executor, names: Iterable[str]) -> None:
    """Raises UnknownTickerError for the first of the names that is not tracked now."""
    asked = set(names)
    if asked:
        tracked = await tickers.tracked(db)
        if asked - set(tracked):
            raise UnknownTickerError(min(asked - set(tracked)), tracked)
