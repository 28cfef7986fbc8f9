"""The drill with a replica: `make drill-replica` prints the figures."""

import asyncio
import bisect
import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
import pytest

from db import migrate, times
from db.errors import DatabaseUnavailableError
from db.pool import Database, open_database
from db.queries import digests
from db.runtime import embedded
from db.runtime.embedded import free_port
from ingest.jobs.digests import update_digests
from tests import replicas
from tests.e2e.conftest import run_verb
from tests.graph.api_server import ApiProcess, run_api_process
from tests.sample_data import row, store, track
from tests.wait import wait_until

pytestmark = pytest.mark.slow

NAMES = ("btc_usd", "eth_usd", "sol_usd")
MAX_LAG_S = 4.0
READER_COUNT = 8
STABLE_S = 2.0
SWITCH_TIMEOUT_S = 60.0


@dataclass
class Load:
    """A writer and several readers that run all the time."""

    stand: ApiProcess
    metrics_port: int
    committed: list[tuple[float, int]] = field(default_factory=list)
    """When each minute was committed, by the monotonic clock."""
    response_count: int = 0
    slowest_s: float = 0.0
    """The slowest response since the last report."""
    max_staleness_s: float = 0.0
    """The maximum age, at the time of a request, of a commit that its response lacked."""

    async def write(self, db: Database, begin: int) -> None:
        """Stores a minute every 50 ms."""
        for number in itertools.count():
            while True:
                with contextlib.suppress(DatabaseUnavailableError):  # a pause of 10 s inside the transaction ends the session
                    await store(db, [row(name, begin + 60 * number) for name in NAMES])
                    break
                await asyncio.sleep(0.05)
            self.committed.append((time.monotonic(), begin + 60 * number))
            await asyncio.sleep(0.05)

    async def read_latest(self, name: str) -> None:
        """Requests the latest price repeatedly. Fails on an error, or on a response that is staler than the limit."""
        while True:
            requested_at = time.monotonic()
            query = {"query": f'{{ latest(ticker: "{name}") {{ ts }} }}'}
            async with self.stand.session.post(f"{self.stand.url}/graphql", json=query) as response:
                body = await response.json()
            assert "errors" not in body, body
            ts = body["data"]["latest"]["ts"]
            self.response_count += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - requested_at)
            first_missing_index = bisect.bisect_right(self.committed, ts, key=lambda one: one[1])
            if first_missing_index < len(self.committed):
                self.max_staleness_s = max(self.max_staleness_s, requested_at - self.committed[first_missing_index][0])
                assert self.max_staleness_s < MAX_LAG_S

    async def reads_by_server(self) -> Counter[str]:
        """Returns the number of reads from each server."""
        async with self.stand.session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            found = re.findall(r'tickgraph_reads_by_server_total{server="(\w+)"} (\S+)', await response.text())
        return Counter({name: int(float(count)) for name, count in found})

    async def wait_until_read_from(self, server: str, event: str, stable_s: float = STABLE_S) -> None:
        """Waits until all reads of some seconds use one server."""
        started_at = changed_at = time.monotonic()
        last = await self.reads_by_server()
        while time.monotonic() < changed_at + stable_s:
            assert time.monotonic() < started_at + SWITCH_TIMEOUT_S
            await asyncio.sleep(0.1)
            now = await self.reads_by_server()
            if any(now[other] > last[other] for other in now if other != server):
                changed_at = time.monotonic()
            last = now
        print(f"{event}: read from the {server} after {changed_at - started_at:.1f} s, slowest response {self.slowest_s:.2f} s")
        self.slowest_s = 0.0


@contextlib.contextmanager
def _suspended_server(pid: int) -> Iterator[None]:
    """Suspends all processes of a server while the block runs."""
    server = psutil.Process(pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def _verify_replica(db: Database, replica_url: str, folder: Path) -> None:
    """Computes the digests on the primary, and verifies the rows of the replica with them."""
    await update_digests(int(time.time()) + 2 * times.DAY, db)
    newest = await digests.latest_entry(db)
    async with open_database(replica_url, application_name="drill") as replica:

        async def has_caught_up() -> bool:
            return await digests.latest_entry(replica) == newest

        await wait_until(has_caught_up)
    status, out, err = await run_verb(folder, "db", "verify", DATABASE_URL=replica_url)
    print(out)
    assert (status, newest is not None) == (0, True), out + err


async def test_reads_follow_a_replica_that_lags_is_killed_and_is_restarted_under_load(tmp_path: Path) -> None:
    begin, metrics_port, port = (int(time.time()) - 30 * 86_400) // 60 * 60, free_port(), free_port()
    with contextlib.ExitStack() as servers, contextlib.ExitStack() as standby:
        primary = servers.enter_context(embedded.postgres(tmp_path / "primary"))
        await asyncio.to_thread(migrate.upgrade, primary.url)
        async with open_database(primary.url, application_name="drill") as db:
            await track(db, *NAMES)
            await store(db, [row(name, begin - 60) for name in NAMES])
        replicas.copy_primary(primary, tmp_path)
        replica = standby.enter_context(replicas.run_replica(tmp_path, port))
        async with (
            open_database(primary.url, application_name="drill") as db,
            run_api_process(
                primary.url,
                tmp_path,
                DATABASE_READ_URL=replica.url,
                REPLICA_BEHIND_MOST_S=str(MAX_LAG_S),
                API_METRICS_PORT=str(metrics_port),
            ) as stand,
            asyncio.TaskGroup() as tasks,
        ):
            load = Load(stand, metrics_port)
            readers = [load.read_latest(name) for name, _ in zip(itertools.cycle(NAMES), range(READER_COUNT), strict=False)]
            running = [tasks.create_task(one) for one in (load.write(db, begin), *readers)]
            print()
            await load.wait_until_read_from("replica", "streaming")
            connection = await asyncpg.connect(replica.url)
            await connection.execute("SELECT pg_wal_replay_pause()")
            await load.wait_until_read_from("primary", "replay paused")
            await connection.execute("SELECT pg_wal_replay_resume()")
            await connection.close()
            await load.wait_until_read_from("replica", "resumed")
            with _suspended_server(replica.process.pid):
                await load.wait_until_read_from("primary", "suspended", stable_s=12)
            await load.wait_until_read_from("replica", "resumed")
            replica.process.kill()
            await load.wait_until_read_from("primary", "killed")
            standby.close()
            standby.enter_context(replicas.run_replica(tmp_path, port))
            await load.wait_until_read_from("replica", "restarted")
            for task in running:
                task.cancel()
            reads = await load.reads_by_server()
            print(f"{len(load.committed):,} commits, {load.response_count:,} responses, reads {dict(reads)}, no failure")
            print(f"no response lacked a commit older than {load.max_staleness_s:.2f} s; the limit is {MAX_LAG_S:.0f} s")
            await _verify_replica(db, replica.url, tmp_path)
