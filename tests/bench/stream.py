"""A day of many tickers at a tick a second through the stream process, in virtual time, without a network.

python -m tests.bench.stream                 # a day of 200 tickers
python -m tests.bench.stream --minutes 60 --tickers 1000

The messages pass the same code as in `python -m ingest stream`: parsing, collecting, sealing, outbox, PostgreSQL. It prints the
share of one CPU that this takes, the memory after ten minutes and at the end, and an estimate of the number of tickers with
which one process is full.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress

from db import migrate
from db.pool import open_database
from db.queries import ranges, tracking, write_lock
from db.runtime import embedded
from ingest.deribit.channel import CHANNEL_PREFIX, ChannelSubscriptions
from ingest.jobs.stream import TickRecorder
from ingest.outbox import open_outbox

BEGIN = 1_704_067_200
"""2024-01-01T00:00:00Z."""
TICKS_RETENTION_S = 600


class VirtualTime:
    """Seconds since the start of the run, as the exchange, this host and the monotonic clock count them."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def monotonic(self) -> float:
        return self.elapsed_s

    def wall(self) -> float:
        return BEGIN + self.elapsed_s


async def run(dsn: str, redis_url: str, minutes: int, tickers: int, console: Console) -> bool:
    """Runs the minutes, and prints the figures. Returns whether every tick is part of a stored range."""
    names, virtual, process = [f"index_{number}" for number in range(tickers)], VirtualTime(), psutil.Process()
    async with (
        open_database(dsn, application_name="bench") as db,
        open_outbox(redis_url, 5_000_000) as outbox,
    ):
        async with write_lock.write_transaction(db) as connection:
            await tracking.begin_periods(connection, dict.fromkeys(names, BEGIN))
        recorder = TickRecorder(db, outbox, names, monotonic=virtual.monotonic, wall=virtual.wall)
        channels = ChannelSubscriptions(0.0)
        channels.set_tickers(names)
        respond(channels, recorder, virtual)
        cpu_s, memory = [], []
        with Progress(console=console) as progress:
            task = progress.add_task("minutes", total=minutes)
            for minute in range(minutes):
                texts = [
                    tick_text(name, BEGIN + 60 * minute + second, number)
                    for second in range(60)
                    for number, name in enumerate(names)
                ]
                before = time.process_time()
                for number, text in enumerate(texts):
                    virtual.elapsed_s = 60 * minute + number // tickers + 0.5
                    recorder.receive(channels.receive(text, virtual.elapsed_s, int(virtual.wall() * 10**6)))
                virtual.elapsed_s = 60 * (minute + 1) + 3.0
                await recorder.save_all()
                cpu_s.append(time.process_time() - before)
                respond(channels, recorder, virtual)
                if minute % 10 == 9:
                    async with write_lock.write_transaction(db) as connection:
                        await connection.execute("UPDATE minute_ticks SET stored_at = 0")
                        while await ranges.delete_old_ticks(connection, TICKS_RETENTION_S):
                            pass
                    memory.append(process.memory_info().rss / 2**20)
                progress.advance(task)
        stored, ticks = await db.fetchrow("SELECT count(*), sum(ticks) FROM minute_range WHERE watched_s >= 59") or (0, 0)
        share = statistics.median(cpu_s) / 60
        console.print(
            f"{tickers} tickers, {minutes:,} minutes: {stored:,} of {tickers * minutes:,} ranges, {ticks:,} of "
            f"{60 * tickers * minutes:,} ticks; {share:.1%} of one CPU, so one process is full at about "
            f"{int(tickers / share):,} tickers; memory {memory[0]:.0f} MB after ten minutes, {memory[-1]:.0f} MB at the end",
            highlight=False,
            soft_wrap=True,
        )
        return bool(stored == tickers * minutes and ticks == 60 * tickers * minutes)


def respond(channels: ChannelSubscriptions, recorder: TickRecorder, virtual: VirtualTime) -> None:
    """Answers all requests of the connection, as the exchange does."""
    while messages := channels.due_messages(virtual.elapsed_s, int(virtual.wall() * 10**6)):
        for text in messages:
            request = json.loads(text)
            result = request["params"].get("channels", "ok")
            response = {"id": request["id"], "result": result, "usOut": int(virtual.wall() * 10**6)}
            recorder.receive(channels.receive(json.dumps(response), virtual.elapsed_s, int(virtual.wall() * 10**6)))
        virtual.elapsed_s += 0.5


def tick_text(name: str, second: int, number: int) -> str:
    """Returns the message of a tick, half a second into the second."""
    price = 60_000 + (second * 7_919 + number * 104_729) % 100_000 / 100
    data = f'{{"timestamp":{second * 1_000 + 500},"price":{price},"index_name":"{name}"}}'
    params = f'{{"channel":"{CHANNEL_PREFIX}{name}","data":{data}}}'
    return f'{{"jsonrpc":"2.0","method":"subscription","params":{params}}}'


def main() -> int:
    """Parses the arguments and runs the benchmark on its own servers."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=1_440, help="virtual minutes, at least 10 (default: %(default)s)")
    parser.add_argument("--tickers", type=int, default=200, help="tickers with a tick a second (default: %(default)s)")
    options = parser.parse_args()
    os.environ["LOG_LEVEL"] = "ERROR"
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded.postgres(folder / "postgres") as postgres, embedded.valkey(folder / "valkey") as valkey:
            migrate.upgrade(postgres.url)
            complete = asyncio.run(run(postgres.url, valkey.url, options.minutes, options.tickers, console))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
