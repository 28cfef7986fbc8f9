"""What the index did within minutes: prices, candles, coverage, changes and `touched`."""

import random
import time
from decimal import Decimal
from typing import Any

import pytest

from db.pool import Database
from db.queries import touches
from db.rows import PriceRow, RangeRow
from graph.schema.context import Context
from tests.graph.conftest import Api
from tests.graph.subscriptions import subscribe, subscribe_and_wait
from tests.sample_data import START_TS, import_range, range_row, row, store, store_ranges, track

RANGE = "open high low close twap ticks watchedS longestSilenceS source"
LATER = START_TS + 20 * 86_400
"""A time at which every minute of the tests is over."""


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "now", lambda _self: float(LATER))


async def test_a_price_has_the_range_of_its_minute(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n) for n in range(3)])
    await store_ranges(db, [range_row("btc_usd", START_TS, twap="100")])
    await import_range(db, "btc_usd", START_TS + 60)
    found = await api.data(f'{{ range(ticker: "btc_usd", from: {START_TS}) {{ ts range {{ {RANGE} }} }} }}')
    numbers = {"open": "90", "high": "110", "low": "90", "close": "110"}
    live = {"twap": "100", "ticks": 60, "watchedS": 60, "longestSilenceS": 1.0, "source": "LIVE"}
    imported = {"twap": None, "ticks": None, "watchedS": None, "longestSilenceS": None, "source": "IMPORT"}
    assert [one["range"] for one in found["range"]] == [numbers | live, numbers | imported, None]


async def test_candles_use_ranges_unless_samples_are_requested(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n, str(100 + n)) for n in range(3)])
    await store_ranges(db, [range_row("btc_usd", START_TS + 60 * n, twap="100", watched_s=60 - n) for n in range(2)])
    window = f'ticker: "btc_usd", interval: FIVE_MINUTES, from: {START_TS}'
    query = f"candles({window}, basis: %s) {{ open high low close twap watched sampled }}"
    found = await api.data(f"{{ r: {query % 'RANGE'} s: {query % 'SAMPLE'} }}")
    assert found["r"] == [
        {"open": "90", "high": "110", "low": "90", "close": "102", "twap": "100.666666666667", "watched": 1, "sampled": 1}
    ]
    assert found["s"] == [
        {"open": "100", "high": "102", "low": "100", "close": "102", "twap": "101", "watched": 0, "sampled": 3}
    ]


@pytest.mark.parametrize("start", [START_TS, START_TS // 3_600 * 3_600, START_TS + 3_000])
async def test_a_summary_has_the_extremes_of_the_candles(api: Api, db: Database, start: int) -> None:
    await track(db, "btc_usd", since=START_TS)
    await store(db, [row("btc_usd", START_TS + 60 * n, str(1_000 + n)) for n in range(200)])
    # Ticks far outside of the samples, in the part of an hour before, in whole hours, and after.
    await store_ranges(db, [range_row("btc_usd", START_TS + 60 * n, twap="100") for n in (3, 90, 199)])
    window = f'ticker: "btc_usd", from: {start}, to: {START_TS + 60 * 200}'
    found = await api.data(
        f"{{ summary({window}) {{ highest lowest high {{ price }} low {{ price }} }} "
        f"candles({window}, interval: ONE_MINUTE) {{ high low }} }}"
    )
    expected = (
        max(found["candles"], key=lambda one: Decimal(one["high"]))["high"],
        min(found["candles"], key=lambda one: Decimal(one["low"]))["low"],
    )
    assert (found["summary"]["highest"], found["summary"]["lowest"]) == expected
    assert found["summary"]["lowest"] == "90"
    assert found["summary"]["low"]["price"] != "90"


async def test_coverage_counts_the_expected_minutes_that_were_watched(api: Api, db: Database) -> None:
    await track(db, "btc_usd", since=START_TS + 60)
    await store_ranges(db, [range_row("btc_usd", START_TS + 60 * n, watched_s=60 if n < 3 else 59) for n in range(5)])
    found = await api.data(f'{{ coverage(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 600}) {{ watched }} }}')
    assert found["coverage"]["watched"] == 2


async def test_a_complete_past_window_stays_cached_for_a_day_only_without_ranges(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    max_ages = []
    for selection in ("ts", "ts range { high }"):
        query = f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60}) {{ {selection} }} }}'
        async with api.session.get(f"{api.url}/graphql", params={"query": query}) as response:
            max_ages.append(response.headers["Cache-Control"])
    assert max_ages == ["public, max-age=86400", "public, max-age=5"]


async def test_subscribers_get_each_range_and_resume_by_its_id(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    query = f"""subscription ($after: ID) {{ changes(tickers: ["btc_usd"], after: $after, includeRanges: true) {{
        __typename ... on Price {{ id ts range {{ high }} }} ... on MinuteRange {{ id ts {RANGE} }} }} }}"""
    async with subscribe_and_wait(api, query) as subscriber:
        await store(db, [row("btc_usd", START_TS)])
        (price,) = await subscriber.events(1)
        await store_ranges(db, [range_row("btc_usd", START_TS)])
        (found,) = await subscriber.events(1)
        assert (found["__typename"], found["high"], found["watchedS"]) == ("MinuteRange", "110", 60)
        await store(db, [row("btc_usd", START_TS + 60)])
        await store_ranges(db, [range_row("btc_usd", START_TS, high="120")])
        later_price, merged = await subscriber.events(2)
        assert (later_price["ts"], merged["ts"], merged["high"]) == (START_TS + 60, START_TS, "120")
    assert price["range"] is None
    async with subscribe(api, query, after=price["id"]) as resumed:
        kinds = [event["__typename"] for event in await resumed.events(2)]
    assert kinds == ["Price", "MinuteRange"], "a range that was merged meanwhile is delivered once, with its last id"


async def test_an_open_candle_follows_ranges(api: Api, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    minute = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=minute)
    await store(db, [row("btc_usd", minute, "100")])
    query = 'subscription { candleUpdated(ticker: "btc_usd", interval: ONE_DAY) { high watched } }'
    async with subscribe(api, query) as subscriber:
        assert await subscriber.events(1) == [{"high": "100", "watched": 0}]
        await store_ranges(db, [range_row("btc_usd", minute)])
        assert await subscriber.events(1) == [{"high": "110", "watched": 1}]


# touched


def naive_touch(
    level: Decimal, low: int, high: int, prices: dict[int, PriceRow], known: dict[int, RangeRow]
) -> tuple[str, int | None]:
    """Walks the minutes one by one. Returns the state, and the first minute that is known to have reached the level."""
    start: Decimal | None = None
    is_certain, found = True, None
    for ts in range(low, high, 60):
        values = [] if ts not in prices else [(prices[ts].observed_at or ts * 10**6, prices[ts].price)]
        if ts in known:
            one = known[ts]
            values += [(ts * 10**6 + one.opened_ms * 1_000, one.open)]
            extremes = [one.high, one.low, *(price for _, price in values)]
        else:
            extremes = [price for _, price in values]
        if values and start is None:
            start = min(values)[1]
        if start is not None and values:
            reached = max(extremes) >= level if start <= level else min(extremes) <= level
            if reached:
                found = ts
                break
        is_certain = is_certain and ts in known and known[ts].watched_s == 60
    if not is_certain:
        return "NOT_KNOWN", found
    return ("TOUCHED" if found is not None else "NOT_TOUCHED"), found


async def test_touched_agrees_with_a_walk_through_the_minutes(db: Database) -> None:
    generator = random.Random(11)  # noqa: S311  no secret
    await track(db, "btc_usd")
    prices: dict[int, PriceRow] = {}
    known: dict[int, RangeRow] = {}
    value = 1_000
    for number in range(600):
        ts = START_TS + 60 * number
        value += generator.randint(-9, 9)
        if generator.random() < 0.95:
            prices[ts] = row("btc_usd", ts, str(value + generator.randint(-2, 2)), at_s=generator.choice((0.0, 1.0, 59.0)))
        if generator.random() < 0.97:
            lowest, highest = sorted((value, value + generator.randint(-5, 5)))
            known[ts] = range_row(
                "btc_usd", ts, str(lowest), str(highest), watched_s=60 if generator.random() < 0.98 else 44, twap=str(lowest)
            )
    await store(db, prices.values())
    await store_ranges(db, known.values())
    states = set()
    for _ in range(2_000):
        low = START_TS + 60 * generator.randrange(590)
        high = low + 60 * generator.randint(1, 90)
        level = (
            Decimal(generator.randint(value - 120, value + 120))
            if generator.random() < 0.5
            else Decimal(generator.randint(900, 1_100))
        )
        found = await touches.find_touch(db, "btc_usd", level, low, high)
        state = "NOT_KNOWN" if not found.is_certain else "NOT_TOUCHED" if found.ts is None else "TOUCHED"
        assert (state, found.ts) == naive_touch(level, low, high, prices, known), (level, low, high)
        states.add(state)
    assert states == {"TOUCHED", "NOT_TOUCHED", "NOT_KNOWN"}


async def touched(api: Api, price: object, low: int, high: int | None = None) -> dict[str, Any]:
    to = "" if high is None else f", to: {high}"
    query = f'{{ touched(ticker: "btc_usd", price: {price}, from: {low}{to}) {{ state ts start unwatched until }} }}'
    found: dict[str, Any] = (await api.data(query))["touched"]
    return found


async def test_touched_says_what_is_known(api: Api, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await track(db, "btc_usd")
    await store_ranges(db, [range_row("btc_usd", START_TS + 60 * n, str(90 + n), str(95 + n)) for n in range(5)])
    end = START_TS + 300
    certain = {"start": "90", "unwatched": None, "until": end}
    assert await touched(api, 97, START_TS, end) == {"state": "TOUCHED", "ts": START_TS + 120, **certain}
    assert await touched(api, '"99.5"', START_TS, end) == {"state": "NOT_TOUCHED", "ts": None, **certain}
    assert (await touched(api, 99.5, START_TS))["state"] == "NOT_KNOWN", "later minutes were not watched"
    before = await touched(api, 97, START_TS - 60, end)
    assert (before["state"], before["ts"], before["unwatched"]) == ("NOT_KNOWN", START_TS + 120, START_TS - 60)
    monkeypatch.setattr(Context, "now", lambda _self: end + 60.0)
    assert (await touched(api, 99.5, START_TS))["until"] == end, "the newest minute may still lack its range"
    assert (await touched(api, 99.5, START_TS))["state"] == "NOT_TOUCHED"
    assert await touched(api, 7, end + 60) == {
        "state": "NOT_KNOWN", "ts": None, "start": None, "unwatched": end + 60, "until": end + 60,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", ["price: 0", 'price: "-1"', 'price: "1e99"', 'price: "NaN"', "price: true"])
async def test_a_price_that_cannot_be_reached_is_rejected(api: Api, db: Database, arguments: str) -> None:
    await track(db, "btc_usd")
    code, _ = await api.error(f'{{ touched(ticker: "btc_usd", {arguments}, from: {START_TS}) {{ state }} }}')
    assert code in ("BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED")


async def test_touched_rejects_an_unknown_ticker_and_a_window_of_years(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    unknown = await api.error(f'{{ touched(ticker: "nope_usd", price: 1, from: {START_TS}) {{ state }} }}')
    long = await api.error(f'{{ touched(ticker: "btc_usd", price: 1, from: {START_TS - 400 * 86_400}) {{ state }} }}')
    assert (unknown[0], long[0]) == ("UNKNOWN_TICKER", "RANGE_TOO_LARGE")
