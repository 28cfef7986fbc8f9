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

from db import embedded, migrate
from db.pool import Database, open_database
from tests import replicas
from tests.e2e.conftest import free_port
from tests.graph.stand import Stand, api_process
from tests.stored import row, store, track

pytestmark = pytest.mark.slow

NAMES = ("btc_usd", "eth_usd", "sol_usd")
BEHIND_MOST_S = 4.0
ASKING = 8
ALONE_S = 2.0
PATIENCE_S = 60.0


@dataclass
class Load:
    """Somebody who writes and some who ask, all the time."""

    stand: Stand
    metrics_port: int
    committed: list[tuple[float, int]] = field(default_factory=list)
    """When each minute was committed, by the monotonic clock."""
    answers: int = 0
    slowest_s: float = 0.0
    """Of the answers since it was last told."""
    lacked_s: float = 0.0
    """For how long before a question something had been committed that its answer lacked, at most."""

    async def write(self, db: Database, begin: int) -> None:
        """A minute every 50 ms."""
        for number in itertools.count():
            await store(db, [row(name, begin + 60 * number) for name in NAMES])
            self.committed.append((time.monotonic(), begin + 60 * number))
            await asyncio.sleep(0.05)

    async def ask(self, name: str) -> None:
        """Fails where there is no answer, or one that lacks what was committed too long before."""
        while True:
            asked_at = time.monotonic()
            query = {"query": f'{{ latest(ticker: "{name}") {{ ts }} }}'}
            async with self.stand.session.post(f"{self.stand.url}/graphql", json=query) as response:
                answer = await response.json()
            assert "errors" not in answer, answer
            latest = answer["data"]["latest"]
            ts = latest["ts"] if latest else 0  # a replica may lack even the first one for a moment
            self.answers += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - asked_at)
            lacks = bisect.bisect_right(self.committed, ts, key=lambda one: one[1])
            if lacks < len(self.committed):
                self.lacked_s = max(self.lacked_s, asked_at - self.committed[lacks][0])
                assert self.lacked_s < BEHIND_MOST_S

    async def read_by(self) -> Counter[str]:
        """How many answers were read from which server."""
        async with self.stand.session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            found = re.findall(r'tickgraph_reads_by_server_total{server="(\w+)"} (\S+)', await response.text())
        return Counter({name: int(float(count)) for name, count in found})

    async def comes_from(self, server: str, event: str, alone_s: float = ALONE_S) -> None:
        """Waits until all answers of some seconds are read from one server."""
        began = changed = time.monotonic()
        last = await self.read_by()
        while time.monotonic() < changed + alone_s:
            assert time.monotonic() < began + PATIENCE_S
            await asyncio.sleep(0.1)
            now = await self.read_by()
            if any(now[other] > last[other] for other in now if other != server):
                changed = time.monotonic()
            last = now
        print(f"{event}: read from the {server} after {changed - began:.1f} s, the slowest answer took {self.slowest_s:.2f} s")
        self.slowest_s = 0.0


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """A server none of whose processes does anything."""
    server = psutil.Process(pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def test_a_replica_lags_is_killed_and_comes_back_under_load(tmp_path: Path) -> None:
    begin, metrics_port, port = (int(time.time()) - 30 * 86_400) // 60 * 60, free_port(), free_port()
    with contextlib.ExitStack() as servers, contextlib.ExitStack() as standby:
        primary = servers.enter_context(embedded.postgres(tmp_path / "primary"))
        await asyncio.to_thread(migrate.upgrade, primary.url)
        replicas.copied(primary, tmp_path)
        replica = standby.enter_context(replicas.following(tmp_path, port))
        async with (
            open_database(primary.url, application_name="drill") as db,
            api_process(
                primary.url,
                tmp_path,
                DATABASE_READ_URL=replica.url,
                REPLICA_BEHIND_MOST_S=str(BEHIND_MOST_S),
                API_METRICS_PORT=str(metrics_port),
            ) as stand,
            asyncio.TaskGroup() as tasks,
        ):
            await track(db, *NAMES)
            await store(db, [row(name, begin - 60) for name in NAMES])
            load = Load(stand, metrics_port)
            asking = [load.ask(name) for name, _ in zip(itertools.cycle(NAMES), range(ASKING), strict=False)]
            running = [tasks.create_task(one) for one in (load.write(db, begin), *asking)]
            print()
            await load.comes_from("replica", "it streams")
            connection = await asyncpg.connect(replica.url)
            await connection.execute("SELECT pg_wal_replay_pause()")
            await load.comes_from("primary", "it stands still")
            await connection.execute("SELECT pg_wal_replay_resume()")
            await connection.close()
            await load.comes_from("replica", "it goes on")
            with _stopped(replica.process.pid):
                await load.comes_from("primary", "it hangs", alone_s=12)
            await load.comes_from("replica", "it goes on")
            replica.process.kill()
            await load.comes_from("primary", "it was killed")
            standby.close()
            standby.enter_context(replicas.following(tmp_path, port))
            await load.comes_from("replica", "it was started again")
            for task in running:
                task.cancel()
            read = await load.read_by()
            print(f"{len(load.committed):,} commits, {load.answers:,} answers, {dict(read)} of them read from …, none missing")
            print(
                f"an answer lacked at most what was committed {load.lacked_s:.2f} s before; the bound is {BEHIND_MOST_S:.0f} s"
            )
