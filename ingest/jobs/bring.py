"""History from elsewhere into `price`: checked row by row, stored a batch at a time, nothing overwritten."""

from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass

from db import times
from db.pool import Database
from db.queries import importing, tickers, writing
from db.queries.importing import Row
from ingest.imports.reading import BrokenError, Raw
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
    unit: str | None = None,
    brought: Brought | None = None,
    horizon: int = times.FIRST,
) -> Brought:
    """Stores what can be a price. Each batch is one transaction, so it can be ended anywhere and run again.

    Of the prices of one minute the first by its instant counts, whichever way the rows run. A minute that is not over by `now`
    (UNIX seconds) is not history. `unit` is that of the times (None: by their size). `refuse` is told of each row that cannot
    be a price, and why; `brought` counts as it goes. Without `db` everything is checked, against the `horizon`, and nothing
    stored. Raises DatabaseError, and whatever the batches raise: what was stored by then stays.
    """
    brought = Brought() if brought is None else brought
    choosing = Choosing(brought, now, refuse, unit)
    try:
        async for batch in batches:
            await _store(choosing.of(batch), ticker, brought, db, horizon)
            progress(brought)
    except BrokenError:  # what came before is history all the same
        await _store(choosing.rest(), ticker, brought, db, horizon)
        raise
    await _store(choosing.rest(), ticker, brought, db, horizon)
    progress(brought)
    return brought


class Choosing:
    """One row a minute. A minute goes on in the next batch, so the last one of each batch waits for it."""

    def __init__(self, brought: Brought, now: float, refuse: Callable[[Raw, str], None], unit: str | None) -> None:
        self._brought = brought
        self._now = now
        self._refuse = refuse
        self._unit = unit
        self._waiting: Row | None = None
        # A bit for every minute there can be: flat, however long the file is, and in whatever order.
        self._seen = bytearray(times.END // times.MINUTE // 8 + 1)

    def of(self, batch: Sequence[Raw]) -> list[Row]:
        """The rows to store of a batch."""
        first: dict[int, Row] = {} if self._waiting is None else {self._waiting[0]: self._waiting}
        last = self._waiting
        for raw in batch:
            try:
                row = last = self._checked(raw)
            except ValueError as error:
                self._brought.refused += 1
                self._refuse(raw, str(error))
                continue
            other = first.get(row[0])
            if other is None and not self._is_seen(row[0]):
                first[row[0]] = row
                continue
            self._brought.twice += 1
            if other is not None and _instant(row) < _instant(other):
                first[row[0]] = row
        self._waiting = None if last is None else first.pop(last[0], None)
        for minute in first:
            self._see(minute)
        return list(first.values())

    def rest(self) -> list[Row]:
        """What waited."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return []
        self._see(waiting[0])
        return [waiting]

    def _checked(self, raw: Raw) -> Row:
        row = checked(raw.time, raw.price, self._unit)
        if row[0] + times.MINUTE > self._now:
            raise ValueError(f"{raw.time[:40]!r} lies in a minute that is not over yet")
        return row

    def _is_seen(self, minute: int) -> bool:
        place, bit = divmod(minute // times.MINUTE, 8)
        return bool(self._seen[place] >> bit & 1)

    def _see(self, minute: int) -> None:
        place, bit = divmod(minute // times.MINUTE, 8)
        self._seen[place] |= 1 << bit


def _instant(row: Row) -> int:
    return row[0] * 10**6 if row[2] is None else row[2]


async def _store(rows: Sequence[Row], ticker: str, brought: Brought, db: Database | None, horizon: int) -> None:
    if not rows:
        return
    minutes = [row[0] for row in rows]
    forgotten = sum(minute < horizon for minute in minutes)
    stored = len(rows) - forgotten
    if db is not None:
        async with writing.turn(db) as connection:
            await tickers.add(connection, [ticker])
            stored, forgotten = await importing.merge(connection, ticker, rows)
    brought.low = min([*minutes, brought.low or minutes[0]])
    brought.high = max([*minutes, brought.high or minutes[0]])
    brought.stored += stored
    brought.forgotten += forgotten
    brought.there += len(rows) - stored - forgotten
