"""Throughput beside other servers over the same table: FastAPI, PostGraphile, Mercurius, a bare ASGI application, pgbench.

python -m tests.bench.peers [--rounds 3] [--seconds 2]

Needs the benchmark kit in ../shared/peers, with its servers installed (its README has the commands). Without it, the run is
skipped.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from db.runtime.embedded import free_port
from tests.bench.throughput import run_server
from tests.conftest import ROOT

KIT = ROOT.parent / "shared" / "peers"
DATABASE_URL = "postgresql://postgres@127.0.0.1:55433"
PEERS = ("fastapi", "postgraphile", "mercurius", "bare")
WORKLOADS = "latest,latest2,last100,range1440,range43200,candles"
WINDOW_VARIABLES = {"t": "$ticker", "a": "$from:int", "b": "$to_excl:int"}


def _request(query: str, rows: str, price: str = "price", variables: dict[str, str] | None = None) -> dict[str, object]:
    found: dict[str, object] = {"query": query, "rows": f"data.{rows}", "ts": "ts", "price": price}
    return found if variables is None else found | {"variables": variables}


REQUESTS = {
    "latest": _request("query($t: String!) { latest(ticker: $t) { ticker price ts } }", "latest", variables={"t": "$ticker"}),
    "latest2": _request('{ latestPrices(tickers: ["btc_usd", "eth_usd"]) { ticker price ts } }', "latestPrices"),
    "last100": _request(
        "query($t: String!) { prices(ticker: $t, first: 100) { nodes { ts price } } }",
        "prices.nodes",
        variables={"t": "$ticker"},
    ),
    "range": _request(
        "query($t: String!, $a: UnixTime!, $b: UnixTime!) { range(ticker: $t, from: $a, to: $b) { ts price } }",
        "range",
        variables=WINDOW_VARIABLES,
    ),
    "candles": _request(
        "query($t: String!, $a: UnixTime!, $b: UnixTime!) "
        "{ candles(ticker: $t, interval: ONE_DAY, from: $a, to: $b) { ts open high low close } }",
        "candles",
        "close",
        WINDOW_VARIABLES,
    ),
}


def main() -> int:
    """Loads the kit's rows into a database of their own, starts all servers, and prints the tables of the kit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="seconds of one run")
    options = parser.parse_args()
    if not (KIT / "measure.py").exists():
        print("peers: skipped, because ../shared/peers is not installed")
        return 0
    with contextlib.ExitStack() as stack:
        _run("pg.sh", "init")
        stack.callback(_run, "pg.sh", "stop")
        _run("pg.sh", "start")
        _run("pg.sh", "seed")
        stack.callback(_run, "peers.sh", "stop")
        _run("peers.sh", "start")
        url = f"{DATABASE_URL}/tickgraph_bench"
        _load(url)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {name: stack.enter_context(_product(url, cache)) for name, cache in (("tickgraph", "0"), ("cached", "64"))}
        targets = [str(KIT / "targets" / f"{name}.json") for name in PEERS]
        for name, base in urls.items():
            file = folder / f"{name}.json"
            file.write_text(json.dumps({"name": name, "base": base, "graphql": "/graphql", "requests": REQUESTS}))
            targets.append(str(file))
        measure = [sys.executable, str(KIT / "measure.py"), "--base", "fastapi", "--pgbench", "--workloads", WORKLOADS]
        subprocess.run(  # noqa: S603  the kit's command
            [*measure, "--rounds", str(options.rounds), "--seconds", str(options.seconds), *targets], check=True
        )
        print("\nDocuments with values in their text, each new:", flush=True)
        servers = {f"product_{name}": base for name, base in urls.items()} | {"mercurius": "http://127.0.0.1:5504"}
        _run("fresh.sh", *(f"{name}={base}" for name, base in servers.items()))
    return 0


def _run(script: str, *arguments: str) -> None:
    subprocess.run([str(KIT / script), *arguments], check=True, cwd=KIT)  # noqa: S603  the kit's command


def _load(url: str) -> None:
    admin, _, name = url.rpartition("/")
    psql = ["psql", "-qX", f"{admin}/postgres"]
    for statement in (f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}"):
        subprocess.run([*psql, "-c", statement], check=True)  # noqa: S603  our own statement
    env = os.environ | {"DATABASE_URL": url, "LOG_LEVEL": "WARNING"}
    verbs = [["db", "migrate"]]
    verbs += [
        ["ingest", "import", "--from-dsn", f"{admin}/peers", "--table", "price_ticks", "--ticker", ticker]
        for ticker in ("btc_usd", "eth_usd")
    ]
    for verb in verbs:
        subprocess.run([sys.executable, "-m", *verb], check=True, env=env, cwd=ROOT)  # noqa: S603  our own command
    subprocess.run(["psql", "-qX", url, "-c", "VACUUM ANALYZE"], check=True)  # noqa: S603, S607  our own statement


@contextlib.contextmanager
def _product(url: str, cache_mb: str) -> Iterator[str]:
    port = free_port()
    with run_server(url, port, "graph", "serve", ANSWER_CACHE_MB=cache_mb):
        yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    sys.exit(main())
