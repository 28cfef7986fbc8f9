"""The coverage of a window: counts, gaps with their reasons, and the header X-Coverage of REST."""

import random
from typing import Any

import pytest

from db.pool import Database
from db.queries import gaps, write_lock
from db.rows import Reason, Source
from tests.graph.conftest import Api
from tests.sample_data import START_TS, row, set_tracked_tickers, store, track
from tests.wait import wait_until

COVERAGE = """
query ($from: UnixTime!, $to: UnixTime) {
  coverage(ticker: "btc_usd", from: $from, to: $to) {
    from to expected stored live backfilled imported extra missing ratio
    gaps { nodes { from to minutes reason state } pageInfo { hasNextPage hasPreviousPage endCursor } }
  }
}
"""


def _minute_at(minute: int) -> int:
    return START_TS + 60 * minute


async def _detect_gaps(db: Database, end_minute: int, **reasons: Reason) -> None:
    """Detects the gaps of btc_usd before a minute number; `m5=Reason.TIMEOUT` is the recorded failure of minute 5."""
    evidence = {("btc_usd", _minute_at(int(name[1:]))): reason for name, reason in reasons.items()}
    async with write_lock.write_transaction(db) as connection:
        low = (await gaps.watermarks(connection))["btc_usd"]
        await gaps.detect_gaps(connection, {"btc_usd": (low, _minute_at(end_minute))}, evidence)


@pytest.fixture
async def _history(db: Database) -> None:
    """Ten tracked minutes: six live prices and four gaps, one filled and one unrecoverable. Before them two imported prices."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _minute_at(i)) for i in (0, 1, 2, 6, 7, 9)])
    await _detect_gaps(db, 10, m3=Reason.TIMEOUT, m4=Reason.HTTP_5XX, m5=Reason.HTTP_5XX, m8=Reason.TIMEOUT)
    await store(db, [row("btc_usd", _minute_at(4), source=Source.BACKFILL)])
    await store(db, [row("btc_usd", _minute_at(i), at_s=None, source=Source.IMPORT) for i in (-2, -1)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [_minute_at(8)])


@pytest.mark.usefixtures("_history")
async def test_coverage_counts_minutes_and_lists_gaps_with_their_reasons(api: Api) -> None:
    coverage = (await api.data(COVERAGE, **{"from": _minute_at(-5), "to": _minute_at(10)}))["coverage"]
    gap_page = coverage.pop("gaps")
    assert coverage == {
        "from": _minute_at(-5), "to": _minute_at(10), "expected": 10, "stored": 7, "live": 6, "backfilled": 1, "imported": 0,
        "extra": 2, "missing": 3, "ratio": 0.7,
    }  # fmt: skip
    assert [(gap["from"], gap["to"], gap["minutes"], gap["reason"], gap["state"]) for gap in gap_page["nodes"]] == [
        (_minute_at(3), _minute_at(4), 1, "TIMEOUT", "OPEN"),
        (_minute_at(4), _minute_at(5), 1, "HTTP_5XX", "FILLED"),
        (_minute_at(5), _minute_at(6), 1, "HTTP_5XX", "OPEN"),
        (_minute_at(8), _minute_at(9), 1, "TIMEOUT", "GIVEN_UP"),
    ]


@pytest.mark.usefixtures("_history")
async def test_the_coverage_of_adjacent_windows_adds_up(api: Api) -> None:
    whole = (await api.data(COVERAGE, **{"from": _minute_at(-5), "to": _minute_at(10)}))["coverage"]
    parts = [
        (await api.data(COVERAGE, **{"from": _minute_at(a), "to": _minute_at(b)}))["coverage"] for a, b in ((-5, 4), (4, 10))
    ]
    for name in ("expected", "stored", "live", "backfilled", "extra", "missing"):
        assert whole[name] == sum(part[name] for part in parts)


@pytest.mark.usefixtures("_history")
async def test_gaps_are_paged_and_filtered(api: Api) -> None:
    query = """query ($after: String, $states: [GapState!]) {
      coverage(ticker: "btc_usd", from: 0) { gaps(first: 1, after: $after, states: $states) {
        nodes { from state } edges { cursor } pageInfo { hasNextPage endCursor } } } }"""
    after, seen = None, []
    while True:
        page = (await api.data(query, after=after, states=["OPEN", "GIVEN_UP"]))["coverage"]["gaps"]
        seen += [(node["from"], node["state"]) for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == [(_minute_at(3), "OPEN"), (_minute_at(5), "OPEN"), (_minute_at(8), "GIVEN_UP")]


async def test_a_window_without_expected_minutes_has_no_ratio(db: Database, api: Api) -> None:
    await track(db, "btc_usd", since=_minute_at(100))
    coverage = (await api.data(COVERAGE, **{"from": _minute_at(0), "to": _minute_at(10)}))["coverage"]
    assert (coverage["expected"], coverage["ratio"], coverage["missing"]) == (0, None, 0)


async def test_future_minutes_are_not_expected(db: Database, api: Api) -> None:
    coverage: dict[str, Any]
    await track(db, "btc_usd", since=_minute_at(0))
    coverage = (await api.data(COVERAGE, **{"from": 7_000_000_000}))["coverage"]
    assert (coverage["expected"], coverage["from"]) == (0, coverage["to"])


DAYS = """
query ($from: UnixTime!, $to: UnixTime!, $asOf: ID) {
  coverage(ticker: "btc_usd", from: $from, to: $to, asOf: $asOf) { expected stored days { day expected stored } }
}
"""


@pytest.mark.parametrize("seed", range(3))
async def test_the_days_of_a_window_add_up_to_its_coverage(db: Database, api: Api, seed: int) -> None:
    """Tracking and import periods, and prices inside and outside of them, at random. No commit changes an earlier version."""
    rng = random.Random(seed)  # noqa: S311  no secret
    end = 4 * 1_440
    low = rng.randrange(end)
    await track(db, "btc_usd", since=_minute_at(low))
    imported = sorted(rng.sample(range(end), 2))
    periods = "INSERT INTO import_period VALUES ('btc_usd', $1, $2)"
    await db.execute(periods, *map(_minute_at, imported))
    minutes = rng.sample(range(end), 300)
    await store(db, [row("btc_usd", _minute_at(minute)) for minute in minutes])
    chosen = set(minutes)
    version = (await api.data("{ dataVersion }"))["dataVersion"]
    expected = {*range(low, end), *range(*imported)}
    for _ in range(4):
        begin, until = sorted(rng.sample(range(-1_440, end), 2))
        window = {"from": _minute_at(begin), "to": _minute_at(until)}
        found = (await api.data(DAYS, **window))["coverage"]
        days = {one["day"]: (one["expected"], one["stored"]) for one in found["days"]}
        model: dict[int, tuple[int, int]] = {}
        for minute in range(begin, until):
            if minute in expected:
                day = _minute_at(minute) // 86_400 * 86_400
                count, stored = model.get(day, (0, 0))
                model[day] = (count + 1, stored + (minute in chosen))
        assert days == model
        assert (found["expected"], found["stored"]) == tuple(map(sum, zip(*days.values(), strict=True))) if days else (0, 0)
    await store(db, [row("btc_usd", _minute_at(minute)) for minute in rng.sample(range(end), 50)])
    window = {"from": _minute_at(0), "to": _minute_at(end)}
    old = (await api.data(DAYS, **window, asOf=version))["coverage"]
    assert sum(one["stored"] for one in old["days"]) == len(expected & chosen) == old["stored"]


async def test_the_coverage_of_an_unknown_ticker_fails_with_unknown_ticker(db: Database, api: Api) -> None:
    await track(db, "eth_usd")
    assert (await api.error(COVERAGE, **{"from": 0}))[0] == "UNKNOWN_TICKER"


@pytest.mark.usefixtures("_history")
async def test_a_price_list_has_the_coverage_of_its_window(api: Api) -> None:
    query = '{ prices(ticker: "btc_usd", from: %d, to: %d, first: 1) { nodes { ts } coverage { stored expected } } }'
    connection = (await api.data(query % (_minute_at(0), _minute_at(5))))["prices"]
    assert connection["coverage"] == {"stored": 4, "expected": 5}


async def test_a_ticker_has_its_last_gap(db: Database, api: Api) -> None:
    query = "{ tickers { name lastGap { from to reason state } } }"
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", _minute_at(0))])
    assert [ticker["lastGap"] for ticker in (await api.data(query))["tickers"]] == [None, None]
    await _detect_gaps(db, 6, m1=Reason.CLOCK, m2=Reason.TIMEOUT, m3=Reason.TIMEOUT, m4=Reason.TIMEOUT)
    await store(db, [row("btc_usd", _minute_at(5))])

    async def is_last(gap: dict[str, object]) -> bool:
        return bool((await api.data(query))["tickers"][0]["lastGap"] == gap)

    newest_gap = {"from": _minute_at(5), "to": _minute_at(6), "reason": "NOT_COLLECTED", "state": "FILLED"}
    await wait_until(lambda: is_last(newest_gap))  # the API reads a new commit with a short delay
    async with write_lock.write_transaction(db) as connection:
        await connection.execute("DELETE FROM gap WHERE ts = $1", _minute_at(5))
    earlier_gap = {"from": _minute_at(2), "to": _minute_at(5), "reason": "TIMEOUT", "state": "OPEN"}
    await wait_until(lambda: is_last(earlier_gap))


@pytest.mark.usefixtures("_history")
@pytest.mark.parametrize(
    ("path", "expected_header"),
    [
        (f"/prices/filter?ticker=btc_usd&date_from={_minute_at(0)}&date_to={_minute_at(9)}", "7/10"),
        (f"/prices/filter?ticker=btc_usd&date_from={_minute_at(0)}&date_to={_minute_at(9)}&limit=3", "3/3"),
        (f"/prices/range?ticker=btc_usd&from_ts={_minute_at(3)}&to_ts={_minute_at(4)}", "1/2"),
        ("/prices/by-date?ticker=btc_usd&date=2024-01-14", "0/0"),
    ],
)
async def test_rest_lists_send_their_coverage_in_a_header(api: Api, path: str, expected_header: str) -> None:
    async with api.session.get(api.url + path) as response:
        assert response.headers["X-Coverage"] == expected_header, await response.text()


async def test_the_coverage_of_a_rest_page_is_that_of_its_rows(db: Database, api: Api) -> None:
    await track(db, "btc_usd")
    async with write_lock.write_transaction(db) as connection:
        await set_tracked_tickers(connection, ["eth_usd"], _minute_at(10))
    await store(db, [row("btc_usd", _minute_at(i)) for i in (0, 1, 2, 5, 6, 9)])
    for path, expected_header in (("limit=2", "2/4"), ("limit=2&offset=2", "2/4"), ("limit=9", "6/10"), ("offset=9", "0/0")):
        async with api.session.get(f"{api.url}/prices?ticker=btc_usd&{path}") as response:
            assert response.headers["X-Coverage"] == expected_header, path


@pytest.mark.parametrize("merge_within", [0, 1, 3, 2_147_483_647])
async def test_parts_that_are_close_count_as_one(api: Api, db: Database, merge_within: int) -> None:
    await track(db, "btc_usd")
    sources = {
        n: Source.BACKFILL if n % 7 in (1, 2) else Source.IMPORT if n % 11 in (4, 6, 7) else Source.LIVE for n in range(200)
    }
    await store(db, [row("btc_usd", START_TS + 60 * n, source=source) for n, source in sources.items() if n % 13])
    expected = []
    for source in (Source.BACKFILL, Source.IMPORT):
        minutes = [n for n, one in sources.items() if one is source and n % 13]
        part: list[int] = []
        for n in [*minutes, 10**12]:
            if part and n - part[-1] > merge_within + 1:
                expected.append({"from": START_TS + 60 * part[0], "to": START_TS + 60 * (part[-1] + 1), "source": source})
                part = []
            part.append(n)
    query = f"""{{ coverage(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60 * 200}) {{
        parts(mergeWithin: {merge_within}) {{ from to source }} }} }}"""
    found = (await api.data(query))["coverage"]["parts"]
    assert found == sorted(expected, key=lambda one: one["from"])
    code, message = await api.error(query.replace(f"mergeWithin: {merge_within}", "mergeWithin: -1"))
    assert (code, message) == ("BAD_USER_INPUT", "mergeWithin (-1) must be 0 or more minutes")
