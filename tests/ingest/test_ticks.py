"""Ticks of minutes: what is evidence, what a range says, and that no order of arrival or merge changes it."""

import itertools
import random
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.ticks import (
    MAX_TICKS_PER_MINUTE,
    MINUTE_MS,
    SEAL_DELAY_S,
    MinuteTicks,
    Tick,
    TickRejection,
    UnsealedMinutes,
    merge_all,
    parse_price,
)
from tests.sample_data import START_TS

NOW = START_TS + 30.0

ticks_of_a_minute = st.lists(
    st.tuples(st.integers(0, MINUTE_MS - 1), st.sampled_from(["1", "2", "2.5", "68241.5", "0.000001"]), st.integers(1, 50)),
    min_size=1,
    max_size=40,
)


def tick(at_ms: int, price: str = "100", *, arrived_us: int = 1, ticker: str = "btc_usd", ts: int = START_TS) -> Tick:
    """Returns a tick `at_ms` milliseconds after the start of a minute."""
    return Tick(ticker, ts * 1_000 + at_ms, Decimal(price), arrived_us)


def minute_of(ticks: Sequence[tuple[int, str, int]]) -> MinuteTicks:
    minute = MinuteTicks("btc_usd", START_TS)
    for at_ms, price, arrived_us in ticks:
        minute.add(tick(at_ms, price, arrived_us=arrived_us))
    return minute


@given(ticks_of_a_minute, st.data())
def test_any_split_between_processes_and_any_order_of_merges_gives_the_range_of_one_process(
    ticks: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    whole = minute_of(ticks)
    # Each tick reaches one, two or three processes; each process sees its ticks in any order.
    seen_by = data.draw(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=len(ticks), max_size=len(ticks)))
    parts = [[one for one, processes in zip(ticks, seen_by, strict=True) if number in processes] for number in range(3)]
    minutes = [minute_of(data.draw(st.permutations(part))) for part in parts if part]
    # An entry may be read from the outbox twice, and passes through JSON.
    entries = data.draw(st.permutations([*minutes, *minutes]))
    merged = merge_all(MinuteTicks.from_json("btc_usd", START_TS, one.to_json()) for one in entries)["btc_usd", START_TS]
    assert merged.range() == whole.range()
    assert merged.to_json() == whole.to_json()


@given(ticks_of_a_minute)
def test_a_range_agrees_with_a_simulation_of_every_millisecond(ticks: list[tuple[int, str, int]]) -> None:
    found = minute_of(ticks).range()
    prices = [Decimal(price) for _, price, _ in ticks]
    assert (found.high, found.low) == (max(prices), min(prices))
    instants = sorted({at_ms for at_ms, _, _ in ticks})
    assert (found.opened_ms, found.closed_ms) == (instants[0], instants[-1])
    assert found.open in {Decimal(price) for at_ms, price, _ in ticks if at_ms == instants[0]}
    assert found.close in {Decimal(price) for at_ms, price, _ in ticks if at_ms == instants[-1]}
    silences = [after - before for before, after in itertools.pairwise([0, *instants, MINUTE_MS])]
    assert found.longest_silence_ms == max(silences)
    is_watched = max(silences) <= 5_000 and silences[0] <= 2_500 and silences[-1] <= 2_500
    assert (found.watched_s == 60) == is_watched
    assert found.low <= found.twap <= found.high


def test_the_mean_is_weighted_by_time_and_a_price_counts_for_at_most_five_seconds() -> None:
    # 100 for two seconds, 200 for three, then a silence of 55 seconds of which five count.
    found = minute_of([(0, "100", 1), (2_000, "200", 2), (5_000, "300", 3)]).range()
    assert found.twap == (2 * Decimal(100) + 3 * Decimal(200) + 5 * Decimal(300)) / 10
    assert (found.watched_s, found.longest_silence_ms, found.ticks) == (7, 55_000, 3)


@pytest.mark.parametrize(
    ("offsets", "watched_s"),
    [
        (range(0, MINUTE_MS, 1_000), 60),
        (range(2_500, MINUTE_MS, 5_000), 60),
        ((1, *range(5_002, MINUTE_MS, 1_000)), 59),
        ((2_501, *range(3_000, MINUTE_MS, 1_000)), 57),
        (range(0, 57_499, 1_000), 59),
        ((30_000,), 2),
    ],
    ids=["each second", "silences of five seconds", "one of 5.001", "late begin", "early end", "a single tick"],
)
def test_a_minute_is_watched_only_without_a_silence_of_more_than_five_seconds(offsets: Sequence[int], watched_s: int) -> None:
    assert minute_of([(at_ms, "1", 1) for at_ms in offsets]).range().watched_s == watched_s


def test_of_the_same_millisecond_the_later_arrival_is_the_close_and_both_count_as_extremes() -> None:
    found = minute_of([(10, "5", 3), (10, "9", 1), (10, "7", 2)]).range()
    assert (found.open, found.high, found.low, found.close) == tuple(map(Decimal, ("9", "9", "5", "5")))


@pytest.mark.parametrize("decimals", [1, 12, 18])
def test_a_mean_never_leaves_the_interval_between_the_extremes(decimals: int) -> None:
    low, high = (str(Decimal(number).scaleb(-decimals)) for number in (1, 2))
    found = minute_of([(at_ms, low if at_ms else high, 1) for at_ms in range(0, MINUTE_MS, 7)]).range()
    assert Decimal(low) <= found.twap <= Decimal(high)


@pytest.mark.parametrize(
    ("at_ms", "now", "rejection"),
    [
        (1_000, NOW, None),
        (0, START_TS + 60.0, None),
        (32_000, NOW, None),
        (32_001, NOW, TickRejection.AHEAD),
        (0, START_TS + 61.0, TickRejection.LATE),
        (1_000, None, TickRejection.CLOCK),
    ],
)
def test_a_tick_counts_only_near_the_clock_of_the_exchange(
    at_ms: int, now: float | None, rejection: TickRejection | None
) -> None:
    assert UnsealedMinutes().add(tick(at_ms), now) is rejection


def test_a_minute_is_sealed_once_and_accepts_no_tick_afterwards() -> None:
    collector = UnsealedMinutes()
    assert collector.add(tick(59_000), START_TS + 59.0) is None
    assert collector.add(tick(60_000), START_TS + 60.0) is None
    end = START_TS + 60 + SEAL_DELAY_S
    assert collector.seal(end - 0.1) == []
    assert collector.add(tick(59_500), end - 0.1) is None
    (sealed,) = collector.seal(end)
    assert (sealed.ts, len(sealed.arrivals)) == (START_TS, 2)
    assert collector.add(tick(59_900), end) is TickRejection.LATE
    # A clock that goes back opens no sealed minute again.
    assert collector.seal(START_TS + 10.0) == []
    assert collector.add(tick(59_900), START_TS + 59.9) is TickRejection.LATE
    (rest,) = collector.seal_all()
    assert rest.ts == START_TS + 60


def test_a_flood_is_bounded_and_never_hides_an_extreme() -> None:
    minute, generator = MinuteTicks("btc_usd", START_TS), random.Random(7)  # noqa: S311  no secret
    prices = [generator.randint(1_000, 2_000) for _ in range(20_000)]
    for number, price in enumerate(prices):
        minute.add(tick(number * 3, str(price)))
    for number in range(5_000):  # each a new extreme
        minute.add(tick(59_500, str(3_000 + number)))
    prices.append(7_999)
    minute.add(tick(59_999, "1500"))
    found = minute.range()
    assert (found.close, found.closed_ms) == (Decimal(1_500), 59_999)
    assert (found.low, found.high) == (Decimal(min(prices)), Decimal(max(prices)))
    assert len(minute.arrivals) <= MAX_TICKS_PER_MINUTE + 3


@pytest.mark.parametrize("text", ["0", "-1", "NaN", "Infinity", "1e999999", "1e-999999999", "", "68,000", "9" * 6_000])
def test_a_price_that_is_not_positive_and_finite_is_no_price(text: str) -> None:
    with pytest.raises(ValueError, match=r"should|number"):
        parse_price(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '[["a", "1", 1]]',
        '[[60000, "1", 1]]',
        '[[-1, "1", 1]]',
        '[[1, "0", 1]]',
        "[[1, 1.5, 1]]",
        "[[1]]",
    ],
)
def test_invalid_json_is_no_minute(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        MinuteTicks.from_json("btc_usd", START_TS, text)
