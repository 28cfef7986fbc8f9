"""Minutes that are too old are forgotten by whole days; what was made of them stays."""

import pytest

from db.pool import Database
from db.queries import bulk_import, candles, coverage, retention, version, write_lock
from ingest.jobs.retain import retain
from ingest.settings import Settings
from tests.stored import minutes, row, store, track

DAY = 86_400
NOW = 1_705_363_200 + 7_260
"""Two hours and a minute into 2024-01-16."""
KEPT_FROM = NOW // DAY * DAY - 8 * DAY


async def _filled(db: Database, days: int = 10) -> None:
    """A price every quarter of an hour for some days before NOW; the rest are gaps."""
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


async def test_old_days_go_and_their_candles_stay(db: Database) -> None:
    await _filled(db)
    before, version_before = await _candles(db), await version.current(db)
    forgotten = await retain(NOW, 8, db)
    assert forgotten == 2 * 2 * 96 + 14
    for name in ("btc_usd", "eth_usd"):
        assert min(await minutes(db, name)) == KEPT_FROM
        assert await candles.find_differences(db, name, KEPT_FROM) == []
        counted = await coverage.count(db, name, 0, NOW, NOW)
        assert counted.expected == (NOW - KEPT_FROM) // 60
    assert await _candles(db) == before
    assert await db.fetchval("SELECT count(*) FROM gap") == 0
    assert await version.current(db) > version_before
    assert await db.fetchval("SELECT count(*) FROM change WHERE kind = 'horizon' AND from_ts = $1", KEPT_FROM) == 2
    assert await retain(NOW, 8, db) == 0
    assert await retention.horizons(db) == {"btc_usd": KEPT_FROM, "eth_usd": KEPT_FROM}


async def test_forgetting_takes_small_steps_and_goes_on(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await _filled(db)
    monkeypatch.setattr(retention, "BATCH_ROWS", 100)
    steps = [await retain(NOW, 8, db, max_transactions=1) for _ in range(5)]
    assert steps[0] == 114, "some prices, and the gaps"
    assert sum(steps) == 2 * 2 * 96 + 14
    assert await retention.tickers_with_expired_rows(db, NOW) == []


async def test_nothing_is_brought_back_from_before_the_horizon(db: Database) -> None:
    await _filled(db)
    await retain(NOW, 8, db)
    async with write_lock.write_transaction(db) as connection:
        rows = [(KEPT_FROM - 60, "1", None, None), (KEPT_FROM + 60, "1", None, None)]
        assert await bulk_import.merge(connection, "btc_usd", rows) == (1, 1)
    assert min(await minutes(db, "btc_usd")) == KEPT_FROM


async def test_what_has_no_candles_yet_waits(db: Database) -> None:
    await _filled(db)
    await db.execute("UPDATE ticker SET candles_from = $1 WHERE name = 'btc_usd'", KEPT_FROM)
    await retain(NOW, 8, db)
    assert await retention.horizons(db) == {"eth_usd": KEPT_FROM}


async def test_everything_is_kept_where_nothing_is_said(db: Database) -> None:
    await _filled(db)
    assert await retain(NOW, None, db) == 0


def test_readers_can_resume_what_is_kept() -> None:
    with pytest.raises(ValueError, match="should be more than RESUME_DAYS=30"):
        Settings(retention_days=20, resume_days=30)
