"""Stores the ranges of minutes. The ticks of several processes are merged while the database holds the ticks of the minute."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from db.errors import RowRejectedError
from db.pool import Database, Transaction
from db.queries import ranges, rejects, tickers, write_lock
from db.queries.gaps import TickerMinute
from db.rows import RangeRow
from ingest import metrics
from ingest.ticks import MinuteTicks, merge_all

log = logging.getLogger(__name__)

MERGE_WINDOW_S: Final = 600
"""How long after its minute was stored first, ticks are merged into a range."""


@dataclass
class StoreRangesResult:
    """The result of storing minutes."""

    stored: int = 0
    """Minutes whose range is new or has changed."""
    rejected: dict[TickerMinute, str] = field(default_factory=dict)
    """Minutes that could not be stored, with the reason."""


async def store_ranges(db: Database, minutes: Iterable[MinuteTicks]) -> StoreRangesResult:
    """Merges the ticks into what is stored, and commits the ranges in one transaction.

    If a row violates a constraint, splits the rows until it is alone, and rejects it. Raises DatabaseError if the database is
    unavailable. Storing the same ticks again changes nothing.
    """
    merged = merge_all(minutes)
    if not merged:
        return StoreRangesResult()
    try:
        async with write_lock.write_transaction(db) as connection:
            result = await _store(connection, merged)
    except RowRejectedError as error:
        if len(merged) > 1:
            halves = list(merged.values())[: len(merged) // 2], list(merged.values())[len(merged) // 2 :]
            first, second = [await store_ranges(db, half) for half in halves]
            return StoreRangesResult(first.stored + second.stored, first.rejected | second.rejected)
        result = StoreRangesResult(rejected=dict.fromkeys(merged, str(error)))
    for (ticker, ts), reason in result.rejected.items():
        log.error("the ticks of %s at %d are rejected: %s", ticker, ts, reason)
        await rejects.insert_reject(db, ticker, ts, merged[ticker, ts].to_json(), reason)
    metrics.ranges_stored.inc(result.stored)
    return result


async def _store(connection: Transaction, merged: Mapping[TickerMinute, MinuteTicks]) -> StoreRangesResult:
    result = StoreRangesResult()
    await tickers.add(connection, {ticker for ticker, _ in merged})
    rows: list[RangeRow] = []
    ticks: dict[TickerMinute, str] = {}
    stored = await ranges.stored_ticks(connection, list(merged))
    final_ranges = await ranges.ranges_of(connection, [key for key, found in stored.items() if found.is_final])
    for key, found in stored.items():
        minute = merged[key]
        if not found.is_retained:
            result.rejected[key] = "the minute is before the horizon of the ticker, so its price is deleted"
        elif found.is_final:
            # An outbox entry may be read again after its commit. What the range already covers changes nothing.
            known, seen = final_ranges[key], minute.range()
            if seen.low < known["low"] or seen.high > known["high"] or seen.ticks > (known["ticks"] or 0):
                result.rejected[key] = "its ticks are deleted, so no further ones can be merged"
        elif found.ticks is None or (minute := MinuteTicks.from_json(*key, found.ticks).merge(minute)).to_json() != found.ticks:
            rows.append(minute.range())
            ticks[key] = minute.to_json()
    if rows:
        await ranges.store(connection, rows, ticks)
    result.stored = len(rows)
    return result
