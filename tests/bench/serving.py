"""How fast the API answers, against the fastest plain routes over the same tables, in the same minutes.

python -m tests.bench.serving                     # everything, some minutes
python -m tests.bench.serving --only latest,last  # some of it
"""

import argparse
import asyncio
import contextlib
import http.client
import os
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
from rich.console import Console
from rich.table import Table

from db import embedded, migrate
from tests.bench.load import Question, get, graphql, load
from tests.conftest import ROOT
from tests.e2e.conftest import free_port

MINUTE = 1_700_000_040
MINUTES = 525_600
TICKERS = 200
"""Two have a whole year; the others a minute each."""

FILL = """
INSERT INTO price (ticker, ts, price, source)
SELECT ticker, $1 + 60 * minute, trim_scale(round((60000 + 1000 * random())::numeric, 2)), 'LIVE'
  FROM generate_series(0, $2 - 1) AS minute, unnest($3::text[]) AS ticker
"""


@dataclass(frozen=True)
class Workload:
    """The same question to both."""

    name: str
    product: list[Question]
    floor: list[Question]
    wanted: float
    connections: int = 16


def _names() -> list[str]:
    return ["btc_usd", "eth_usd", *(f"t{number:03}_usd" for number in range(TICKERS - 2))]


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.executemany("INSERT INTO ticker (name) VALUES ($1)", [(name,) for name in _names()])
    await connection.executemany("INSERT INTO tracking (ticker, since) VALUES ($1, $2)", [(name, MINUTE) for name in _names()])
    await connection.execute(FILL, MINUTE, MINUTES, _names()[:2])
    await connection.execute(FILL, MINUTE, 1, _names()[2:])
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


@contextlib.contextmanager
def _serving(url: str, port: int, *words: str, **settings: str) -> Iterator[psutil.Process]:
    env = os.environ | {"DATABASE_URL": url, "PORT": str(port), "REDIS_URL": "", "LOG_LEVEL": "WARNING"} | settings
    process = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, env=env)  # noqa: S603  our own words
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
    """What is asked of both."""
    end = MINUTE + 60 * MINUTES
    names = _names()

    def window(minutes: int) -> tuple[list[Question], list[Question]]:
        starts = [MINUTE + 60 * 997 * number for number in range(50)]
        asked = [
            graphql(product, f'{{ range(ticker: "btc_usd", from: {start}, to: {start + 60 * minutes}) {{ ts price }} }}')
            for start in starts
        ]
        plain = [get(floor, f"/range?ticker=btc_usd&from={start}&to={start + 60 * minutes}") for start in starts]
        assert starts[-1] + 60 * minutes <= end
        return asked, plain

    return [
        Workload(
            "latest",
            [graphql(product, f'{{ latest(ticker: "{name}") {{ ts price }} }}') for name in names],
            [get(floor, f"/latest?ticker={name}") for name in names],
            0.35,
        ),
        Workload(
            "last 100",
            [graphql(product, f'{{ prices(ticker: "{name}", first: 100) {{ nodes {{ ts price }} }} }}') for name in names[:2]],
            [get(floor, f"/last?ticker={name}&count=100") for name in names[:2]],
            0.5,
        ),
        Workload("range 1,440", *window(1_440), 0.75),
        Workload("range 10,080", *window(10_080), 0.75),
        Workload("range 43,200", *window(43_200), 0.9),
    ]


def main() -> None:
    """Prints a line for each workload: floor, product, their ratio, and what the product used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round of one side")
    parser.add_argument("--only", default="", help="beginnings of the workloads' names, separated by commas")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the product")
    options = parser.parse_args()
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    table = Table("workload", "floor, 1/s", "product, 1/s", "ratio", "wanted", "product p99, ms", "MB")
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        migrate.upgrade(server.url)
        asyncio.run(_fill(server.url))
        ports = free_port(), free_port()
        floor = ("uvicorn", "tests.bench.floor:app", "--port", str(ports[1]), "--log-level", "warning", "--no-access-log")
        with (
            _serving(server.url, ports[0], "graph", "serve", **dict(one.split("=", 1) for one in options.setting)) as process,
            _serving(server.url, ports[1], *floor),
        ):
            for workload in workloads(*ports):
                if workload.name.startswith(wanted):
                    table.add_row(*_measured(workload, options.rounds, options.seconds, process))
                    print(".", end="", file=sys.stderr, flush=True)
    Console().print(table)


def _measured(workload: Workload, rounds: int, seconds: float, process: psutil.Process) -> list[str]:
    rates: tuple[list[float], list[float]] = [], []
    slow = []
    for _ in range(rounds):
        rates[0].append(load(workload.floor, workload.connections, seconds).rate)
        told = load(workload.product, workload.connections, seconds)
        rates[1].append(told.rate)
        slow.append(told.quantile(0.99))
    floor, product = map(statistics.median, rates)
    memory = process.memory_info().rss >> 20
    figures = (
        f"{floor:,.0f}",
        f"{product:,.0f}",
        f"{product / floor:.2f}",
        f"{workload.wanted}",
        f"{statistics.median(slow):.1f}",
    )
    return [workload.name, *figures, str(memory)]


if __name__ == "__main__":
    main()
