"""Peers: their live prices fill gaps, and nothing that a peer answers does harm."""

import asyncio
import contextlib
import datetime as dt
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from db.pool import Database, open_database
from db.queries import coverage, gaps, peers, prices, write_lock
from db.rows import PriceRow, Source
from graph.settings import Settings as GraphSettings
from ingest.deribit.client import Deribit
from ingest.jobs import peers as peer_jobs
from ingest.jobs.backfill import backfill
from ingest.jobs.peers import PeerComparer, compare_day, fill_from_peers
from ingest.outbox import Outbox
from ingest.peers import Peer, PeerError, open_peers, parse_response
from ingest.settings import Settings
from ingest.simulator.server import Simulator
from tests.e2e.conftest import run_verb
from tests.graph.conftest import run_api
from tests.sample_data import START_TS, row, store, track

DAY = START_TS // 86_400 * 86_400
KEY = "a key of the peer"


def minute(number: int) -> int:
    return START_TS + 60 * number


@pytest.fixture
async def there(servers: Any, databases: Any) -> AsyncIterator[tuple[str, Database]]:
    """The database of another site."""
    name = await databases.acquire()
    dsn = servers.dsn_of(name)
    async with open_database(dsn, application_name="tests") as database:
        yield dsn, database
    await databases.release(name)


@contextlib.asynccontextmanager
async def connect(*urls: str) -> AsyncIterator[list[Peer]]:
    async with open_peers(Settings(peers=urls)) as opened:
        yield opened


async def _open_gaps(db: Database, low: int, high: int) -> list[tuple[str, int]]:
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, {"btc_usd": (low, high)}, {})
    return await gaps.unfilled(db, "btc_usd", low, high, 100_000)


async def test_a_gap_gets_the_live_price_of_a_peer_before_an_average(
    db: Database, there: tuple[str, Database], deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    now = int(time.time()) // 60 * 60
    simulator.clock.set(at=now + 2)
    begin = now - 30 * 60
    for site in (db, there[1]):
        await track(site, "btc_usd", since=begin)
    kept = [begin + 60 * n for n in (0, 29)]
    await store(db, [row("btc_usd", ts, "100") for ts in kept])
    samples = {begin + 60 * n: Decimal(100) + Decimal(n) / 100 for n in range(1, 20)}
    await store(there[1], [row("btc_usd", ts, str(price), at_s=17.25) for ts, price in samples.items()])
    await store(there[1], [row("btc_usd", begin + 60 * 20, "100", source=Source.BACKFILL)])
    await _open_gaps(db, begin, now)
    async with run_api(GraphSettings(database_url=there[0])) as api, connect(api.url) as opened:
        result = await backfill(now, source=deribit, db=db, outbox=outbox, peers=opened)
        stored = {r["ts"]: r for r in await prices.window(db, "btc_usd", begin, now, newest_first=False)}
    assert result.filled == 28
    for ts, price in samples.items():
        assert (stored[ts]["source"], stored[ts]["price"], stored[ts]["peer"]) == ("PEER", price, api.url)
        assert stored[ts]["observed_at"] == ts * 10**6 + 17_250_000
    assert {stored[begin + 60 * n]["source"] for n in range(20, 29)} == {"BACKFILL"}, "an average of a peer is never taken"
    counts = await coverage.count(db, "btc_usd", begin, now, now)
    assert (counts.live, counts.from_peers, counts.backfilled, counts.missing) == (2, 19, 9, 0)


async def test_two_sites_do_not_echo_what_they_took_from_each_other(db: Database, there: tuple[str, Database]) -> None:
    other = there[1]
    for site in (db, other):
        await track(site, "btc_usd")
        await store(site, [row("btc_usd", minute(n)) for n in (0, 9)])
    await store(other, [row("btc_usd", minute(1))])
    taken = PriceRow(ticker="btc_usd", ts=minute(2), price=100, observed_at=None, source="PEER", peer="https://c.example.org")
    await store(other, [taken, row("btc_usd", minute(3), source=Source.IMPORT)])
    missing = await _open_gaps(db, START_TS, minute(10))
    async with run_api(GraphSettings(database_url=there[0])) as api, connect(api.url) as opened:
        assert (await fill_from_peers(missing, opened, db)).filled == {("btc_usd", minute(1))}


async def test_a_ticker_that_a_peer_does_not_have_concerns_no_other(db: Database, there: tuple[str, Database]) -> None:
    await track(db, "ada_usd", "btc_usd", since=DAY)
    await track(there[1], "btc_usd", since=DAY)
    await store(db, [row(ticker, minute(n)) for ticker in ("ada_usd", "btc_usd") for n in (0, 3)])
    await store(there[1], [row("btc_usd", minute(n)) for n in range(4)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, dict.fromkeys(["ada_usd", "btc_usd"], (START_TS, minute(4))), {})
    missing = [(ticker, minute(n)) for ticker in ("ada_usd", "btc_usd") for n in (1, 2)]
    async with run_api(GraphSettings(database_url=there[0])) as api, connect(api.url) as opened:
        assert (await fill_from_peers(missing, opened, db)).filled == {("btc_usd", minute(1)), ("btc_usd", minute(2))}
        await PeerComparer(opened).compare(DAY + 86_400 + 900, db)
    found = {comparison.ticker: comparison for comparison in await peers.newest_comparisons(db)}
    assert (found["ada_usd"].only_here, found["ada_usd"].shared, found["btc_usd"].shared) == (2, 0, 4)


async def test_a_site_that_names_itself_as_its_peer_takes_nothing(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", minute(n)) for n in (0, 4)])
    missing = await _open_gaps(db, START_TS, minute(5))
    async with run_api(GraphSettings(database_url=dsn)) as api, connect(api.url) as opened:
        assert (await fill_from_peers(missing, opened, db)).filled == set()


async def test_a_peer_with_keys_gets_its_key(db: Database, there: tuple[str, Database]) -> None:
    await track(there[1], "btc_usd")
    await store(there[1], [row("btc_usd", START_TS)])
    settings = GraphSettings(database_url=there[0], api_keys=(sha256(KEY.encode()).hexdigest(),))
    async with run_api(settings) as api:
        async with open_peers(Settings(peers=(api.url,), peer_keys=(KEY,))) as (peer,):
            assert list(await peer.minutes("btc_usd", DAY, DAY + 86_400)) == [START_TS]
        async with connect(api.url) as (peer,):
            with pytest.raises(PeerError, match="An API key is required"):
                await peer.minutes("btc_usd", DAY, DAY + 86_400)


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def hostile_server(answer: Answer) -> AsyncIterator[str]:
    """Serves the answer to every request."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def entry(
    ts: Any = START_TS + 60, price: Any = "100", observed: Any = "2024-01-15T11:41:01Z", source: Any = "LIVE"
) -> dict[str, Any]:
    return {"ts": ts, "price": price, "observedAt": observed, "source": source}


def body(*entries: Any) -> bytes:
    return orjson.dumps({"data": {"range": list(entries)}})


HOSTILE_BODIES: dict[str, bytes] = {
    "no JSON": b"<html>",
    "another JSON": b"[1]",
    "null": b"null",
    "no data": b'{"data":null}',
    "errors": b'{"errors":[{"message":"no"}]}',
    "odd errors": b'{"errors":{"a":1}}',
    "errors of numbers": b'{"errors":[7]}',
    "not a list": b'{"data":{"range":{"ts":1}}}',
    "a minute that was not requested": body(entry(ts=minute(5_000))),
    "no minute": body(entry(ts=minute(1) + 7)),
    "a text as minute": body(entry(ts="now")),
    "the future": body(entry(ts=2**40)),
    "a negative price": body(entry(price="-1")),
    "zero": body(entry(price="0")),
    "not a number": body(entry(price="NaN")),
    "infinity": body(entry(price="Infinity")),
    "a huge exponent": body(entry(price="1E+999999999")),
    "a tiny exponent": body(entry(price="1E-999999999")),
    "twice the price": body(entry(price="200")),
    "half the price": body(entry(price="50")),
    "no instant": body(entry(observed=None)),
    "an instant of another minute": body(entry(observed="2024-01-15T11:43:01Z")),
    "an instant without a zone": body(entry(observed="2024-01-15T11:41:01")),
    "an unreadable instant": body(entry(observed="soon")),
    "an echo": body(entry(source="PEER")),
    "an average": body(entry(source="BACKFILL")),
    "an unknown source": body(entry(source="DIVINATION")),
    "too many minutes": body(*[entry()] * 2_000),
    "nested as deep as the parser allows": b'{"errors":[{"message":' + b"[" * 1_000 + b"]" * 1_000 + b"}]}",
    "lone surrogates": b'{"errors":[{"message":"\\ud800"}]}',
    "deep nesting": b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


async def test_a_hostile_response_stores_nothing_and_the_next_peer_is_used(db: Database, there: tuple[str, Database]) -> None:
    for site in (db, there[1]):
        await track(site, "btc_usd")
        await store(site, [row("btc_usd", minute(n)) for n in (0, 4)])
    missing = await _open_gaps(db, START_TS, minute(5))
    content = b""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=content, content_type="application/json")

    async with (
        hostile_server(answer) as url,
        run_api(GraphSettings(database_url=there[0])) as api,
        connect(url, api.url) as (hostile, honest),
    ):
        for name, content in HOSTILE_BODIES.items():  # noqa: B007  `answer` sends it
            assert (await fill_from_peers(missing, [hostile], db)).filled == set(), name
        await store(there[1], [row("btc_usd", minute(n), "101") for n in (1, 2)])
        filled, _ = await fill_from_peers(missing, [hostile, honest], db)
        assert filled == {("btc_usd", minute(1)), ("btc_usd", minute(2))}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["data", "range", "ts", "price", "observedAt", "source", "errors", "message"]), s)))  # fmt: skip
def test_any_json_is_a_peer_error_or_valid_minutes(value: Any) -> None:
    try:
        found = parse_response(json.dumps(value).encode())
    except PeerError:
        return
    assert all(one.ts % 60 == 0 and one.price > 0 for one in found)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(1_000):
            await response.write(b" " * 1_000_000)
    return response


async def _bomb(_request: web.Request) -> web.Response:
    return web.Response(
        body=gzip.compress(b" " * 50_000_000), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )


async def _redirect(request: web.Request) -> web.Response:
    return web.Response(status=307, headers={"Location": str(request.url)})


async def _closes(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize("answer", [_endless, _bomb, _redirect, _closes])
async def test_a_peer_that_sends_too_much_or_leads_elsewhere_harms_nothing(db: Database, answer: Answer) -> None:
    await track(db, "btc_usd")
    missing = await _open_gaps(db, START_TS, minute(3))
    async with hostile_server(answer) as url, connect(url) as opened:
        assert (await fill_from_peers(missing, opened, db)).filled == set()


async def test_a_peer_that_hangs_does_not_delay_the_chart_for_long(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_jobs, "FILL_TIMEOUT_S", 0.2)
    await track(db, "btc_usd")
    missing = await _open_gaps(db, START_TS, minute(3))
    hanging = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await hanging.wait()
        return web.Response()

    async with hostile_server(answer) as url, connect(url, url) as opened:
        assert (await fill_from_peers(missing, opened, db)).filled == set()
        hanging.set()


async def test_what_a_responding_peer_has_no_time_for_waits_for_the_next_run(
    db: Database, outbox: Outbox, deribit: Deribit, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_jobs, "FILL_TIMEOUT_S", 5.0)
    now = int(time.time()) // 60 * 60
    simulator.clock.set(at=now + 2)
    lost = now - 600
    names = [f"a{number:02}_usd" for number in range(2 * peer_jobs.MAX_CONCURRENT_REQUESTS)]
    await track(db, *names, since=lost - 60)
    await store(db, [row(name, ts, "100") for name in names for ts in (lost - 60, *range(lost + 60, now, 60))])
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, dict.fromkeys(names, (lost, lost + 60)), {})
    hanging = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if (await request.json())["variables"]["ticker"] not in names[:4]:
            await hanging.wait()
        seen = dt.datetime.fromtimestamp(lost + 17, dt.UTC).isoformat()
        return web.Response(body=body(entry(ts=lost, observed=seen)), content_type="application/json")

    async with hostile_server(answer) as url, connect(url) as opened:
        missing = [(name, lost) for name in names]
        assert await fill_from_peers(missing, opened, db) == (set(missing[:4]), set(missing[4:]))
        monkeypatch.setattr(peer_jobs, "FILL_TIMEOUT_S", 0.2)
        assert await fill_from_peers(missing[4:], opened, db) == (set(), set()), "a peer that fills nothing is not waited for"
        hanging.set()
        monkeypatch.undo()
        result = await backfill(now, source=deribit, db=db, outbox=outbox, peers=opened)
    assert (result.filled, result.remaining) == (len(names) - 4, 0)


async def test_nothing_is_compared_or_stored_before_the_horizon(db: Database, there: tuple[str, Database]) -> None:
    for site in (db, there[1]):
        await track(site, "btc_usd", since=DAY)
    await store(db, [row("btc_usd", minute(n)) for n in (0, 9)])
    await store(there[1], [row("btc_usd", minute(n)) for n in range(10)])
    async with db.transaction() as connection:
        await connection.execute("UPDATE ticker SET horizon = $1 WHERE name = 'btc_usd'", minute(5))
    async with run_api(GraphSettings(database_url=there[0])) as api, connect(api.url) as (peer,):
        found = await compare_day(db, peer, "btc_usd", DAY)
    assert [one.ts for one in found.missing_here] == [minute(n) for n in range(5, 9)]
    async with write_lock.write_transaction(db) as connection:
        stored = await prices.store(connection, [row("btc_usd", minute(n)) for n in (4, 5)])
    assert [one["ts"] for one in stored] == [minute(5)]


async def test_a_ticker_that_cannot_be_compared_keeps_no_other_waiting(db: Database) -> None:
    await track(db, "ada_usd", "btc_usd", since=DAY)

    async def answer(request: web.Request) -> web.Response:
        is_broken = (await request.json())["variables"]["ticker"] == "ada_usd"
        return web.Response(body=b"null" if is_broken else body(), content_type="application/json")

    async with hostile_server(answer) as url, connect(url) as opened:
        await PeerComparer(opened).compare(DAY + 86_400 + 900, db)
    assert [found.ticker for found in await peers.newest_comparisons(db)] == ["btc_usd"]


async def test_minutes_that_may_still_arrive_are_not_compared(dsn: str, db: Database, tmp_path: Any) -> None:
    await track(db, "btc_usd")
    requested: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        requested.append((await request.json())["variables"]["to"])
        return web.Response(body=body(), content_type="application/json")

    today = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 3_600))
    async with hostile_server(answer) as url:
        arguments = ("ingest", "compare", "--peer", url, "--from", today, "--to", "2200-01-01", "--repair")
        status, _, err = await run_verb(tmp_path, *arguments, DATABASE_URL=dsn)
        assert status == 0, err
        assert 0 < max(requested) <= time.time() - 900
        status, _, err = await run_verb(tmp_path, *arguments[:5], "2199-01-01", DATABASE_URL=dsn)
        assert (status, err.count("The last 15 minutes are not compared")) == (2, 1)


async def test_without_a_neighbor_no_price_of_a_peer_is_stored(db: Database, there: tuple[str, Database]) -> None:
    for site in (db, there[1]):
        await track(site, "btc_usd")
    await store(there[1], [row("btc_usd", minute(n)) for n in range(3)])
    missing = await _open_gaps(db, START_TS, minute(3))
    async with run_api(GraphSettings(database_url=there[0])) as api, connect(api.url) as opened:
        assert (await fill_from_peers(missing, opened, db)).filled == set()


async def test_a_comparison_names_what_only_one_site_has_and_what_differs(
    dsn: str, db: Database, there: tuple[str, Database], tmp_path: Any
) -> None:
    for site in (db, there[1]):
        await track(site, "btc_usd", since=DAY)
    await store(db, [row("btc_usd", minute(n), "100") for n in range(10)])
    await store(there[1], [row("btc_usd", minute(n), "100.01", at_s=30) for n in range(2, 8)])
    await store(there[1], [row("btc_usd", minute(8), "100.5", at_s=30), row("btc_usd", minute(9), "1", source=Source.IMPORT)])
    await store(there[1], [row("btc_usd", minute(n), "100") for n in (20, 21, 30)])
    async with run_api(GraphSettings(database_url=there[0])) as api:
        async with connect(api.url) as (peer,):
            found = await compare_day(db, peer, "btc_usd", DAY)
            comparer = PeerComparer([peer])
            await comparer.compare(DAY + 86_400 + 60, db)
            (previous,) = await peers.newest_comparisons(db)
            assert previous.day == DAY - 86_400, "a day is compared 15 minutes after its end"
            await comparer.compare(DAY + 86_400 + 900, db)
            assert await peers.newest_comparisons(db) == [found.result]
        result = found.result
        assert (result.shared, result.only_here, result.only_there) == (8, 2, 3)
        assert (result.median_bps, result.max_bps, result.max_ts) == (Decimal(1), Decimal(50), minute(8))
        assert found.p99_bps == Decimal(50)
        assert found.outliers == [(minute(8), Decimal(100), Decimal("100.5"), Decimal(50))]
        arguments = ("ingest", "compare", "--peer", api.url, "--from", "2024-01-15", "--to", "2024-01-16")
        status, out, err = await run_verb(tmp_path, *arguments, DATABASE_URL=dsn)
        assert status == 1, err
        assert "btc_usd 2024-01-15T11:48:00Z: 100 here, 100.5 there, 50.00 basis points apart" in out
        assert "btc_usd: 2 minutes only there, from 2024-01-15T12:00:00Z to 2024-01-15T12:02:00Z" in out
        status, out, err = await run_verb(tmp_path, *arguments, "--repair", DATABASE_URL=dsn)
        assert status == 0, out + err
        assert len(await prices.window(db, "btc_usd", DAY, DAY + 86_400, newest_first=False)) == 13
        status, out, err = await run_verb(
            tmp_path,
            "ingest",
            "compare",
            "--peer",
            api.url,
            "--from",
            "2024-01-15",
            "--to",
            "2024-01-16",
            DATABASE_URL=there[0],
        )
        assert "all live prices are equal. The peer may be this archive, or a copy of it" in out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peers": "ftp://b"}, "should look like https://b.example.org"),
        ({"peers": "https://user:secret@b.example.org"}, "should look like https://b.example.org"),
        ({"peers": "https://b.example.org", "peer_keys": "a,b"}, "PEER_KEYS has 2 keys, but PEERS has 1 URLs"),
    ],
)
def test_invalid_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**values)


def test_urls_and_keys_are_lists_separated_by_commas() -> None:
    settings = Settings(peers="https://b.example.org/, http://c/tick/graphql", peer_keys="secret,")
    assert settings.peers == ("https://b.example.org", "http://c/tick")
    assert [key.get_secret_value() for key in settings.peer_keys] == ["secret", ""]
