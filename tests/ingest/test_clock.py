"""The exchange's clock, extrapolated by a monotonic clock."""

from ingest.source import ExchangeClock


class FakeMonotonicClock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_is_unknown_before_the_first_response() -> None:
    clock = ExchangeClock()
    assert (clock.now(0), clock.skew_s, clock.has_passed(0)) == (None, None, False)


def test_the_clock_advances_between_responses() -> None:
    local = FakeMonotonicClock()
    clock = ExchangeClock(local)
    clock.observe(600 * 10**6, 610 * 10**6, 610 * 10**6)
    assert clock.skew_s == 10
    assert not clock.has_passed(600)
    assert clock.has_passed(540)
    local.now += 7200
    assert clock.now(600) == 7800


def test_a_minute_has_passed_at_its_end_and_not_before() -> None:
    local = FakeMonotonicClock()
    clock = ExchangeClock(local)
    clock.observe(659_900_000, 659_900_000, 659_900_000)
    assert not clock.has_passed(600)
    local.now += 0.2
    assert clock.has_passed(600)


def test_a_minute_that_has_ended_by_the_exchange_clock_alone_has_not_passed() -> None:
    clock = ExchangeClock()
    clock.observe(900 * 10**6, 650 * 10**6, 650 * 10**6)
    assert not clock.has_passed(600), "the local clock is behind, and its current minute must still be fetched"
    assert clock.has_passed(540)


def test_one_response_far_behind_the_others_and_the_local_clock_changes_nothing() -> None:
    clock = ExchangeClock()
    clock.observe(600 * 10**6, 600 * 10**6, 600 * 10**6, "btc_usd")
    clock.observe(1, 601 * 10**6, 601 * 10**6, "eth_usd")
    now = clock.now(600)
    assert now is not None
    assert now >= 600


def test_an_implausible_instant_is_ignored() -> None:
    clock = ExchangeClock()
    clock.observe(7 * 10**15, 600 * 10**6, 600 * 10**6)
    assert clock.now(600) is None
    assert not clock.has_passed(600)
    clock.observe(600 * 10**6, 7 * 10**15, 7 * 10**15)
    assert clock.now(660) is not None, "a wrong local clock does not matter if the exchange's time is near the minute"
    clock.observe(10**15, 10**15, 10**15)
    assert clock.has_passed(600), "nor does a message that is years old"
