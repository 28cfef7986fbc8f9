"""Queries `asOf` an earlier data version return what the newest data was then, whatever was stored, replaced or ended since."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from db import times
from db.pool import Database
from db.queries import bulk_import, gaps, retention, snapshots, tracking, version, write_lock
from db.rows import PriceRow, Reason, Source
from db.tables import metadata
from graph.engine.snapshots import open_snapshot
from tests.graph.conftest import Api, until_notified
from tests.sample_data import START_TS, range_row, row, set_tracked_tickers, store, store_ranges, track

DAYS = 3
MINUTES = [START_TS // 86_400 * 86_400 + times.MINUTE * minute for minute in range(0, DAYS * 1_440, 47)]
"""Minutes of three days, several in an hour and across hours and days."""
LOW, HIGH = MINUTES[0], MINUTES[-1] + times.MINUTE

PRICE = "id ticker ts time price observedAt source originalSource range { id open high low close twap ticks watchedS source }"
COVERAGE = """from to expected stored live backfilled imported extra watched missing ratio parts { from to source }
              gaps(first: 1000) { nodes { from to reason state minutes } }"""
CANDLE = "ts end open high low close count expected closed complete watched sampled twap"
DOCUMENT = f"""query Snapshot($from: UnixTime!, $middle: UnixTime!, $to: UnixTime!, $asOf: ID) {{
  prices(ticker: "btc_usd", first: 40, to: $to, asOf: $asOf) {{
    nodes {{ {PRICE} }} pageInfo {{ hasNextPage hasPreviousPage }} coverage {{ {COVERAGE} }} }}
  edges: prices(ticker: "btc_usd", from: $from, to: $to, last: 20, order: OLDEST_FIRST, asOf: $asOf) {{
    edges {{ node {{ {PRICE} }} }} }}
  range(ticker: "btc_usd", from: $from, to: $to, asOf: $asOf) {{ {PRICE} }}
  series(ticker: "btc_usd", from: $from, to: $to, asOf: $asOf) {{ ts price }}
  latest(ticker: "btc_usd", asOf: $asOf) {{ {PRICE} }}
  priceAt(ticker: "btc_usd", at: $middle, maxAge: 86400, asOf: $asOf) {{ {PRICE} }}
  pricesAt(ticker: "btc_usd", at: [$to, $middle, $from], maxAge: 86400, asOf: $asOf) {{ {PRICE} }}
  summary(ticker: "btc_usd", from: $from, to: $middle, asOf: $asOf) {{
    first {{ {PRICE} }} last {{ {PRICE} }} high {{ id }} low {{ id }} highest lowest
    change count twap coverage {{ {COVERAGE} }} }}
  coverage(ticker: "btc_usd", from: $from, to: $to, asOf: $asOf) {{ {COVERAGE} }}
}}"""
CANDLES = (
    "query Candles($from: UnixTime!, $month: UnixTime!, $to: UnixTime!, $asOf: ID) {"
    + "".join(
        f'{interval}_{basis}: candles(ticker: "btc_usd", interval: {interval}, basis: {basis}, to: $to, asOf: $asOf, '
        f"from: ${'month' if interval == 'ONE_MONTH' else 'from'}, includeOpen: true, includeEmpty: {empty}) {{ {CANDLE} }}"
        for interval, empty in {
            "ONE_MINUTE": "false",
            "THIRTY_MINUTES": "false",
            "ONE_HOUR": "true",
            "FOUR_HOURS": "false",
            "ONE_DAY": "true",
            "ONE_WEEK": "false",
            "ONE_MONTH": "false",
        }.items()
        for basis in ("RANGE", "SAMPLE")
    )
    + "}"
)
VARIABLES = {"from": LOW, "middle": LOW + 30 * 3_600, "to": HIGH}


async def _read(api: Api, as_of: str | None) -> bytes:
    found = [
        await api.data(DOCUMENT, **VARIABLES, asOf=as_of),
        await api.data(CANDLES, **{"from": LOW, "month": LOW - 14 * 86_400, "to": HIGH}, asOf=as_of),
    ]
    return orjson.dumps(found)


class _Writer:
    """Random commits of everything that writers do."""

    def __init__(self, db: Database, seed: int) -> None:
        self._db = db
        self._random = random.Random(seed)  # noqa: S311  samples

    async def commit(self) -> str:
        """Makes a random commit. Returns what it was."""
        steps: list[Callable[[], Awaitable[None]]] = [self._live, self._backfill, self._import, self._ranges, self._gaps]
        steps += [self._reasons, self._give_up, self._tracking, self._repair]
        step = self._random.choice(steps)
        await step()
        return step.__name__

    def _minutes(self, count: int) -> list[int]:
        return sorted(self._random.sample(MINUTES, count))

    def _row(self, ts: int, source: Source = Source.LIVE) -> PriceRow:
        return row("btc_usd", ts, str(self._random.randint(90, 110)), at_s=self._random.choice([1, 30, 59]), source=source)

    async def _live(self) -> None:
        await store(self._db, [self._row(ts) for ts in self._minutes(3)])

    async def _backfill(self) -> None:
        await store(self._db, [self._row(ts, Source.BACKFILL) for ts in self._minutes(5)])

    async def _import(self) -> None:
        minutes = self._minutes(8)
        rows = [
            (ts, "100", None, self._random.choice([None, "LIVE"]), self._random.choice([None, "95,105,94,101"]))
            for ts in minutes
        ]
        async with write_lock.write_transaction(self._db) as connection:
            await bulk_import.merge(connection, "btc_usd", rows)
            await bulk_import.merge_ranges(connection, "btc_usd", rows)
            await bulk_import.extend_period(connection, "btc_usd", minutes[0], minutes[-1] + times.MINUTE)

    async def _ranges(self) -> None:
        low, high = str(self._random.randint(80, 90)), str(self._random.randint(110, 120))
        await store_ranges(
            self._db, [range_row("btc_usd", ts, low, high, watched_s=self._random.choice([60, 30])) for ts in self._minutes(6)]
        )

    async def _gaps(self) -> None:
        low = self._minutes(1)[0]
        async with write_lock.write_transaction(self._db) as connection:
            await gaps.detect_gaps(connection, {"btc_usd": (low, low + 1_800)}, {("btc_usd", low): Reason.TIMEOUT})

    async def _reasons(self) -> None:
        missing = await gaps.unfilled(self._db, "btc_usd", LOW, HIGH, 40)
        async with write_lock.write_transaction(self._db) as connection:
            await gaps.set_gap_reasons(connection, dict.fromkeys(missing[::7], Reason.MAINTENANCE))
            await gaps.count_attempt(connection, "btc_usd", [ts for _, ts in missing])

    async def _give_up(self) -> None:
        missing = await gaps.unfilled(self._db, "btc_usd", LOW, HIGH, 40)
        async with write_lock.write_transaction(self._db) as connection:
            await gaps.mark_unrecoverable(connection, "btc_usd", [ts for _, ts in missing[::5]])

    async def _tracking(self) -> None:
        names = self._random.choice([["btc_usd"], ["btc_usd", "eth_usd"], ["eth_usd"]])
        async with write_lock.write_transaction(self._db) as connection:
            await set_tracked_tickers(connection, names, self._minutes(1)[0])

    async def _repair(self) -> None:
        async with write_lock.write_transaction(self._db) as connection:
            await tracking.repair(connection, self._minutes(1)[0])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
async def test_every_commit_of_a_log_can_be_read_again(api: Api, db: Database, seed: int) -> None:
    await track(db, "btc_usd", since=LOW)
    writer = _Writer(db, seed)
    log: list[tuple[str, str, bytes]] = []
    for _ in range(25):
        step = await writer.commit()
        await until_notified(api, db)
        data_version = str(await version.current(db))
        log.append((step, data_version, await _read(api, None)))
    for step, data_version, expected in log:
        found = orjson.loads(await _read(api, data_version))
        for got, want in zip(found, orjson.loads(expected), strict=True):
            for key in want:
                assert got[key] == want[key], (step, data_version, key)
        assert await _read(api, data_version) == expected, (step, data_version)


async def test_no_row_is_newer_than_the_data_version(db: Database) -> None:
    await track(db, "btc_usd", since=LOW)
    writer = _Writer(db, seed=7)
    for _ in range(40):
        step = await writer.commit()
        newest = await version.current(db)
        for table in ("price", "minute_range", "gap", "tracking", "import_period"):
            assert (await db.fetchval(f"SELECT max(id) FROM {table}") or 0) <= newest, (step, table)  # noqa: S608  constants
        assert (await db.fetchval("SELECT max(until_id) FROM past_row") or 0) <= newest, step


async def test_a_past_row_has_all_columns_of_its_table() -> None:
    for table, columns in snapshots.COLUMNS.items():
        names = [column.name for column in metadata.tables[table].columns if column.name not in ("ticker", "ts", "id")]
        assert names == columns.split(), table


async def test_a_response_that_states_its_version_can_be_read_again_with_it(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    query = f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 600}%s) {{ id ts }} }}'
    async with api.session.post(
        f"{api.url}/graphql",
        json={"query": query.replace("from: 0", f"from: {START_TS}") % "", "extensions": {"version": True}},
    ) as response:
        body: dict[str, Any] = await response.json()
    stated = body["extensions"]["version"]
    assert stated == str(await version.current(db))
    await store(db, [row("btc_usd", START_TS + 60)])
    again = await api.data(query % f', asOf: "{stated}"')
    assert again == body["data"]


async def test_a_repeatable_response_is_cached_for_ever_and_others_are_not(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    data_version = str(await version.current(db))

    async def cache_control(path: str, **params: str) -> str:
        async with api.session.get(f"{api.url}{path}", params=params, headers={"Accept": "application/json"}) as response:
            assert response.status == 200, await response.text()
            return response.headers.get("Cache-Control", "")

    latest = '{ latest(ticker: "btc_usd"%s) { id } }'
    as_of = f', asOf: "{data_version}"'
    assert await cache_control("/graphql", query=latest % as_of) == "public, max-age=31536000, immutable"
    assert (
        await cache_control("/graphql", query=f"{{ a: {(latest % as_of)[2:-2]} {(latest % '')[2:-2]} }}") == "public, max-age=5"
    )
    assert await cache_control("/prices/latest", ticker="btc_usd", as_of=data_version) == "public, max-age=31536000, immutable"
    assert await cache_control("/prices/latest", ticker="btc_usd") == "public, max-age=5"


@pytest.mark.parametrize(
    ("as_of", "message"),
    [
        ("yesterday", "asOf: 'yesterday' is not a data version; send one that `dataVersion` returned"),
        ("-1", "asOf: '-1' is not a data version; send one that `dataVersion` returned"),
        ("999999999999999999", "asOf (999999999999999999) is newer than the newest data version, "),
    ],
)
async def test_a_version_that_does_not_exist_is_rejected(api: Api, db: Database, as_of: str, message: str) -> None:
    await track(db, "btc_usd")
    code, found = await api.error(f'{{ latest(ticker: "btc_usd", asOf: "{as_of}") {{ id }} }}')
    assert code == "BAD_USER_INPUT"
    assert found.startswith(message)


async def test_minutes_that_retention_deleted_are_not_silently_missing(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    day = START_TS // 86_400 * 86_400
    await store(db, [row("btc_usd", ts) for ts in (START_TS, day + 86_400, day + 2 * 86_400)])
    before = str(await version.current(db))
    async with write_lock.write_transaction(db) as connection:
        await retention.advance_horizons(connection, day + 86_400, day + 5 * 86_400, times.END)
    after = str(await version.current(db))
    window = 'range(ticker: "btc_usd", from: %d, to: "2024-01-18", asOf: "%s") { ts }'
    code, message = await api.error(f"{{ {window % (START_TS, before)} }}")
    assert code == "AS_OF_TOO_OLD"
    assert message == (
        f"asOf ({before}): the minutes of btc_usd before 2024-01-16T00:00:00Z are deleted. Request a window from "  # noqa: S608  constants
        f"2024-01-16T00:00:00Z on, or as of {await db.fetchval('SELECT horizon_id FROM ticker')} or newer"
    )
    assert len((await api.data(f"{{ {window % (day + 86_400, before)} }}"))["range"]) == 2
    not_deleted_yet = (await api.data(f"{{ {window % (START_TS, after)} }}"))["range"]
    await retention.delete_expired(db, day + 5 * 86_400)
    assert (await api.data(f"{{ {window % (START_TS, after)} }}"))["range"] == not_deleted_yet
    assert await db.fetchval("SELECT count(*) FROM past_row WHERE ts < $1 AND kind = 'gap'", day + 86_400) == 0


async def test_retention_during_a_query_makes_no_response_that_lacks_minutes(
    api: Api, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await track(db, "btc_usd")
    day = START_TS // 86_400 * 86_400
    await store(db, [row("btc_usd", ts) for ts in (START_TS, day + 86_400, day + 2 * 86_400)])
    before = await version.current(db)
    is_retained = True

    async def open_and_expire(*arguments: Any) -> snapshots.Snapshot:
        """Opens a snapshot. The first time, retention deletes its minutes before they are read."""
        nonlocal is_retained
        found = await open_snapshot(*arguments)
        if is_retained:
            is_retained = False
            async with write_lock.write_transaction(db) as connection:
                await retention.advance_horizons(connection, day + 86_400, day + 5 * 86_400, times.END)
            await retention.delete_expired(db, day + 5 * 86_400)
        return found

    window = f'range(ticker: "btc_usd", from: {START_TS}, to: "2024-01-18", asOf: "{before}") {{ ts }}'
    paths = [
        f"/export?ticker=btc_usd&from={START_TS}&as_of={before}&format=csv",
        f"/prices/range?ticker=btc_usd&from_ts={START_TS}&to_ts={START_TS + 60}&as_of={before}",
    ]
    monkeypatch.setattr("graph.schema.context.open_snapshot", open_and_expire)
    assert (await api.error(f"{{ {window} }}"))[0] == "AS_OF_TOO_OLD"
    for path in paths:
        await db.execute("UPDATE ticker SET horizon = NULL, horizon_id = NULL")
        await store(db, [row("btc_usd", START_TS)])
        await db.execute("UPDATE price SET id = 1 WHERE ts = $1", START_TS)
        is_retained = True
        async with api.session.get(api.url + path) as response:
            if "export" in path:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            else:
                assert (response.status, (await response.json())["code"]) == (410, "AS_OF_TOO_OLD")


async def test_a_transaction_without_a_new_version_changes_the_time_of_none(db: Database) -> None:
    await track(db, "btc_usd")
    await db.execute("UPDATE version_time SET at = at - 600")
    await store(db, [row("btc_usd", START_TS)])
    newest = await version.current(db)
    await db.execute("UPDATE version_time SET at = at - 300")
    before = await snapshots.read_state(db, newest, "btc_usd")
    async with write_lock.write_transaction(db):
        pass
    async with write_lock.write_transaction(db) as connection:
        await connection.execute("UPDATE ticker SET checked_until = $1", START_TS)
    assert await snapshots.read_state(db, newest, "btc_usd") == before
    await store(db, [row("btc_usd", START_TS + 60)])
    assert await snapshots.read_state(db, newest, "btc_usd") == replace(before, newest=await version.current(db))
    assert (await snapshots.read_state(db, await version.current(db), "btc_usd")).at == before.at + 300


async def test_the_latest_price_of_a_version_is_not_silently_missing_after_retention(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    day = START_TS // 86_400 * 86_400
    await store(db, [row("btc_usd", START_TS)])
    before = str(await version.current(db))
    await store(db, [row("btc_usd", day + 2 * 86_400)])
    latest = f'{{ latest(ticker: "btc_usd", asOf: "{before}") {{ ts }} }}'
    assert await api.data(latest) == {"latest": {"ts": START_TS}}
    async with write_lock.write_transaction(db) as connection:
        await retention.advance_horizons(connection, day + 86_400, day + 5 * 86_400, times.END)
    await until_notified(api, db)
    paths = (f"/prices/latest?ticker=btc_usd&as_of={before}", f"/prices?ticker=btc_usd&as_of={before}")
    for _ in range(2):  # before and after the deletion
        assert (await api.error(latest))[0] == "AS_OF_TOO_OLD"
        for path in paths:
            async with api.session.get(api.url + path) as response:
                assert (response.status, (await response.json())["code"]) == (410, "AS_OF_TOO_OLD")
        await retention.delete_expired(db, day + 5 * 86_400)
    newest = await version.current(db)
    async with api.session.get(f"{api.url}/prices?ticker=btc_usd&as_of={newest}") as response:
        assert [one["ts"] for one in await response.json()] == [day + 2 * 86_400]


async def test_coverage_of_a_version_is_the_same_before_and_after_a_deletion(api: Api, db: Database) -> None:
    day = START_TS // 86_400 * 86_400
    await track(db, "btc_usd", since=day)
    await store(db, [row("btc_usd", day), row("btc_usd", day + 3 * 86_400)])
    await store_ranges(db, [range_row("btc_usd", day)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, {"btc_usd": (day, day + 600)}, {})
        await retention.advance_horizons(connection, day + 86_400, day + 5 * 86_400, times.END)
    window = f'ticker: "btc_usd", from: {day}, to: {day + 4 * 86_400}, asOf: "{await version.current(db)}"'
    query = f"{{ coverage({window}) {{ {COVERAGE} }} }}"
    found = await api.data(query)
    await retention.delete_expired(db, day + 5 * 86_400)
    assert await api.data(query) == found


async def test_only_complete_responses_are_cached_for_ever(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    url = f"{api.url}/export?ticker=btc_usd&as_of={await version.current(db)}"
    for headers, status in (({"Range": "bytes=0-9", "If-Match": '"0"'}, 412), ({"Range": "bytes=999999-"}, 416)):
        async with api.session.get(url, headers=headers) as response:
            assert (response.status, response.headers["Cache-Control"]) == (status, "no-store")
    async with api.session.get(url) as response:
        assert "Want-Repr-Digest" in response.headers["Vary"]


async def test_a_stated_version_costs_as_much_as_as_of(api: Api) -> None:
    query = '{ candles(ticker: "btc_usd", interval: ONE_MONTH, from: "2014-01-01", to: "2024-01-01") { ts } }'
    costs = []
    for extensions in ({"cost": True}, {"cost": True, "version": True}):
        async with api.session.post(f"{api.url}/graphql", json={"query": query, "extensions": extensions}) as response:
            costs.append((await response.json())["extensions"]["cost"]["asked"])
    assert costs[1] > costs[0] + 200_000


async def test_rest_reads_as_of_a_version(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n) for n in range(0, 10, 2)])
    data_version = str(await version.current(db))
    paths = [
        f"/prices?ticker=btc_usd&start_date={START_TS + 3600}",
        "/prices/latest?ticker=btc_usd",
        f"/prices/filter?ticker=btc_usd&date_from={START_TS}&date_to={START_TS + 3600}",
        f"/prices/range?ticker=btc_usd&from_ts={START_TS}&limit=3",
        f"/prices/by-date?ticker=btc_usd&date={times.iso(START_TS)[:10]}",
        f"/prices/filtered?ticker=btc_usd&date={START_TS}",
        "/export?ticker=btc_usd&columns=ts,price,source,open,high",
        "/export?ticker=btc_usd&format=jsonl",
    ]

    async def read(path: str) -> tuple[bytes, str | None]:
        async with api.session.get(f"{api.url}{path}&as_of={data_version}") as response:
            assert response.status == 200, await response.text()
            return await response.read(), response.headers.get("X-Coverage")

    first = [await read(path) for path in paths]
    await store(db, [row("btc_usd", START_TS + 60 * n, source=Source.BACKFILL) for n in range(20)])
    await store_ranges(db, [range_row("btc_usd", START_TS)])
    assert [await read(path) for path in paths] == first
    async with api.session.get(f"{api.url}/prices/latest?ticker=btc_usd&as_of=1x") as response:
        assert response.status == 422
        assert "as_of" in (await response.json())["detail"]
