"""`python -m ingest check`, `work`, `schedule` and `healthy`: runs and checks the processes."""

import argparse
import signal
import socket
import sys

import dramatiq.cli
import periodiq
import redis

from db.runtime import embedded_lookup, log, metrics, tracing
from ingest import redis_state
from ingest.middleware import HEARTBEAT_TTL_S, has_local_heartbeat
from ingest.outbox import STREAM, STREAM_STATE_TTL_S
from ingest.settings import Settings

ENTRY_MODULES = ["ingest.broker:broker", "ingest.actors"]


def check_settings(_options: argparse.Namespace) -> int:
    """`check`."""
    return Settings.read().report()


def work(options: argparse.Namespace) -> int:
    """`work`."""
    settings = Settings.read()
    settings.required_broker()
    settings.required_dsn()
    log.configure(settings, "worker")
    arguments = [
        *(*ENTRY_MODULES, "--processes", str(options.processes), "--threads", str(options.threads), "--skip-logging"),
        # On shutdown Dramatiq returns messages to Redis. If Redis is unavailable, it waits ten minutes by default.
        *("--worker-shutdown-timeout", "2000"),
    ]
    if settings.worker_metrics_port and options.processes > 1:
        metrics.enable_multiprocess()
        arguments.append("--use-spawn")  # a forked process inherits the metrics library in its single-process mode
    parser = dramatiq.cli.make_argument_parser()  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped
    return int(dramatiq.cli.main(parser.parse_args(arguments)))  # type: ignore[no-untyped-call]


def schedule(_options: argparse.Namespace) -> int:
    """`schedule`."""
    settings = Settings.read()
    settings.required_broker()
    log.configure(settings, "scheduler")
    tracing.configure("tickgraph scheduler")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # without a handler the process would end before traces are sent
    sys.argv = ["periodiq", *ENTRY_MODULES]
    try:
        periodiq.entrypoint()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        tracing.flush()
    return 0


def check_health(options: argparse.Namespace) -> int:
    """`healthy`."""
    settings = Settings.read()
    try:
        address = settings.broker or embedded_lookup.redis_url(settings) or settings.required_broker()
        with redis.Redis.from_url(address, socket_timeout=2, socket_connect_timeout=2) as client:
            redis_state.require_writable(client)
        outbox_url = embedded_lookup.redis_url(settings) or address
        with redis.Redis.from_url(outbox_url, socket_timeout=2, socket_connect_timeout=2) as client:
            redis_state.require_writable(client)
            has_heartbeat = has_local_heartbeat(client)
            has_stream = next(iter(client.scan_iter(f"{STREAM}{socket.gethostname()}:*")), None) is not None
    except redis.RedisError as error:
        sys.stderr.write(f"REDIS_URL or BROKER_URL: {error}\n")
        return 1
    if options.worker and not has_heartbeat:
        sys.stderr.write(f"no worker of this host sent a heartbeat within {HEARTBEAT_TTL_S} s\n")
        return 1
    if options.stream and not has_stream:
        sys.stderr.write(f"no stream process of this host wrote its state within {STREAM_STATE_TTL_S} s\n")
        return 1
    return 0
