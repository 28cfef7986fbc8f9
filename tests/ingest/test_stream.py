"""The stream against the simulated exchange: every stored range is proved by served ticks, whatever fails."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
import redis.asyncio

from db.pool import Database, open_database
from db.queries import ranges, rejects
from ingest.deribit.channel import stream_url
from ingest.deribit.stream import DeribitStream
from ingest.jobs.drain import drain_ticks
from ingest.jobs.stream import TickRecorder
from ingest.outbox import Outbox, open_outbox
from ingest.simulator.server import Simulator
from ingest.simulator.stream import CONNECTION_FAULTS, TICK_FAULTS
from ingest.ticks import ClockReading, MinuteTicks, StreamMessage, Tick, TickRejection
from tests.sample_data import START_TS, track
from tests.wait import wait_until

RATE = 20.0
"""The exchange's clock runs this many times faster, so that a minute takes three seconds."""


@dataclass
class Stand:
    """A stream process in this process, connected to the simulator."""

    recorder: TickRecorder
    stream: DeribitStream
    received: Counter[str] = field(default_factory=Counter)
    """Ticks by ticker, and rejections by name."""


@asynccontextmanager
async def run_stream(rpc_url: str, db: Database, outbox: Outbox, *tickers: str, rate: float = RATE) -> AsyncIterator[Stand]:
    """Runs everything that `python -m ingest stream` runs."""
    recorder = TickRecorder(db, outbox, tickers, monotonic=lambda: time.monotonic() * rate)
    async with aiohttp.ClientSession() as session:

        def receive(received: StreamMessage) -> None:
            recorder.receive(received)
            stand.received.update(tick.ticker for tick in received.ticks)
            stand.received.update(rejection.value for rejection in received.rejections)

        stand = Stand(recorder, DeribitStream(session, stream_url(rpc_url), receive))
        jobs: list[Awaitable[None]] = [recorder.follow_tickers(), recorder.seal_minutes(), recorder.drain_outbox()]
        tasks = [asyncio.ensure_future(job) for job in (*jobs, stand.stream.run(recorder.tickers))]
        try:
            yield stand
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await recorder.save_all()


class ByHand:
    """A recorder without a connection, whose clocks and ticks are set by the test."""

    def __init__(self, db: Database, outbox: Outbox, *, local_offset_s: float = 0.0) -> None:
        self._elapsed_s = 0.0
        self.recorder = TickRecorder(
            db,
            outbox,
            ["btc_usd"],
            monotonic=lambda: self._elapsed_s,
            wall=lambda: START_TS + self._elapsed_s + local_offset_s,
        )
        self.read_clock()

    def read_clock(self) -> None:
        """Lets a response arrive with the exchange's clock at the start of the minute."""
        self.recorder.receive(StreamMessage(clock=ClockReading(START_TS * 10**6, START_TS * 10**6, START_TS * 10**6)))

    def tick(self, at_ms: int, price: str) -> TickRejection | None:
        """Lets a tick arrive when the exchange published it. Returns why it is no evidence."""
        self._elapsed_s = at_ms / 1_000
        received = StreamMessage(ticks=[Tick("btc_usd", START_TS * 1_000 + at_ms, Decimal(price), 1)])
        self.recorder.receive(received)
        return received.rejections[0] if received.rejections else None


async def stored_range(db: Database) -> Mapping[str, Any]:
    return dict((await ranges.ranges_of(db, [("btc_usd", START_TS)]))["btc_usd", START_TS])


async def check_ranges(db: Database, simulator: Simulator) -> int:
    """Checks that each stored range is proved by served ticks. Returns the number of ranges."""
    served = {(one.ticker, one.at_ms, Decimal(one.price)) for one in simulator.stream.served}
    rows = await db.fetch(
        "SELECT minute_range.*, found.ticks AS json FROM minute_range JOIN minute_ticks AS found USING (ticker, ts)"
    )
    assert len(rows) == await db.fetchval("SELECT count(*) FROM minute_range")
    for row in rows:
        minute = MinuteTicks.from_json(row["ticker"], row["ts"], row["json"])
        for at_ms, price in minute.arrivals:
            assert (row["ticker"], row["ts"] * 1_000 + at_ms, price) in served, "a tick that was never served"
        expected = minute.range().model_dump()
        assert {name: row[name] for name in expected} == expected
    return len(rows)


async def test_minutes_are_watched_and_their_ranges_are_those_of_the_served_ticks(
    rpc_url: str, simulator: Simulator, db: Database, outbox: Outbox
) -> None:
    simulator.clock.set(rate=RATE)
    await track(db, "btc_usd", "eth_usd", since=int(time.time()) // 60 * 60)
    async with run_stream(rpc_url, db, outbox, "btc_usd"):

        async def has_watched_minutes() -> bool:
            return bool(await db.fetchval("SELECT count(DISTINCT ticker) = 2 FROM minute_range WHERE watched_s = 60"))

        await wait_until(has_watched_minutes)
    assert await check_ranges(db, simulator) >= 2
    assert await outbox.ticks.fields() == []


@pytest.mark.parametrize("fault", sorted(set(TICK_FAULTS) - {"stream_close"}))
async def test_after_a_bad_tick_the_others_count(
    rpc_url: str, simulator: Simulator, db: Database, outbox: Outbox, fault: str
) -> None:
    simulator.clock.set(rate=2)  # what counts as late or ahead is two seconds of it
    await track(db, "btc_usd", "eth_usd")
    simulator.fail(fault, index="btc_usd", times=3)
    async with run_stream(rpc_url, db, outbox, "btc_usd", "eth_usd", rate=2) as stand:
        await wait_until(lambda: simulator.faults[0].times == 0)
        before = stand.received.copy()
        await wait_until(lambda: min(stand.received[name] - before[name] for name in ("btc_usd", "eth_usd")) > 5)
    expected = {
        "tick_zero": TickRejection.INVALID,
        "tick_nan": TickRejection.INVALID,
        "tick_wrong_index": TickRejection.INVALID,
        "tick_late": TickRejection.LATE,
        "tick_future": TickRejection.AHEAD,
    }
    for rejection in set(TickRejection) - {TickRejection.FLOOD}:
        if rejection is expected.get(fault):
            assert stand.received[rejection] >= 3
        else:
            assert not stand.received[rejection], rejection
    assert await check_ranges(db, simulator) >= 2


@pytest.mark.parametrize("fault", ["stream_close", *sorted(set(CONNECTION_FAULTS) - {"stream_testnet"})])
async def test_after_a_failure_of_the_connection_ticks_arrive_again(
    rpc_url: str, simulator: Simulator, db: Database, outbox: Outbox, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IDLE_TIMEOUT_S", "RESPONSE_TIMEOUT_S", "REFUSED_INTERVAL_S", "CLOCK_INTERVAL_S", "MAX_CHANNEL_SILENCE_S"):
        monkeypatch.setattr(f"ingest.deribit.channel.{name}", 0.5)
    simulator.clock.set(rate=RATE)
    await track(db, "btc_usd", "eth_usd")
    async with run_stream(rpc_url, db, outbox, "btc_usd", "eth_usd") as stand:
        await wait_until(lambda: stand.received["btc_usd"] > 0)
        connections = simulator.stream.connection_count
        simulator.fail(fault, times=2 if fault == "stream_close" else None)
        match fault:
            case "stream_close" | "stream_silent" | "stream_half_open" | "heartbeat_unanswered":
                await wait_until(lambda: simulator.stream.connection_count > connections)
            case "subscribe_refused" | "channel_missing" | "stream_refused":
                simulator.fail("stream_close", times=1)
                await wait_until(lambda: not stand.stream.is_connected)
        simulator.clear_faults()
        before = stand.received["btc_usd"]
        await wait_until(lambda: stand.received["btc_usd"] > before + 5)
    assert await check_ranges(db, simulator) >= 1


async def test_the_testnet_is_never_evidence(rpc_url: str, simulator: Simulator, db: Database, outbox: Outbox) -> None:
    simulator.clock.set(rate=RATE)
    await track(db, "btc_usd")
    simulator.fail("stream_testnet")
    async with run_stream(rpc_url, db, outbox, "btc_usd") as stand:
        await wait_until(lambda: simulator.stream.connection_count == 1 and not stand.stream.is_connected)
    assert await check_ranges(db, simulator) == 0


async def test_two_processes_that_see_different_ticks_store_the_range_of_one_that_saw_all(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    first, second, whole = ByHand(db, outbox), ByHand(db, outbox), MinuteTicks("btc_usd", START_TS)
    for number in range(60):
        at_ms, price = number * 1_000 + 500, str(100 + number * 7 % 50)
        whole.add(Tick("btc_usd", START_TS * 1_000 + at_ms, Decimal(price), 1))
        (first if number // 20 % 2 else second).tick(at_ms, price)
    first.tick(59_600, "120")
    second.tick(59_600, "120")
    whole.add(Tick("btc_usd", START_TS * 1_000 + 59_600, Decimal(120), 1))
    await first.recorder.save_all()
    assert (await stored_range(db))["watched_s"] < 60
    await second.recorder.save_all()
    found, expected = await stored_range(db), whole.range().model_dump()
    assert {name: found[name] for name in expected} == expected
    assert found["watched_s"] == 60


async def test_ticks_wait_in_the_outbox_while_the_database_is_unavailable(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    async with open_database("postgresql://127.0.0.1:1/none", application_name="test") as unavailable:
        by_hand = ByHand(unavailable, outbox)
        by_hand.tick(1_000, "100")
        await by_hand.recorder.save_all()
    assert len(await outbox.ticks.fields()) == 1
    assert await drain_ticks(outbox, db) == 1
    assert await outbox.ticks.fields() == []
    assert (await stored_range(db))["open"] == 100


async def test_ticks_go_directly_into_the_database_while_redis_is_unavailable(db: Database) -> None:
    await track(db, "btc_usd")
    async with open_outbox("redis://127.0.0.1:1", 10_000) as unavailable:
        by_hand = ByHand(db, unavailable)
        by_hand.tick(1_000, "100")
        await by_hand.recorder.save_all()
    assert (await stored_range(db))["open"] == 100


async def test_an_entry_that_is_no_list_of_ticks_is_set_aside_and_blocks_nothing(
    db: Database, outbox: Outbox, redis_url: str
) -> None:
    await track(db, "btc_usd")
    by_hand = ByHand(db, outbox)
    by_hand.tick(1_000, "100")
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.hset("tickgraph:ticks", mapping={"btc_usd|60|x": "{", "what": "[]", "btc_usd|61|x": "[]"})
    await by_hand.recorder.save_all()
    assert len(await rejects.newest(db, 10)) == 3
    assert (await stored_range(db))["open"] == 100
    assert await outbox.ticks.fields() == []


@pytest.mark.parametrize(
    ("local_offset_s", "database_offset_s", "counts"),
    [(0, None, True), (0, 0, True), (7_200, 0, True), (0, 7_200, True), (7_200, 7_200, False), (7_200, None, False)],
)
async def test_ticks_count_only_while_another_clock_agrees_with_the_exchange(
    db: Database, outbox: Outbox, local_offset_s: int, database_offset_s: int | None, counts: bool
) -> None:
    by_hand = ByHand(db, outbox, local_offset_s=local_offset_s)
    if database_offset_s is not None:
        by_hand.recorder.clock.observe_database(START_TS + database_offset_s)
    by_hand.read_clock()
    assert by_hand.tick(1_000, "100") is (None if counts else TickRejection.CLOCK)


async def test_a_wrong_clock_in_one_response_seals_no_minute(db: Database, outbox: Outbox) -> None:
    by_hand = ByHand(db, outbox)
    by_hand.tick(1_000, "100")
    ahead_us = (START_TS + 1_800) * 10**6
    by_hand.recorder.receive(StreamMessage(clock=ClockReading(ahead_us, START_TS * 10**6 + 10**6, START_TS * 10**6 + 10**6)))
    assert by_hand.tick(2_000, "100") is None


async def test_a_late_tick_of_one_ticker_moves_no_clock(db: Database, outbox: Outbox) -> None:
    by_hand = ByHand(db, outbox)
    assert by_hand.tick(10_000, "100") is None
    late = StreamMessage(ticks=[Tick("eth_usd", START_TS * 1_000 + 4_500, Decimal(7), 1)])
    by_hand.recorder.receive(late)
    assert late.rejections == []
    assert by_hand.tick(10_500, "100") is None


async def test_a_first_response_far_from_all_other_clocks_counts_only_if_the_next_one_confirms_it(
    db: Database, outbox: Outbox
) -> None:
    elapsed_s = 0.0
    recorder = TickRecorder(db, outbox, [], monotonic=lambda: elapsed_s, wall=lambda: START_TS + 1_800.0 + elapsed_s)
    for _ in range(2):  # the exchange is right, this host is half an hour ahead
        assert recorder.trusted_now() is None
        now_us = int((START_TS + elapsed_s) * 10**6)
        recorder.receive(StreamMessage(clock=ClockReading(now_us, now_us + 1_800 * 10**6, now_us + 1_800 * 10**6)))
        elapsed_s += 10.0
    assert recorder.trusted_now() == START_TS + 20.0
