"""The exchange's clock, carried on by a monotonic one."""

from ingest.source import MAX_CLOCK_AGE_S, ExchangeClock


class Monotonic:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_known_before_the_first_answer() -> None:
    clock = ExchangeClock()
    assert (clock.now(0), clock.skew_s, clock.has_passed(0)) == (None, None, False)


def test_it_goes_on_between_answers_and_is_forgotten_before_the_next_minute() -> None:
    local = Monotonic()
    clock = ExchangeClock(local)
    clock.observe(600 * 10**6, 610 * 10**6, 610 * 10**6)
    assert clock.skew_s == 10
    assert not clock.has_passed(600)
    assert clock.has_passed(540)
    local.now += MAX_CLOCK_AGE_S
    assert clock.now(600) == 600 + MAX_CLOCK_AGE_S
    local.now += 1
    assert clock.now(600) is None
    assert not clock.has_passed(540), "a wrong answer would otherwise end collecting for ever"


def test_a_minute_has_passed_at_its_end_and_not_before() -> None:
    local = Monotonic()
    clock = ExchangeClock(local)
    clock.observe(659_900_000, 659_900_000, 659_900_000)
    assert not clock.has_passed(600)
    local.now += 0.2
    assert clock.has_passed(600)


def test_a_minute_that_is_over_by_this_clock_alone_has_not_passed() -> None:
    clock = ExchangeClock()
    clock.observe(900 * 10**6, 650 * 10**6, 650 * 10**6)
    assert not clock.has_passed(600), "the local clock is behind: its present minute must be used to ask"
    assert clock.has_passed(540)


def test_however_long_ago_it_was_heard_it_can_be_carried_on() -> None:
    local = Monotonic()
    clock = ExchangeClock(local)
    clock.observe(600 * 10**6, 600 * 10**6, 600 * 10**6)
    local.now += 7200
    assert clock.now(600) is None
    assert clock.now(600, max_age_s=float("inf")) == 7800


def test_one_answer_that_is_far_behind_the_others_and_the_local_clock_changes_nothing() -> None:
    clock = ExchangeClock()
    clock.observe(600 * 10**6, 600 * 10**6, 600 * 10**6, "btc_usd")
    clock.observe(1, 601 * 10**6, 601 * 10**6, "eth_usd")
    now = clock.now(600)
    assert now is not None
    assert now >= 600


def test_an_instant_that_cannot_be_is_not_believed() -> None:
    clock = ExchangeClock()
    clock.observe(7 * 10**15, 600 * 10**6, 600 * 10**6)
    assert clock.now(600) is None
    assert not clock.has_passed(600)
    clock.observe(600 * 10**6, 7 * 10**15, 7 * 10**15)
    assert clock.now(660) is not None, "a local clock far off does not matter where the exchange is near the minute"
    clock.observe(10**15, 10**15, 10**15)
    assert clock.has_passed(600), "nor does a message that is years old"
