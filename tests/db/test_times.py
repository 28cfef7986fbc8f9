"""Times sent by clients are parsed, or rejected with a hint."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import times

INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 12, 31, 23, 59), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("value", "second"),
    [
        (1705318800, 1705318800),
        (1705318800.9, 1705318800),
        ("1705318800", 1705318800),
        ("2024-01-15T11:40:00Z", 1705318800),
        ("2024-01-15T11:40:00", 1705318800),
        ("2024-01-15T12:40:00+01:00", 1705318800),
        ("2024-01-15 11:40:00.987", 1705318800),
        ("20240115T114000Z", 1705318800),
        ("2024-01-15", 1705276800),
        (0, 0),
        (times.END - 1, times.END - 1),
    ],
)
def test_a_time_is_parsed_from_seconds_and_from_iso_8601(value: object, second: int) -> None:
    assert times.parse(value) == second


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1705318800000, "appears to be in milliseconds. Divide by 1000"),
        ("1705318800000", "appears to be in milliseconds. Divide by 1000"),
        (-1, "outside the years 1970 to 2200"),
        (times.END, "outside the years 1970 to 2200"),
        ("1969-12-31T23:59:59Z", "outside the years 1970 to 2200"),
        ("2201-01-01", "outside the years 1970 to 2200"),
        (10**30, "outside the years 1970 to 2200"),
        ("yesterday", "'yesterday' is not a valid time. Use UNIX seconds (1705318800) or ISO 8601 (2024-01-15T11:40:00Z)"),
        ("", "is not a valid time"),
        ("9" * 5000, "outside the years"),
        (True, "is not a valid time"),
        (None, "is not a valid time"),
        ([1], "is not a valid time"),
        (float("nan"), "is not a valid time"),
        (float("inf"), "is not a valid time"),
    ],
)
def test_an_invalid_time_is_rejected_with_a_hint(value: object, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        times.parse(value)


@given(INSTANTS)
def test_iso_8601_round_trips(instant: datetime) -> None:
    second = int(instant.timestamp())
    assert times.parse(times.iso(second)) == second


@given(st.integers(0, times.END * 10**6 - 1))
def test_formatted_microseconds_stay_in_their_minute(microsecond: int) -> None:
    text = times.iso_us(microsecond)
    assert times.parse(text) == microsecond // 10**6
    assert times.minute_of(microsecond / 10**6) % 60 == 0
