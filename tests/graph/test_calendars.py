"""Compares candles in time zones with those of single minutes, whose local time decides to which candle they belong."""

import datetime as dt
import json
from collections import defaultdict
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.pool import Database
from db.queries import version
from db.queries.candles import Interval
from db.rows import PriceRow
from graph.engine.calendars import Calendar, WeekStart
from graph.errors import BadInputError
from graph.schema.scalars import _format_decimal
from tests.graph.conftest import Api
from tests.sample_data import row, store, track

DAY = 86_400
# 2024-03-25 to 2024-04-12: clocks change in Europe on March 31st, on Lord Howe Island (by half an hour) on April 7th.
LOW = 1_711_324_800
HIGH = LOW + 18 * DAY
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns")


@pytest.fixture
async def stored_rows(db: Database) -> list[PriceRow]:
    minutes = [m for m in range(0, 18 * 1_440, 11) if m % 13 and not 3_000 < m < 4_500]
    rows = [row("btc_usd", LOW + 60 * m, f"{60_000 + (m * 7_919) % 1_000}.{m % 9 + 1}") for m in minutes]
    await track(db, "btc_usd", since=LOW)
    await store(db, rows)
    return rows


def _local_start(interval: Interval, calendar: Calendar, ts: int) -> tuple[dt.datetime, int]:
    """Returns the local time at which the candle of a minute starts, and 1 if it starts when clocks show this time again."""
    local = dt.datetime.fromtimestamp(ts, calendar.zone)
    shift = dt.timedelta(minutes=calendar.day_start)
    wall = local.replace(tzinfo=None, fold=0) - shift
    day = wall.replace(hour=0, minute=0)
    if interval is Interval.ONE_WEEK:
        return day - dt.timedelta(days=(day.weekday() - calendar.week_start.value) % 7), 0
    step = dt.timedelta(seconds=interval.value.seconds)
    start = day + (wall - day) // step * step
    first, again = ((start + shift).replace(tzinfo=calendar.zone, fold=fold).timestamp() for fold in (0, 1))
    if again < first:  # clocks skip this start, so the candle before goes on
        return start - step, 0
    return start, int(first < again <= ts and step <= dt.timedelta(hours=1))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("day_start", ["00:00", "08:00", "17:30"])
async def test_candles_of_a_time_zone_are_those_of_its_minutes(
    api: Api, db: Database, stored_rows: list[PriceRow], zone: str, day_start: str
) -> None:
    data_version = str(await version.current(db))
    for interval in (Interval.THIRTY_MINUTES, Interval.ONE_HOUR, Interval.FOUR_HOURS, Interval.ONE_DAY, Interval.ONE_WEEK):
        calendar = Calendar.parse(zone, WeekStart.SUNDAY, day_start)
        groups = defaultdict[tuple[dt.datetime, int], list[PriceRow]](list)
        for one in stored_rows:
            groups[_local_start(interval, calendar, one.ts)].append(one)
        # The first and the last group may have minutes outside of the window.
        expected = [
            {
                "open": _format_decimal(rows[0].price),
                "high": _format_decimal(max(one.price for one in rows)),
                "low": _format_decimal(min(one.price for one in rows)),
                "close": _format_decimal(rows[-1].price),
                "count": len(rows),
            }
            for rows in groups.values()
        ][1:-1]
        arguments = (
            f'ticker: "btc_usd", interval: {interval.name}, from: {LOW}, to: {HIGH}, timeZone: "{zone}", '
            f'weekStart: SUNDAY, dayStart: "{day_start}"'
        )
        fields = "ts end open high low close count expected"
        for as_of in ("", f', asOf: "{data_version}"'):
            found = (await api.data(f"{{ candles({arguments}{as_of}) {{ {fields} }} }}"))["candles"]
            assert all(one["expected"] == (one["end"] - one["ts"]) // 60 for one in found)
            assert all(one["end"] <= following["ts"] for one, following in pairwise(found))
            values = [{name: one[name] for name in expected[0]} for one in found]
            # One more candle at either end may lie in the window completely.
            begin = values.index(expected[0])
            assert begin <= 1
            assert values[begin : begin + len(expected)] == expected
            assert len(values) - begin - len(expected) <= 1


async def test_a_day_has_23_or_25_hours_when_clocks_change(api: Api, db: Database) -> None:
    await track(db, "btc_usd", since=LOW)
    await store(db, [row("btc_usd", LOW)])
    day = 'ticker: "btc_usd", interval: ONE_DAY, timeZone: "Europe/Berlin", includeEmpty: true'
    for low, high, hours in (("2024-03-29", "2024-04-01", [24, 24, 23]), ("2024-10-25", "2024-10-28", [24, 25])):
        found = await api.data(f'{{ candles({day}, from: "{low}T00:00+01:00", to: "{high}T00:00+02:00") {{ ts expected }} }}')
        assert [one["expected"] // 60 for one in found["candles"]] == hours
    # 02:00 is repeated: an hour starts at both.
    hour = 'ticker: "btc_usd", interval: ONE_HOUR, timeZone: "Europe/Berlin", includeEmpty: true'
    found = await api.data(f'{{ candles({hour}, from: "2024-10-26T22:00Z", to: "2024-10-27T23:00Z") {{ ts }} }}')
    assert len(found["candles"]) == 25


async def test_the_exchange_s_own_day_begins_at_eight(api: Api, stored_rows: list[PriceRow]) -> None:
    days = f'ticker: "btc_usd", interval: ONE_DAY, from: {LOW}, to: {LOW + 2 * DAY}, dayStart: "08:00"'
    found = await api.data(f"{{ candles({days}) {{ ts end count }} }}")
    begin = LOW + 8 * 3_600
    counts = [sum(ts <= one.ts < ts + DAY for one in stored_rows) for ts in (begin, begin + DAY)]
    assert found["candles"] == [
        {"ts": begin + number * DAY, "end": begin + (number + 1) * DAY, "count": counts[number]} for number in (0, 1)
    ]


async def test_the_table_of_candles_has_the_same_calendars(api: Api, stored_rows: list[PriceRow]) -> None:
    arguments = f'ticker: "btc_usd", interval: ONE_WEEK, from: {LOW}, to: {HIGH}, timeZone: "Asia/Kolkata", weekStart: SUNDAY'
    expected = (await api.data(f"{{ candles({arguments}) {{ ts end open close }} }}"))["candles"]
    assert expected
    path = f"/candles?ticker=btc_usd&interval=ONE_WEEK&from={LOW}&to={HIGH}&time_zone=Asia/Kolkata&week_start=SUNDAY"
    async with api.session.get(api.url + path) as response:
        found: list[dict[str, Any]] = json.loads(await response.text())
    assert [{name: one[name] for name in expected[0]} for one in found] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('timeZone: "Mars/Olympus"', "time zone: 'Mars/Olympus' is not an IANA name like 'Europe/Berlin'"),
        ('timeZone: "../../etc/passwd"', "time zone: '../../etc/passwd' is not an IANA name"),
        ('timeZone: ""', "time zone: '' is not an IANA name"),
        ('timeZone: "Europe"', "time zone: 'Europe' is not an IANA name"),
        ('dayStart: "8:00"', "start of the day: '8:00' is not a time like '08:00'"),
        ('dayStart: "24:00"', "start of the day: '24:00' is not a time like '08:00'"),
    ],
)
async def test_an_unknown_zone_or_time_is_named(api: Api, arguments: str, expected: str) -> None:
    code, message = await api.error(
        f'{{ candles(ticker: "btc_usd", interval: ONE_DAY, from: {LOW}, to: {HIGH}, {arguments}) {{ ts }} }}'
    )
    assert code == "BAD_USER_INPUT"
    assert message.startswith(expected)


ALL_ZONES = sorted(available_timezones() - {"localtime"})


@given(
    st.sampled_from(ALL_ZONES),
    st.sampled_from(list(Interval)),
    st.sampled_from(list(WeekStart)),
    st.integers(0, 1_439),
    st.integers(0, 2_000_000_000),
    st.integers(1, 300),
)
def test_starts_follow_each_other_and_have_the_local_time_of_a_start(
    zone: str, interval: Interval, week_start: WeekStart, day_start: int, low: int, count: int
) -> None:
    calendar = Calendar(ZoneInfo(zone), week_start, day_start)
    high = low + count * interval.value.seconds
    starts = calendar.starts(interval, low, high)
    if starts is None:
        assert calendar.is_utc
        return
    # The longest candle contains a day that clocks skip, as Samoa did, and a change of the offset.
    longest = interval.value.seconds + DAY + 3_600
    assert starts == sorted(set(starts))
    assert all(high - low <= longest for low, high in pairwise(starts))
    if starts:
        assert low <= starts[0] <= low + longest
        assert starts[-2] < high <= starts[-1]
    for start in starts:
        local = dt.datetime.fromtimestamp(start, calendar.zone).replace(tzinfo=None)
        shifted = local - dt.timedelta(minutes=day_start)
        is_start = (shifted.hour * 60 + shifted.minute) % (min(DAY, interval.value.seconds) // 60) == 0
        before = dt.datetime.fromtimestamp(start - 1, calendar.zone)
        after = dt.datetime.fromtimestamp(start + DAY, calendar.zone)
        clocks_change = before.utcoffset() != after.utcoffset() or any(
            dt.datetime.fromtimestamp(start - hours * 3_600, calendar.zone).utcoffset() != after.utcoffset()
            for hours in range(27)
        )
        assert is_start or clocks_change or local.second, (start, local)


def test_the_calendar_of_utc_needs_no_starts() -> None:
    assert Calendar.parse("UTC").starts(Interval.ONE_DAY, LOW, HIGH) is None
    with pytest.raises(BadInputError):
        Calendar.parse("UTC", day_start="25:00")
