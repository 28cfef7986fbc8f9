"""Expired minutes are deleted by whole days; their candles remain."""

import pytest

from db.pool import Database
from db.queries import bulk_import, candles, coverage, retention, version, write_lock
from ingest.jobs.retain import retain
from ingest.settings import Settings
from tests.sample_data import minutes, row, store, track

DAY = 86_400
NOW = 1_705_363_200 + 7_260
"""Two hours and a minute into 2024-01-16."""
HORIZON = NOW // DAY * DAY - 8 * DAY


async def _store_history(db: Database, days: int = 10) -> None:
    """Stores a price every quarter of an hour for some days before NOW, and opens gaps between them."""
    begin = NOW // DAY * DAY - days * DAY
    await track(db, "btc_usd", "eth_usd", since=begin)
    for name in ("btc_usd", "eth_usd"):
        await store(db, [row(name, ts, str(ts % 977 + 1)) for ts in range(begin, NOW, 900)])
    await db.execute(
        "INSERT INTO gap (ticker, ts, reason) SELECT 'btc_usd', $1::bigint + 60 * n, 'timeout' FROM generate_series(1,14) n",
        begin,
    )


async def _candles(db: Database) -> list[object]:
    return [tuple(one) for one in await db.fetch("SELECT * FROM candle ORDER BY ticker, span, ts")]


async def test_expired_days_are_deleted_and_their_candles_remain(db: Database) -> None:
    await _store_history(db)
    candles_before, version_before = await _candles(db), await version.current(db)
    deleted_count = await retain(NOW, 8, db)
    assert deleted_count == 2 * 2 * 96 + 14
    for name in ("btc_usd", "eth_usd"):
        assert min(await minutes(db, name)) == HORIZON
        assert await candles.find_differences(db, name, HORIZON) == []
        counts = await coverage.count(db, name, 0, NOW, NOW)
        assert counts.expected == (NOW - HORIZON) // 60
    assert await _candles(db) == candles_before
    assert await db.fetchval("SELECT count(*) FROM gap") == 0
    assert await version.current(db) > version_before
    assert await db.fetchval("SELECT count(*) FROM change WHERE kind = 'horizon' AND from_ts = $1", HORIZON) == 2
    assert await retain(NOW, 8, db) == 0
    assert await retention.horizons(db) == {"btc_usd": HORIZON, "eth_usd": HORIZON}


async def test_expired_rows_are_deleted_in_small_steps(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await _store_history(db)
    monkeypatch.setattr(retention, "BATCH_ROWS", 100)
    steps = [await retain(NOW, 8, db, max_transactions=1) for _ in range(5)]
    assert steps[0] == 114, "some prices, and the gaps"
    assert sum(steps) == 2 * 2 * 96 + 14
    assert await retention.tickers_with_expired_rows(db, NOW) == []


async def test_no_row_from_before_the_horizon_is_imported(db: Database) -> None:
    await _store_history(db)
    await retain(NOW, 8, db)
    async with write_lock.write_transaction(db) as connection:
        rows = [(HORIZON - 60, "1", None, None, None), (HORIZON + 60, "1", None, None, None)]
        assert await bulk_import.merge(connection, "btc_usd", rows) == (1, 1)
    assert min(await minutes(db, "btc_usd")) == HORIZON


async def test_minutes_without_candles_are_not_deleted(db: Database) -> None:
    await _store_history(db)
    await db.execute("UPDATE ticker SET candles_from = $1 WHERE name = 'btc_usd'", HORIZON)
    await retain(NOW, 8, db)
    assert await retention.horizons(db) == {"eth_usd": HORIZON}


async def test_without_retention_days_nothing_is_deleted(db: Database) -> None:
    await _store_history(db)
    assert await retain(NOW, None, db) == 0


def test_retention_days_must_exceed_resume_days() -> None:
    with pytest.raises(ValueError, match="should be more than RESUME_DAYS=30"):
        Settings(retention_days=20, resume_days=30)
