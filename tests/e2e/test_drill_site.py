"""The drill of two sites: one loses its network for an hour, then its database for good (`make drill-site`)."""

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from db import migrate, times
from db.pool import open_database
from db.runtime import embedded
from ingest.jobs.digests import update_digests
from ingest.simulator.server import Simulator
from tests.chaos.environment import RestartableServer, Stack
from tests.e2e.conftest import run_verb
from tests.graph.api_server import run_api_process
from tests.proxy import TcpProxy

pytestmark = pytest.mark.slow

TICKERS = ("btc_usd", "eth_usd")
OUTAGE_MINUTES = 60
SETTLE_TIMEOUT_S = 60.0
MINUTES_OF = "SELECT ts, source, price::text AS price, observed_at, peer FROM price WHERE ticker = $1 ORDER BY ts"


@dataclass
class Site:
    """A complete site: PostgreSQL, Valkey, a worker and an API. All its traffic to the outside passes its two proxies."""

    name: str
    folder: Path
    postgres: RestartableServer
    stack: Stack
    exchange: TcpProxy
    peer: TcpProxy
    api_url: str

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.postgres.url)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def has_minute(self, minute: int) -> bool:
        """Returns whether the prices of the minute, and all earlier expected minutes, are stored."""
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            rows = await self.fetch(
                "SELECT count(*) AS n FROM price WHERE ts = $1 AND ticker = ANY ($2)", minute, list(TICKERS)
            )
            return bool(rows[0]["n"] == len(TICKERS))
        return False

    async def has_no_open_gap(self, minute: int) -> bool:
        """Returns whether every expected minute before `minute` is stored."""
        rows = await self.fetch(
            "SELECT (SELECT bool_and(checked_until >= $1) FROM ticker) "
            "AND NOT EXISTS (SELECT FROM gap WHERE filled_at IS NULL) AS is_complete",
            minute,
        )
        return bool(rows[0]["is_complete"])


@contextlib.asynccontextmanager
async def run_site(name: str, folder: Path, rpc_url: str, api_port: int, peer_port: int) -> AsyncIterator[Site]:
    """Runs a site whose peer listens on `peer_port`."""
    await asyncio.to_thread(folder.mkdir)
    port, valkey_port = embedded.free_port(), embedded.free_port()
    exchange, peer = TcpProxy(urlsplit(rpc_url).port or 0), TcpProxy(peer_port)
    postgres = RestartableServer(lambda: embedded.postgres(folder / "postgres", port=port))
    async with contextlib.AsyncExitStack() as cleanup:
        await cleanup.enter_async_context(exchange.serve())
        await cleanup.enter_async_context(peer.serve())
        await postgres.start()
        cleanup.push_async_callback(postgres.stop)
        await asyncio.to_thread(migrate.upgrade, postgres.url)
        settings = {
            "DATABASE_URL": postgres.url,
            "DERIBIT_RPC_URL": f"http://127.0.0.1:{exchange.port}{urlsplit(rpc_url).path}",
            "TICKERS": ",".join(TICKERS),
            "PEERS": f"http://127.0.0.1:{peer.port}",
            "HTTP_MAX_RETRIES": "0",
            "STREAM": "false",
        }
        valkey = RestartableServer(lambda: embedded.valkey(folder / "valkey", port=valkey_port))
        stack = Stack(name, folder, settings, valkey)
        await valkey.start()
        cleanup.push_async_callback(valkey.stop)
        await stack.start_worker()
        cleanup.push_async_callback(stack.kill_worker)
        api = await cleanup.enter_async_context(run_api_process(postgres.url, folder, port=api_port))
        yield Site(name, folder, postgres, stack, exchange, peer, api.url)


@dataclass
class Drill:
    """Two sites and their common exchange, in virtual minutes."""

    simulator: Simulator
    minute: int
    """The current minute."""
    last_minute: int

    async def collect(self, *sites: Site, minutes: int = 1) -> None:
        """Lets the sites collect the next minutes, and waits until each has its prices."""
        for _ in range(minutes):
            await self.publish(*sites)
            for site in sites:
                assert await site.stack.until(partial(site.has_minute, self.minute), SETTLE_TIMEOUT_S), site.name

    async def publish(self, *sites: Site) -> None:
        """Begins the next minute at the sites."""
        self.minute += 60
        assert self.minute < self.last_minute, "the gaps are not filled"
        self.simulator.clock.set(at=self.minute + 2)
        for site in sites:
            assert await site.stack.publish(self.minute)

    async def collect_until_complete(self, site: Site, *others: Site) -> float:
        """Lets the sites collect until the first one has no gap. Returns the duration in seconds."""
        started_at = time.perf_counter()
        is_complete = False
        while not is_complete:
            await self.collect(site, *others)
            is_complete = await site.stack.until(partial(site.has_no_open_gap, self.minute), 10)
        return time.perf_counter() - started_at


async def run(folder: Path, *arguments: str, **settings: str) -> str:
    """Runs a verb that must succeed. Returns its output."""
    status, out, err = await run_verb(folder, *arguments, **settings)
    assert status == 0, out + err
    return out


async def _lose_network(drill: Drill, a: Site, b: Site) -> None:
    """Cuts the first site off for an hour. Afterwards it has the samples of the other one."""
    addresses = a.exchange.target, a.peer.target
    for proxy in (a.exchange, a.peer):
        proxy.switch_to(embedded.free_port())  # nothing listens there
    begin = drill.minute + 60
    for _ in range(OUTAGE_MINUTES):
        await drill.collect(b)
        await a.stack.publish(drill.minute)
    end = drill.minute + 60
    a.exchange.switch_to(addresses[0])
    a.peer.switch_to(addresses[1])
    elapsed_s = await drill.collect_until_complete(a, b)
    here, there = [{r["ts"]: r for r in await site.fetch(MINUTES_OF, "btc_usd")} for site in (a, b)]
    during = [here[ts] for ts in range(begin, end, 60)]
    print(f"\nan hour without a network is filled {elapsed_s:.1f} s later: {dict(Counter(r['source'] for r in during))}")
    assert {r["source"] for r in during} == {"PEER"}
    assert all((r["price"], r["observed_at"]) == (there[r["ts"]]["price"], there[r["ts"]]["observed_at"]) for r in during)


async def _lose_database(drill: Drill, a: Site, b: Site, backup: str, folder: Path) -> None:
    """Deletes the first site's database and rebuilds it from the backup."""
    await a.stack.kill_worker()
    await a.postgres.kill()
    await a.postgres.stop()
    await asyncio.to_thread(shutil.rmtree, a.folder / "postgres" / "data")  # the new server gets the same password
    await drill.collect(b, minutes=5)
    await a.postgres.start()
    await run(folder, "db", "restore", backup, DATABASE_URL=a.postgres.url)
    await a.stack.start_worker()
    elapsed_s = await drill.collect_until_complete(a, b)
    print(f"the database, rebuilt from a backup, is complete {elapsed_s:.1f} s after its restore")


async def test_two_sites_have_one_history_after_an_outage_and_a_lost_database(
    simulator: Simulator, rpc_url: str, tmp_path: Path
) -> None:
    now = int(time.time()) // 60 * 60
    begin = now - 60 * (OUTAGE_MINUTES + 60)
    drill = Drill(simulator, begin, now)
    simulator.clock.set(at=begin + 2)
    port_a, port_b = embedded.free_port(), embedded.free_port()
    async with (
        run_site("a", tmp_path / "a", rpc_url, port_a, port_b) as a,
        run_site("b", tmp_path / "b", rpc_url, port_b, port_a) as b,
    ):
        await drill.collect(a, b, minutes=5)
        await run(tmp_path, "db", "backup", "--output", "a.dump", DATABASE_URL=a.postgres.url)
        await drill.collect(a, minutes=3)  # the other site misses three minutes
        await drill.collect_until_complete(b, a)
        await _lose_network(drill, a, b)
        await _lose_database(drill, a, b, "a.dump", tmp_path)
        for ticker in TICKERS:
            here, there = [await site.fetch(MINUTES_OF, ticker) for site in (a, b)]
            assert [r["ts"] for r in here] == [r["ts"] for r in there] == list(range(here[0]["ts"], drill.minute + 60, 60))
            assert here[0]["ts"] <= begin + 60
            sources = [dict(Counter(r["source"] for r in rows)) for rows in (here, there)]
            print(f"{ticker}: {len(here)} minutes at both sites, from {sources[0]} and {sources[1]}")
        for site, other in ((a, b), (b, a)):
            out = await run(
                tmp_path, "ingest", "compare", "--peer", other.api_url, "--from", str(begin), DATABASE_URL=site.postgres.url
            )
            print(f"\npython -m ingest compare at site {site.name}:\n{out}")
            async with open_database(site.postgres.url, application_name="drill") as db:
                await update_digests(drill.minute + 2 * times.DAY, db)  # as if the days of the drill were over
            verified = await run(tmp_path, "db", "verify", DATABASE_URL=site.postgres.url)
            print(verified)
            assert " 0 digests verified" not in verified
