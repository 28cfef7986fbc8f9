"""Failures are isolated: an invalid response affects its ticker only, and a failed job stops no other job."""

import json
import os

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from db.pool import Database
from db.queries import worker_report
from db.rows import Reason
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError
from ingest.jobs.collect import collect
from ingest.jobs.reconcile import JOB_TIMEOUTS_S, reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.simulator.server import Simulator
from tests.sample_data import START_TS, minutes, row, store, track

TICKERS = ("btc_usd", "eth_usd")
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["1e9999999999999999999", "-1e-99999999999999999999", "1" * 5_000, "0e0", "1E+400", "00", "1_000", "Infinity"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=8), st.integers(), st.floats()),
    lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(st.text(max_size=6), children, max_size=4)),
    max_leaves=8,
)


def _price_body(price: object, us_out: object) -> bytes:
    return f'{{"jsonrpc":"2.0","result":{{"index_price":{price}}},"usOut":{us_out},"testnet":false}}'.encode()


def _chart_body(instant: object, price: object) -> bytes:
    return f'{{"jsonrpc":"2.0","result":[[{instant},{price}],[{instant},{price}]],"usOut":{(START_TS + 2) * 10**6}}}'.encode()


BODIES = st.one_of(
    st.binary(max_size=200),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.builds(lambda **parts: json.dumps(parts).encode(), result=VALUES, error=VALUES, usOut=VALUES, testnet=VALUES),
    st.builds(_price_body, NUMBERS, st.one_of(st.just((START_TS + 2) * 10**6), NUMBERS)),
    st.builds(_chart_body, NUMBERS, NUMBERS),
    st.integers(1, 3_000).map(lambda depth: b'{"error":{"code":1,"data":' + b"[" * depth + b"]" * depth + b"}}"),
)


@settings(
    max_examples=12 + int(float(os.environ.get("FUZZ_MINUTES", "0")) * 60),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # bodies are small, and each example runs a collect
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES)
@example(_price_body("1", 1))
@example(_price_body("1e9999999999999999999", (START_TS + 2) * 10**6))
@example(_chart_body((START_TS - 60) * 1000, "1e9999999999999999999"))
@example(b'{"error":{"code":10040,"message":"\\ud800"}}')
@example(b'{"error":{"code":1,"data":' + b"[" * 900 + b"]" * 900 + b"}}")
async def test_no_response_for_one_ticker_stops_other_tickers_or_a_job(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, body: bytes
) -> None:
    await db.execute("TRUNCATE price, gap, tracking, import_period, ticker, change CASCADE")
    if pending := await outbox.prices.fields():
        await outbox.prices.remove((await outbox.prices.read(pending)).entries)
    simulator.clock.set(at=START_TS + 2)
    await track(db, *TICKERS, since=START_TS - 60)
    simulator.raw = {"eth_usd": body}
    watchlist = Watchlist(TICKERS)
    collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox, max_retries=0)
    assert START_TS in await minutes(db, "btc_usd")
    assert set(collected.prices) | set(collected.failures) | set(collected.later_tickers) == set(TICKERS)
    if "eth_usd" in collected.failures:
        assert ("eth_usd", START_TS) in await outbox.read_failures(), "the reason is recorded as evidence"
    await reconcile(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    for name in TICKERS:
        stored, gaps = await minutes(db, name), await db.fetch("SELECT ts FROM gap WHERE ticker = $1", name)
        assert {START_TS - 60} <= {*stored, *(record["ts"] for record in gaps)}, "each minute is stored or a gap"
    for record in await db.fetch("SELECT ts FROM price"):
        assert record["ts"] <= START_TS + 86_400, "no price is stored for a minute more than a day ahead"


async def test_a_failed_job_is_reported_and_the_others_run(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    """No candle can be written. All other jobs run, and `status` shows since when the job has failed."""
    simulator.clock.set(at=START_TS + 2)
    await track(db, *TICKERS, since=START_TS - 120)
    await store(db, [row("btc_usd", START_TS - 120)])
    await db.execute("UPDATE ticker SET candles_from = $1 WHERE name = 'btc_usd'", START_TS // 86_400 * 86_400 + 86_400)
    await db.execute("ALTER TABLE candle ADD CONSTRAINT none CHECK (false) NOT VALID")
    await db.execute("ALTER TABLE price DISABLE TRIGGER price_keeps_candles")
    await outbox.put([row("eth_usd", START_TS - 60)])
    with pytest.raises(JobsFailedError, match="failed: candles"):
        await reconcile(START_TS, watchlist=Watchlist(TICKERS), source=deribit, db=db, outbox=outbox)
    assert await minutes(db, "eth_usd") == [START_TS - 120, START_TS - 60]
    assert await db.fetchval("SELECT count(*) FROM gap") == 2
    assert await db.fetchval("SELECT count(*) FROM gap WHERE filled_at IS NOT NULL") == 2
    (name,) = (jobs := (await outbox.read_report()).jobs)
    assert name == "candles"
    assert jobs[name][0] == START_TS
    report = await worker_report.get(db)
    assert report is not None
    assert (report.queued_prices, report.streams, report.failing_jobs) == (0, 0, [])  # the job failed after the report
    assert report.clock_skew_s is not None
    await db.execute("ALTER TABLE candle DROP CONSTRAINT none")
    simulator.clock.set(at=START_TS + 62)
    await deribit.names()
    await reconcile(START_TS + 60, watchlist=Watchlist(TICKERS), source=deribit, db=db, outbox=outbox)
    assert (await outbox.read_report()).jobs == {}
    assert (report := await worker_report.get(db)) is not None
    assert report.failing_jobs == ["candles"]  # of the minute before


def test_every_job_of_a_minute_has_a_time_budget() -> None:
    assert set(JOB_TIMEOUTS_S) >= {
        "outbox",
        "gaps",
        "backfill",
        "candles",
        "changes",
        "retention",
        "metrics",
        "report",
        "tracking",
    }


async def test_a_response_after_the_minute_is_not_stored_for_that_minute(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulates a paused worker: its last response from the exchange is from before the end of the minute."""
    simulator.clock.set(at=START_TS + 2)
    watchlist = Watchlist(TICKERS)
    await watchlist.tickers(source=deribit)
    simulator.clock.set(at=START_TS + 3_600)
    collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert (collected.prices, collected.failures, set(collected.later_tickers)) == ({}, {}, set(TICKERS))
    assert "was over when Deribit responded for 2 tickers" in caplog.text
    assert Reason.CLOCK not in (await outbox.read_failures()).values()
