"""Throughput of the API, compared with the fastest plain routes over the same tables in the same run.

python -m tests.bench.throughput                     # everything, some minutes
python -m tests.bench.throughput --only latest,last  # some of it
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import http.client
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
from rich.console import Console, Group
from rich.table import Table

from db import migrate
from db.runtime import embedded
from db.runtime.embedded import free_port
from tests.bench import storage
from tests.bench.load import BenchRequest, get, graphql, load
from tests.conftest import ROOT

START_TS = 1_700_000_040
MINUTES = 525_600
TICKERS = 200
"""Number of tickers. Two have a whole year, the others a minute each."""

FILL = """
INSERT INTO price (ticker, ts, price, source)
SELECT ticker, $1 + 60 * minute, trim_scale(round((60000 + 1000 * random())::numeric, 2)), 'LIVE'
  FROM generate_series(0, $2 - 1) AS minute, unnest($3::text[]) AS ticker
"""


@dataclass(frozen=True)
class Workload:
    """The same request to the product and to the floor."""

    name: str
    product: list[BenchRequest]
    floor: list[BenchRequest]
    target: tuple[float | None, float | None]
    """The target ratio, without the response cache and with it."""
    connections: int = 16


def _names() -> list[str]:
    return ["btc_usd", "eth_usd", *(f"t{number:03}_usd" for number in range(TICKERS - 2))]


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.executemany("INSERT INTO ticker (name) VALUES ($1)", [(name,) for name in _names()])
    await connection.executemany(
        "INSERT INTO tracking (ticker, since) VALUES ($1, $2)", [(name, START_TS) for name in _names()]
    )
    await connection.execute(FILL, START_TS, MINUTES, _names()[:2])
    await connection.execute(FILL, START_TS, 1, _names()[2:])
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


@contextlib.contextmanager
def run_server(url: str, port: int, *arguments: str, **settings: str) -> Iterator[psutil.Process]:
    env = os.environ | {"DATABASE_URL": url, "PORT": str(port), "REDIS_URL": "", "LOG_LEVEL": "WARNING"} | settings
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=env)  # noqa: S603  our own command
    try:
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/")
                connection.getresponse()
                break
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def workloads(product: int, floor: int) -> list[Workload]:
    """Returns the workloads of the product and the floor."""
    end = START_TS + 60 * MINUTES
    names = _names()

    def window(minutes: int) -> tuple[list[BenchRequest], list[BenchRequest]]:
        starts = [START_TS + 60 * 997 * number for number in range(50)]
        requests = [
            graphql(product, f'{{ range(ticker: "btc_usd", from: {start}, to: {start + 60 * minutes}) {{ ts price }} }}')
            for start in starts
        ]
        plain = [get(floor, f"/range?ticker=btc_usd&from={start}&to={start + 60 * minutes}") for start in starts]
        assert starts[-1] + 60 * minutes <= end
        return requests, plain

    days = f'candles(ticker: "btc_usd", interval: ONE_DAY, from: {START_TS}, to: {end}) {{ ts open high low close count }}'
    return [
        Workload(
            "latest",
            [graphql(product, f'{{ latest(ticker: "{name}") {{ ts price }} }}') for name in names],
            [get(floor, f"/latest?ticker={name}") for name in names],
            (0.35, 3),
        ),
        Workload(
            "last 100",
            [graphql(product, f'{{ prices(ticker: "{name}", first: 100) {{ nodes {{ ts price }} }} }}') for name in names[:2]],
            [get(floor, f"/last?ticker={name}&count=100") for name in names[:2]],
            (0.5, None),
        ),
        Workload("range 1,440", *window(1_440), (0.75, 2)),
        Workload("range 10,080", *window(10_080), (None, 2)),
        Workload("range 43,200", *window(43_200), (0.9, 2)),
        Workload(
            "days of a year",
            [graphql(product, f"{{ {days} }}")],
            [get(floor, f"/days?ticker=btc_usd&from={START_TS}&to={end}")],
            (None, None),
            connections=4,
        ),
        Workload(
            "latest of two",
            [graphql(product, '{ latestPrices(tickers: ["btc_usd", "eth_usd"]) { ts price } }')],
            [get(floor, "/latest?ticker=btc_usd")],
            (None, None),
        ),
        Workload("new documents", [], [get(floor, "/latest?ticker=btc_usd")], (None, None)),
        Workload(
            "new values",
            [
                graphql(product, f'{{ range(ticker: "btc_usd", from: {at}, to: {at + 6_000}) {{ ts price }} }}')
                for at in range(START_TS, end - 6_000, 6_060)
            ],
            [get(floor, f"/range?ticker=btc_usd&from={at}&to={at + 6_000}") for at in range(START_TS, end - 6_000, 6_060)],
            (None, None),
        ),
    ]


def _new_texts(product: int) -> list[BenchRequest]:
    """Returns requests with documents that the API has not parsed before."""
    prefix = secrets.token_hex(4)
    return [
        graphql(product, f'query q{prefix}_{number} {{ latest(ticker: "btc_usd") {{ ts price }} }}') for number in range(20_000)
    ]


def main() -> None:
    """Prints floor, product, their ratio and the memory of the product, without its response cache and with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per round, for the API and for the floor")
    parser.add_argument("--only", default="", help="beginnings of the workloads' names, separated by commas")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        migrate.upgrade(server.url)
        asyncio.run(_fill(server.url))
        rows, size = asyncio.run(storage.measure_row_size(server.url))
        year = size * 200 * 525_600 / 2**30
        console.print(f"{rows:,} rows, {size:.0f} bytes each with indexes and candles: a year of 200 tickers is {year:.0f} GiB")
        if not options.only:
            begin, minutes = START_TS // 86_400 * 86_400 + 86_400, MINUTES - 2_880
            console.print(asyncio.run(storage.measure_candles(server.url, "eth_usd", begin, minutes)))
            console.print(asyncio.run(storage.measure_snapshots(server.url, "eth_usd", begin, minutes)))
            console.print(asyncio.run(storage.measure_digests(server.url, "eth_usd", begin, 30)))
            console.print(asyncio.run(storage.measure_store(server.url, _names(), START_TS + 60 * MINUTES)))
            console.print(_measure_export(server.url, Path(folder)))
        for cache in (0, 64):
            console.print(f"\nresponse cache: {cache} MB")
            console.print(_measure_all(server.url, cache, options))


def _measure_all(url: str, cache: int, options: argparse.Namespace) -> Table | Group:
    name_prefixes = tuple(options.only.split(",")) if options.only else ("",)
    table = Table("workload", "floor, 1/s", "product, 1/s", "ratio", "target", "p50, ms", "p99, ms", "MB")
    ports = free_port(), free_port()
    floor = ("uvicorn", "tests.bench.floor:app", "--port", str(ports[1]), "--log-level", "warning", "--no-access-log")
    with run_server(url, ports[0], "graph", "serve", ANSWER_CACHE_MB=str(cache)) as process, run_server(url, ports[1], *floor):
        for workload in workloads(*ports):
            if workload.name.startswith(name_prefixes):
                table.add_row(*_measure(workload, options, process, ports[0], 1 if cache else 0))
                print(".", end="", file=sys.stderr, flush=True)
        return table if options.only else Group(table, _measure_latest_under_load(ports[0], options.rounds, process))


def _measure(
    workload: Workload, options: argparse.Namespace, process: psutil.Process, process_port: int, target_index: int
) -> list[str]:
    floors, results = [], []
    for _ in range(options.rounds):
        floors.append(load(workload.floor, workload.connections, options.seconds).rate)
        requests = workload.product or _new_texts(process_port)
        results.append(load(requests, workload.connections, options.seconds))
    floor, product = statistics.median(floors), statistics.median(result.rate for result in results)
    p50, p99 = (statistics.median(result.quantile(part) for result in results) for part in (0.5, 0.99))
    target = workload.target[target_index]
    figures = f"{floor:,.0f}", f"{product:,.0f}", f"{product / floor:.2f}", f"{target or ''}", f"{p50:.1f}", f"{p99:.1f}"
    return [workload.name, *figures, str(process.memory_info().rss >> 20)]


def _measure_latest_under_load(port: int, rounds: int, process: psutil.Process) -> str:
    """Measures the latest price, alone and with eight clients that read large responses."""
    latest_requests = [graphql(port, f'{{ latest(ticker: "{name}") {{ ts price }} }}') for name in _names()]
    large_requests = next(workload for workload in workloads(port, port) if workload.name == "range 43,200").product
    alone_ms, loaded_ms, memory_mb = [], [], 0
    for _ in range(rounds):
        alone_ms.append(load(latest_requests, 2, 1.0).quantile(0.99))
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            loading = pool.submit(load, large_requests, 8, 3.0)
            time.sleep(1.2)
            loaded_ms.append(load(latest_requests, 2, 1.0).quantile(0.99))
            memory_mb = max(memory_mb, process.memory_info().rss >> 20)
            loading.result()
    baseline, measured = statistics.median(alone_ms), statistics.median(loaded_ms)
    return (
        f"latest, p99: alone {baseline:.1f} ms, under load {measured:.1f} ms: {measured / baseline:.1f} times; {memory_mb} MB"
    )


def _measure_export(url: str, folder: Path) -> Table:
    """Measures a year as CSV, with psql and over HTTP."""
    table = Table("a year as CSV", "psql, s", "GET /export, s", "ratio", "first byte, ms", "more memory, MB", "wanted")
    port = free_port()
    copy_s: list[float] = []
    times_s: list[float] = []
    first_byte_s: list[float] = []
    extra_bytes = 0
    psql = str(embedded.postgres_program("psql"))
    query = "SELECT ticker, ts, price, observed_at, source FROM price WHERE ticker = 'btc_usd' ORDER BY ts"
    with run_server(url, port, "graph", "serve") as process:
        for _ in range(5):
            started_at = time.perf_counter()
            subprocess.run([psql, url, "-qc", f"\\copy ({query}) TO '{folder / 'a.csv'}' CSV HEADER"], check=True)  # noqa: S603
            copy_s.append(time.perf_counter() - started_at)
            before = process.memory_info().rss
            started_at = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/export?ticker=btc_usd")
            response = connection.getresponse()
            response.read(10)
            first_byte_s.append(time.perf_counter() - started_at)
            while response.read(1 << 20):
                extra_bytes = max(extra_bytes, process.memory_info().rss - before)
            times_s.append(time.perf_counter() - started_at)
    baseline, measured = statistics.median(copy_s), statistics.median(times_s)
    figures = (
        f"{baseline:.2f}",
        f"{measured:.2f}",
        f"{measured / baseline:.2f}",
        f"{1000 * statistics.median(first_byte_s):.1f}",
        f"{extra_bytes / 2**20:.1f}",
    )
    table.add_row("", *figures, "1.2, 20 ms, 10 MB")
    return table


if __name__ == "__main__":
    main()
