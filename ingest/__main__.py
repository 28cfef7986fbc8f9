"""`python -m ingest`: the worker, the scheduler, a collect by hand, and the simulator."""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence

import dramatiq.cli
import periodiq
import redis

from db import embedded, log, processes, times
from db.errors import DatabaseError
from db.pool import open_database
from ingest.deribit.client import open_deribit
from ingest.jobs.collect import Collected, collect
from ingest.jobs.watchlist import Watchlist
from ingest.middleware import HEARTBEAT_KEPT_S, heartbeat_key
from ingest.settings import Settings
from ingest.simulator.server import Simulator, serving

WORKER = ["ingest.broker:broker", "ingest.actors"]

EXAMPLES = """examples:
  python -m ingest work --threads 4                        # like `dramatiq ingest.broker:broker ingest.actors`
  python -m ingest schedule                                # like `periodiq ingest.broker:broker ingest.actors`
  python -m ingest collect                                 # the current minute, now, without a queue
  python -m ingest collect --minute 2024-01-15T11:40:00Z   # the exchange only knows now: stored under its own minute
  python -m ingest simulate --port 8090                    # an exchange on http://127.0.0.1:8090/api/v2
  python -m ingest with-simulator -- COMMAND               # the same, with DERIBIT_RPC_URL set for COMMAND
  curl -X POST 127.0.0.1:8090/control/faults -d '{"name": "http_503", "index": "btc_usd", "times": 3}'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ingest", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="read the settings and say what is wrong with them")
    work = verbs.add_parser("work", help="run a worker until stopped")
    work.add_argument("--processes", type=int, default=1, help="worker processes (%(default)s)")
    work.add_argument("--threads", type=int, default=4, help="messages at once in each (%(default)s)")
    healthy = verbs.add_parser("healthy", help="exit with 0 if the queue of messages answers; for containers")
    healthy.add_argument("--worker", action="store_true", help="and if a worker of this host runs")
    verbs.add_parser("schedule", help="send a collect message every minute until stopped")
    once = verbs.add_parser("collect", help="collect a minute now, without a queue, and say what came")
    once.add_argument("--minute", type=_minute, default=None, help="UNIX seconds or ISO 8601 (the current one)")
    simulate = verbs.add_parser("simulate", help="serve a simulated Deribit until stopped")
    simulate.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    simulate.add_argument("--port", type=int, default=8090, help="port to listen on, 0 for any (%(default)s)")
    beside = verbs.add_parser("with-simulator", help="run a command beside a simulated Deribit")
    beside.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    options = parser.parse_args(arguments)
    match options.verb:
        case "simulate":
            return asyncio.run(_simulate(options.host, options.port))
        case "with-simulator":
            command = processes.after_dashes(options.command)
            if not command:
                beside.error("name the command to run, for example: with-simulator -- make up")
            return asyncio.run(_with_simulator(command))
    settings = Settings.read()
    match options.verb:
        case "work":
            return _work(settings, options.processes, options.threads)
        case "schedule":
            return _schedule(settings)
        case "healthy":
            return _healthy(settings, worker=options.worker)
        case "collect":
            log.configure(settings, "collect")
            minute = options.minute if options.minute is not None else times.minute_of(time.time())
            return asyncio.run(_collect(settings, minute))
        case _:
            return 0


def _minute(text: str) -> int:
    try:
        return times.minute_of(times.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _healthy(settings: Settings, *, worker: bool) -> int:
    try:
        with redis.Redis.from_url(settings.required_broker(), socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
            beats = bool(client.exists(heartbeat_key()))
    except redis.RedisError as error:
        sys.stderr.write(f"REDIS_URL: {error}\n")
        return 1
    if worker and not beats:
        sys.stderr.write(f"no worker of this host said within {HEARTBEAT_KEPT_S} s that it runs\n")
        return 1
    return 0


def _work(settings: Settings, worker_processes: int, threads: int) -> int:
    settings.required_broker()
    settings.required_dsn()
    log.configure(settings, "worker")
    arguments = [
        *(*WORKER, "--processes", str(worker_processes), "--threads", str(threads), "--skip-logging"),
        # Shutting down waits for Redis to take messages back, by default for ten minutes should Redis be gone.
        *("--worker-shutdown-timeout", "2000"),
    ]
    parser = dramatiq.cli.make_argument_parser()  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
    return int(dramatiq.cli.main(parser.parse_args(arguments)))  # type: ignore[no-untyped-call]


def _schedule(settings: Settings) -> int:
    settings.required_broker()
    log.configure(settings, "scheduler")
    sys.argv = ["periodiq", *WORKER]
    try:
        periodiq.entrypoint()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


async def _collect(settings: Settings, minute: int) -> int:
    async with (
        open_database(embedded.dsn_of(settings), application_name="tickgraph collect") as db,
        open_deribit(settings) as source,
    ):
        try:
            collected = await collect(
                minute,
                watchlist=Watchlist(settings.tickers),
                source=source,
                db=db,
                max_retries=settings.http_max_retries,
            )
        except DatabaseError:
            return 1
    return _tell(collected)


def _tell(collected: Collected) -> int:
    for ticker, price in sorted(collected.prices.items()):
        print(f"{ticker:<20}{price:>16}")
    for ticker, failure in sorted(collected.failures.items()):
        print(f"{ticker:<20}{'-':>16}  {failure}")
    return 1 if collected.failures else 0


async def _simulate(host: str, port: int) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        async with serving(Simulator(), host, port) as url:
            print(f"DERIBIT_RPC_URL={url}", flush=True)
            await stopped.wait()
    except OSError as error:
        sys.stderr.write(f"--port {port}: {os.strerror(error.errno or 0)}\n")
        return 1
    return 0


async def _with_simulator(command: Sequence[str]) -> int:
    async with serving(Simulator()) as url:
        os.environ["DERIBIT_RPC_URL"] = url
        loop = asyncio.get_running_loop()
        child = processes.start(command)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, child.terminate)
        return await asyncio.to_thread(child.wait)


if __name__ == "__main__":
    sys.exit(main())
