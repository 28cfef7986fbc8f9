"""History from elsewhere into `price`: checked row by row, stored a batch at a time, nothing overwritten."""

from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass

from db import times
from db.pool import Database
from db.queries import importing, tickers, writing
from db.queries.importing import Row
from ingest.imports.reading import Raw
from ingest.imports.rules import checked

AT_ONCE = 10_000
"""Rows in a transaction."""


@dataclass
class Brought:
    """What became of rows."""

    stored: int = 0
    there: int = 0
    """Their minute was stored before, and stays as it is."""
    forgotten: int = 0
    """Their minute lies before the horizon: it is older than what is kept."""
    twice: int = 0
    """Their minute came before among these rows, whose first stays."""
    refused: int = 0
    low: int | None = None
    """The oldest minute of the rows, stored or there."""
    high: int | None = None

    @property
    def read(self) -> int:
        """All of them."""
        return self.stored + self.there + self.forgotten + self.twice + self.refused


async def bring(
    batches: AsyncIterable[Sequence[Raw]],
    ticker: str,
    db: Database | None,
    *,
    now: float,
    refuse: Callable[[Raw, str], None],
    progress: Callable[[Brought], None],
) -> Brought:
    """Stores what can be a price. Each batch is one transaction, so it can be ended anywhere and run again.

    A minute that is not over by `now` (UNIX seconds) is not history. `refuse` is told of each row that cannot be a price, and
    why. Without `db` everything is checked and nothing stored. Raises DatabaseError: what was stored by then stays.
    """
    brought = Brought()
    # A bit for every minute there can be: flat, however long the file is, and in whatever order.
    seen = bytearray(times.END // times.MINUTE // 8 + 1)
    async for batch in batches:
        rows = _chosen(batch, brought, seen, now, refuse)
        if rows:
            minutes = [row[0] for row in rows]
            brought.low = min([*minutes, brought.low or minutes[0]])
            brought.high = max([*minutes, brought.high or minutes[0]])
            await _store(rows, ticker, brought, db)
        progress(brought)
    return brought


def _chosen(
    batch: Sequence[Raw], brought: Brought, seen: bytearray, now: float, refuse: Callable[[Raw, str], None]
) -> list[Row]:
    rows = []
    for raw in batch:
        try:
            row = checked(raw.time, raw.price)
            if row[0] + times.MINUTE > now:
                raise ValueError(f"{raw.time[:40]!r} lies in a minute that is not over yet")  # noqa: TRY301  refused like others
        except ValueError as error:
            brought.refused += 1
            refuse(raw, str(error))
            continue
        place, bit = divmod(row[0] // times.MINUTE, 8)
        if seen[place] >> bit & 1:
            brought.twice += 1
        else:
            seen[place] |= 1 << bit
            rows.append(row)
    return rows


async def _store(rows: Sequence[Row], ticker: str, brought: Brought, db: Database | None) -> None:
    stored, forgotten = len(rows), 0
    if db is not None:
        async with writing.turn(db) as connection:
            await tickers.add(connection, [ticker])
            stored, forgotten = await importing.merge(connection, ticker, rows)
    brought.stored += stored
    brought.forgotten += forgotten
    brought.there += len(rows) - stored - forgotten
