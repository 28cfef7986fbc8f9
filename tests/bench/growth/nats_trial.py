"""Kills the bridge into NATS JetStream, and NATS itself, at random instants, and compares the stream with the database.

PYTHONPATH=build/nats python -m tests.bench.growth.nats_trial               # three minutes; needs nats-server
PYTHONPATH=build/nats python -m tests.bench.growth.nats_trial --seconds 60 --minutes-per-second 4

`build/nats` is a folder with the package nats-py (see `nats_bridge`). The duplicate window of the stream is one second, shorter
than each interruption. So the result does not depend on the window.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import nats  # type: ignore[import-not-found]  # see above

from db import migrate
from db.pool import Database, open_database
from db.queries import bulk_import, events, gaps, write_lock
from db.queries.prices import HISTORY_EVENT_THRESHOLD
from db.rows import Reason
from db.runtime import embedded
from tests.bench.growth.nats_bridge import STREAM
from tests.conftest import ROOT
from tests.graph.api_server import run_api_process
from tests.sample_data import row, store, track
from tests.wait import wait_until

TICKERS = [f"t{number:03}_usd" for number in range(200)]
START_TS = 1_700_000_040 // 86_400 * 86_400
DUPLICATE_WINDOW_S = 1
MEBIBYTE = 2**20


@dataclass
class Supervised:
    """A process that is killed with SIGKILL and started again."""

    name: str
    command: list[str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    kill_count: int = 0

    async def start(self) -> None:
        """Starts the process."""
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(*self.command, cwd=ROOT, stdout=output, stderr=output)

    async def kill(self) -> None:
        """Kills the process with SIGKILL and waits for its end."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()

    async def interrupt(self) -> None:
        """Kills the process and starts it again after up to three seconds."""
        await self.kill()
        self.kill_count += 1
        await asyncio.sleep(DUPLICATE_WINDOW_S + random.uniform(0, 2))  # noqa: S311  no secret
        await self.start()


@dataclass
class Servers:
    """The processes of the trial, and their addresses."""

    db: Database
    nats_url: str
    nats_server: Supervised
    bridge: Supervised
    log: Path


def main() -> None:
    """Prints the comparison and the rates. Fails if the stream differs from the database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=180, help="duration of the writes (default: %(default)s)")
    parser.add_argument("--minutes-per-second", type=float, default=1.0, help="minutes of 200 tickers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        migrate.upgrade(server.url)
        is_equal = asyncio.run(_run(server.url, Path(folder), options.seconds, options.minutes_per_second))
    if not is_equal:
        raise SystemExit(1)


@contextlib.asynccontextmanager
async def _run_servers(url: str, folder: Path) -> AsyncIterator[Servers]:
    nats_url = f"nats://127.0.0.1:{embedded.free_port()}"
    port = nats_url.rpartition(":")[2]
    async with run_api_process(url, folder) as api, open_database(url, application_name="trial") as db:
        command = ["nats-server", "--jetstream", "--store_dir", str(folder / "nats"), "--addr", "127.0.0.1", "--port", port]
        nats_server = Supervised("nats-server", command, folder / "nats.log")
        bridge_log = folder / "bridge.log"
        bridge = Supervised("bridge", _bridge_command(api.url, nats_url), bridge_log)
        await nats_server.start()
        await bridge.start()
        try:
            yield Servers(db, nats_url, nats_server, bridge, bridge_log)
        finally:
            await bridge.kill()
            await nats_server.kill()


def _bridge_command(api: str, nats_url: str) -> list[str]:
    module = [sys.executable, "-m", "tests.bench.growth.nats_bridge"]
    return [*module, api, nats_url, "--duplicate-window", str(DUPLICATE_WINDOW_S)]


async def _run(url: str, folder: Path, seconds: int, minutes_per_second: float) -> bool:
    async with _run_servers(url, folder) as servers:
        await track(servers.db, *TICKERS, since=START_TS)
        writing = asyncio.create_task(_write(servers, seconds, minutes_per_second))
        await _interrupt_until(writing, servers)
        await writing
        stored = await _stored_ids(servers.db)
        await _wait_for_stream(servers, int(stored[-1]))
        is_equal = await _compare(servers, stored)
        print(f"resumes of the bridge: {servers.log.read_text().count('resumes after')}")
        await _measure_rate(servers, len(stored))
    return is_equal


async def _write(servers: Servers, seconds: int, minutes_per_second: float) -> None:
    """Writes minutes of all tickers, and every tenth minute a large import and a gap that is filled: each kind of event."""
    started_at = time.monotonic()
    number = 0
    while (elapsed_s := time.monotonic() - started_at) < seconds:
        if number > elapsed_s * minutes_per_second:
            await asyncio.sleep(0.02)
            continue
        rows = [row(ticker, START_TS + 60 * number, "100.5") for ticker in TICKERS]
        if number % 10 == 5:
            missing = rows.pop(number % len(TICKERS))
            await store(servers.db, rows)
            await _import_and_open_gap(servers.db, missing.ticker, missing.ts, number)
            rows = [missing]
        await store(servers.db, rows)
        number += 1
        if number % 20 == 0:
            print(f"{elapsed_s:6.0f} s  {number * len(TICKERS):,} prices written", flush=True)


async def _import_and_open_gap(db: Database, ticker: str, ts: int, number: int) -> None:
    low = START_TS - 86_400 * (number + 2)
    imported = [(low + 60 * n, "99.5", None, None, None) for n in range(HISTORY_EVENT_THRESHOLD + 100)]
    async with write_lock.write_transaction(db) as connection:
        await bulk_import.merge(connection, ticker, imported)
        await gaps.open_gaps(connection, {(ticker, ts): Reason.TIMEOUT})


async def _interrupt_until(writing: asyncio.Task[None], servers: Servers) -> None:
    while not writing.done():
        await asyncio.sleep(random.uniform(2, 8))  # noqa: S311
        choice = random.choice(["bridge", "bridge", "nats", "both"])  # noqa: S311
        targets = [servers.bridge] if choice == "bridge" else [servers.nats_server]
        if choice == "both":
            targets = [servers.bridge, servers.nats_server]
        await asyncio.gather(*(target.interrupt() for target in targets))


async def _stored_ids(db: Database) -> list[str]:
    found: list[str] = []
    position, is_last = 0, False
    while not is_last:
        page = await events.read_events_after(db, position, events.MAX_ID)
        found += [record["id"] for record in page.events]
        position, is_last = page.end_position, page.is_last
    return found


async def _wait_for_stream(servers: Servers, last_id: int) -> None:
    async def ends_with_last_id() -> bool:
        return await _last_id(servers.nats_url) == last_id

    await wait_until(ends_with_last_id, describe_state=servers.log.read_text)


async def _last_id(nats_url: str) -> int:
    try:
        async with await nats.connect(nats_url, allow_reconnect=False) as client:
            stream = client.jetstream()
            sequence = (await stream.stream_info(STREAM)).state.last_seq
            return int((await stream.get_msg(STREAM, sequence)).headers["Nats-Msg-Id"]) if sequence else 0
    except (OSError, nats.errors.Error):
        return 0


async def _compare(servers: Servers, stored: list[str]) -> bool:
    """Prints and returns whether the ids of the stream are those of the database, in order and without duplicates."""
    streamed: list[str] = []
    async with await nats.connect(servers.nats_url) as client:
        stream = client.jetstream()
        subscription = await stream.subscribe(f"{STREAM}.>", ordered_consumer=True, pending_bytes_limit=256 * MEBIBYTE)
        count = (await stream.stream_info(STREAM)).state.messages
        while len(streamed) < count:
            message = await subscription.next_msg(10)
            streamed.append(message.headers["Nats-Msg-Id"])
    missing, unknown = len(set(stored) - set(streamed)), len(set(streamed) - set(stored))
    print(f"events in the database: {len(stored):,}; messages in the stream: {len(streamed):,}")
    print(f"missing: {missing}; unknown: {unknown}; duplicates: {len(streamed) - len(set(streamed))}")
    print(f"in the order of ids: {streamed == sorted(streamed, key=int)}; same sequence: {streamed == stored}")
    for target in (servers.bridge, servers.nats_server):
        print(f"{target.name} killed {target.kill_count} times")
    return streamed == stored


async def _measure_rate(servers: Servers, count: int) -> None:
    """Prints how fast a new bridge fills an empty stream with all events."""
    await servers.bridge.kill()
    async with await nats.connect(servers.nats_url) as client:
        await client.jetstream().delete_stream(STREAM)
    await servers.bridge.start()
    started_at = time.monotonic()
    await _wait(lambda: _message_count(servers.nats_url), count)
    print(f"an empty stream: {count / (time.monotonic() - started_at):,.0f} events a second, with the start of the bridge")


async def _wait(read: Callable[[], Awaitable[int]], count: int) -> None:
    async def is_reached() -> bool:
        return await read() >= count

    await wait_until(is_reached)


async def _message_count(nats_url: str) -> int:
    async with await nats.connect(nats_url) as client:
        try:
            return int((await client.jetstream().stream_info(STREAM)).state.messages)
        except nats.js.errors.NotFoundError:
            return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
