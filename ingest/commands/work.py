"""`python -m ingest check`, `work`, `schedule` and `healthy`: the processes, and whether they run."""

import argparse
import signal
import sys

import dramatiq.cli
import periodiq
import redis

from db import cli, log, metrics, running, tracing
from ingest import redis_state
from ingest.commands.arguments import Verbs, verb
from ingest.middleware import HEARTBEAT_KEPT_S, beats_here
from ingest.settings import Settings

WORKER = ["ingest.broker:broker", "ingest.actors"]


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """Their arguments."""
    verb(verbs, "check", _check, "read the settings and say what is wrong with them", "check")
    work = verb(verbs, "work", _work, "run a worker until stopped", "work --threads 4")
    work.add_argument("--processes", type=int, default=1, help="worker processes (%(default)s)")
    work.add_argument("--threads", type=int, default=4, help="messages at once in each (%(default)s)")
    verb(verbs, "schedule", _schedule, "send a message every minute until stopped", "schedule")
    healthy = verb(
        verbs, "healthy", _healthy, "exit with 0 if the queue of messages takes messages; for containers", "healthy --worker"
    )
    healthy.add_argument("--worker", action="store_true", help="and if a worker of this host runs")


def _check(_options: argparse.Namespace) -> int:
    return cli.tell(Settings.read())


def _work(options: argparse.Namespace) -> int:
    settings = Settings.read()
    settings.required_broker()
    settings.required_dsn()
    log.configure(settings, "worker")
    arguments = [
        *(*WORKER, "--processes", str(options.processes), "--threads", str(options.threads), "--skip-logging"),
        # Shutting down waits for Redis to take messages back, by default for ten minutes should Redis be gone.
        *("--worker-shutdown-timeout", "2000"),
    ]
    if settings.worker_metrics_port and options.processes > 1:
        metrics.share()
        arguments.append("--use-spawn")  # for a forked process would have looked already
    parser = dramatiq.cli.make_argument_parser()  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
    return int(dramatiq.cli.main(parser.parse_args(arguments)))  # type: ignore[no-untyped-call]


def _schedule(_options: argparse.Namespace) -> int:
    settings = Settings.read()
    settings.required_broker()
    log.configure(settings, "scheduler")
    tracing.begin("tickgraph scheduler")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # periodiq leaves that to the system, and nothing would be sent
    sys.argv = ["periodiq", *WORKER]
    try:
        periodiq.entrypoint()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        tracing.end()
    return 0


def _healthy(options: argparse.Namespace) -> int:
    settings = Settings.read()
    try:
        address = settings.broker or running.redis_of(settings) or settings.required_broker()
        with redis.Redis.from_url(address, socket_timeout=2, socket_connect_timeout=2) as client:
            redis_state.require_writable(client)
        prices = running.redis_of(settings) or address
        with redis.Redis.from_url(prices, socket_timeout=2, socket_connect_timeout=2) as client:
            redis_state.require_writable(client)
            beats = beats_here(client)
    except redis.RedisError as error:
        sys.stderr.write(f"REDIS_URL: {error}\n")
        return 1
    if options.worker and not beats:
        sys.stderr.write(f"no worker of this host said within {HEARTBEAT_KEPT_S} s that it runs\n")
        return 1
    return 0
