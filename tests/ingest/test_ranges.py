"""Ranges of minutes in the database: merges, rejections, and the candles that result from prices and ranges."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson
import pytest

from db.pool import Database
from db.queries import candles, ranges, rejects, version, write_lock
from db.queries.candles import Basis, Interval
from db.queries.shapes import Shape
from db.rows import PriceRow, RangeRow
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError
from ingest.jobs import store_ranges as job
from ingest.jobs.reconcile import reconcile
from ingest.jobs.store_ranges import store_ranges
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.simulator.server import Simulator
from ingest.ticks import MinuteTicks, Tick
from tests.sample_data import START_TS, row, store, track

DAY = 86_400
MIDNIGHT = START_TS // DAY * DAY
COLUMNS = ("ts", "open", "high", "low", "close", "twap", "count", "watched", "sampled")
CANDLES = Shape(tuple((name, candles.JSON_COLUMNS[name]) for name in COLUMNS))


def minute_of(ts: int, ticks: Sequence[tuple[int, str]], ticker: str = "btc_usd") -> MinuteTicks:
    """Returns a minute with ticks of (milliseconds, price)."""
    minute = MinuteTicks(ticker, ts)
    for at_ms, price in ticks:
        minute.add(Tick(ticker, ts * 1_000 + at_ms, Decimal(price), 1))
    return minute


def watched_minute(ts: int, low: int, high: int) -> MinuteTicks:
    """Returns a completely watched minute that opens low and closes high."""
    return minute_of(ts, [(second * 1_000, str(low if second < 30 else high)) for second in range(60)])


async def stored_range(db: Database, ts: int = START_TS) -> dict[str, Any]:
    return dict((await ranges.ranges_of(db, [("btc_usd", ts)]))["btc_usd", ts])


async def test_a_merge_replaces_the_range_with_a_new_id_and_the_same_ticks_change_nothing(db: Database) -> None:
    await track(db, "btc_usd")
    first, second = minute_of(START_TS, [(1_000, "100"), (2_000, "90")]), minute_of(START_TS, [(500, "95"), (2_000, "90")])
    assert (await store_ranges(db, [first])).stored == 1
    before = await stored_range(db)
    assert (await store_ranges(db, [first])).stored == 0
    assert await stored_range(db) == before
    assert (await store_ranges(db, [second, first])).stored == 1
    after = await stored_range(db)
    assert after["id"] == await version.current(db) > before["id"]
    expected = first.merge(second).range()
    assert {name: after[name] for name in RangeRow.model_fields} == expected.model_dump()


async def test_ticks_that_arrive_after_the_merge_window_are_set_aside_and_change_nothing(db: Database) -> None:
    await track(db, "btc_usd")
    minute = minute_of(START_TS, [(1_000, "100")])
    await store_ranges(db, [minute])
    await db.execute("UPDATE minute_ticks SET stored_at = stored_at - $1", job.MERGE_WINDOW_S + 1)
    async with write_lock.write_transaction(db) as connection:
        assert await ranges.delete_old_ticks(connection, job.MERGE_WINDOW_S) == 1
    before = await stored_range(db)
    assert (await store_ranges(db, [minute])).rejected == {}, "the same ticks again are no reject"
    inner = minute_of(START_TS, [(1_500, "100")])
    assert (await store_ranges(db, [inner])).rejected == {}, "nothing that the range does not cover"
    late = await store_ranges(db, [minute_of(START_TS, [(2_000, "110")]), minute_of(START_TS + 60, [(1, "7")])])
    assert list(late.rejected) == [("btc_usd", START_TS)]
    assert await stored_range(db) == before
    assert (await stored_range(db, START_TS + 60))["open"] == 7
    (reject,) = await rejects.newest(db, 10)
    assert orjson.loads(reject["entry"]) == [[2_000, "110", 1]]


async def test_ticks_before_the_horizon_and_rows_that_a_constraint_forbids_are_set_aside_alone(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await track(db, "btc_usd")
    await db.execute("UPDATE ticker SET horizon = $1", START_TS)

    def with_wrong_order(minute: MinuteTicks) -> RangeRow:
        found = original(minute)
        return found if found.ts != START_TS + 120 else found.model_copy(update={"high": Decimal(1)})

    original = MinuteTicks.range
    monkeypatch.setattr(MinuteTicks, "range", with_wrong_order)
    minutes = [minute_of(START_TS + offset, [(0, "5"), (1, "6")]) for offset in (-60, 0, 60, 120, 180)]
    result = await store_ranges(db, minutes)
    assert result.stored == 3
    assert {ts - START_TS for _, ts in result.rejected} == {-60, 120}
    assert len(await rejects.newest(db, 10)) == 2


async def test_a_range_of_a_minute_without_a_price_waits_for_the_price(db: Database) -> None:
    await track(db, "btc_usd")
    await store_ranges(db, [watched_minute(START_TS, 90, 110)])
    assert await _read(db, Interval.ONE_HOUR, Basis.RANGE) == []
    await store(db, [row("btc_usd", START_TS, "100", at_s=59.5)])
    (candle,) = await _read(db, Interval.ONE_HOUR, Basis.RANGE)
    assert (candle["open"], candle["high"], candle["low"], candle["close"]) == ("90", "110", "90", "100")
    assert (candle["twap"], candle["watched"], candle["sampled"]) == ("100", 1, 0)
    (sample,) = await _read(db, Interval.ONE_HOUR, Basis.SAMPLE)
    assert (sample["open"], sample["high"], sample["low"], sample["close"], sample["sampled"]) == ("100",) * 4 + (1,)


@pytest.mark.parametrize("seed", range(6))
async def test_candles_agree_with_their_minutes_whatever_the_order_of_prices_ranges_and_merges(db: Database, seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311  no secret
    await track(db, "btc_usd", since=MIDNIGHT)
    minutes = generator.sample(range(MIDNIGHT, MIDNIGHT + 2 * DAY, 60), 60) + list(range(MIDNIGHT, MIDNIGHT + 7_500, 60))[::3]
    stored_prices: dict[int, PriceRow] = {}
    stored_ranges: dict[int, RangeRow] = {}
    ticks: dict[int, MinuteTicks] = {}
    todo = [(kind, ts) for ts in set(minutes) for kind in ("price", "ticks", "more ticks") if generator.random() < 0.7]
    if seed % 2:
        todo.sort(key=lambda step: step[1])  # as live: the price of a minute, then the ticks of the one before
    else:
        generator.shuffle(todo)
    while todo:
        size = generator.choice((1, 1, 1, 5, 20))
        steps, todo = todo[:size], todo[size:]
        rows = [
            row("btc_usd", ts, str(generator.randint(900, 1_100)), at_s=generator.choice((None, 0.2, 30.0, 59.9)))
            for kind, ts in steps
            if kind == "price"
        ]
        if rows:
            await store(db, rows)
        stored_prices |= {one.ts: one for one in rows}
        seen = [
            minute_of(
                ts, [(generator.randrange(60_000), str(generator.randint(900, 1_100))) for _ in range(generator.randint(1, 90))]
            )
            for kind, ts in steps
            if kind != "price"
        ]
        await store_ranges(db, seen)
        for one in seen:
            ticks[one.ts] = ticks[one.ts].merge(one) if one.ts in ticks else one
            stored_ranges[one.ts] = ticks[one.ts].range()
    assert await candles.find_differences(db, "btc_usd", 0) == []
    for interval in (Interval.ONE_MINUTE, Interval.FIFTEEN_MINUTES, Interval.ONE_HOUR, Interval.FOUR_HOURS, Interval.ONE_DAY):
        for basis in Basis:
            known = stored_ranges if basis is Basis.RANGE else {}
            expected = list(_expected_candles(interval.value.seconds, stored_prices, known))
            assert await _read(db, interval, basis) == expected, (interval, basis)


async def _read(db: Database, interval: Interval, basis: Basis) -> list[dict[str, Any]]:
    text = await candles.fetch_json(
        db, interval, CANDLES, "btc_usd", MIDNIGHT, MIDNIGHT + 3 * DAY, 2**40, basis=basis, with_empty=False
    )
    found: list[dict[str, Any]] = orjson.loads(text)
    return found


def _expected_candles(seconds: int, stored_prices: dict[int, PriceRow], known: dict[int, RangeRow]) -> Iterator[dict[str, Any]]:
    for start in range(MIDNIGHT, MIDNIGHT + 3 * DAY, seconds):
        rows = [stored_prices[ts] for ts in sorted(stored_prices) if start <= ts < start + seconds]
        if not rows:
            continue
        found = [(one, known.get(one.ts)) for one in rows]
        highs = [one.price if known is None else max(one.price, known.high) for one, known in found]
        lows = [one.price if known is None else min(one.price, known.low) for one, known in found]
        total = sum((one.price if known is None else known.twap for one, known in found), Decimal(0))
        yield {
            "ts": start,
            "open": _text(_open(*found[0])),
            "high": _text(max(highs)),
            "low": _text(min(lows)),
            "close": _text(_close(*found[-1])),
            "twap": _text((total / len(found)).quantize(Decimal("1e-12"))),
            "count": len(found),
            "watched": sum(known is not None and known.watched_s == 60 for _, known in found),
            "sampled": sum(known is None for _, known in found),
        }


def _open(price: PriceRow, known: RangeRow | None) -> Decimal:
    if known is None or (price.observed_at is not None and price.observed_at < price.ts * 10**6 + known.opened_ms * 1_000):
        return price.price
    return known.open


def _close(price: PriceRow, known: RangeRow | None) -> Decimal:
    if known is None or (price.observed_at is not None and price.observed_at > price.ts * 10**6 + known.closed_ms * 1_000):
        return price.price
    return known.close


def _text(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


async def test_ticks_are_deleted_only_while_the_clocks_agree(
    db: Database, outbox: Outbox, deribit: Deribit, simulator: Simulator
) -> None:
    await track(db, "btc_usd")
    simulator.clock.set(at=START_TS + 1, stands=True)
    await store_ranges(db, [minute_of(START_TS - 120, [(1_000, "100")])])
    await db.execute("UPDATE minute_ticks SET stored_at = stored_at - 86400")

    async def reconcile_at(database_now: float) -> int:
        async def database_clock(_db: object) -> float:
            return database_now

        with contextlib.suppress(JobsFailedError):
            await reconcile(
                START_TS, watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, outbox=outbox, database_clock=database_clock
            )
        found: int = await db.fetchval("SELECT count(*) FROM minute_ticks")
        return found

    assert await reconcile_at(START_TS + 8 * 86_400.0) == 1
    assert await reconcile_at(float(START_TS)) == 0
