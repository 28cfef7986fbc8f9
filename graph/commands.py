"""The verbs of `python -m graph`."""

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence

import uvicorn

from db import times
from db.pool import open_database
from db.queries import prices, tickers
from db.runtime import embedded_lookup, log, metrics
from graph.engine.tickers import require_known_tickers
from graph.errors import ApiError
from graph.http.protocol import BoundedHttp, BoundedWebSocket
from graph.http.request import MAX_BODY_BYTES
from graph.schema import arguments
from graph.schema.executable import Schema
from graph.settings import Settings


def serve(_options: argparse.Namespace) -> int:
    """`serve`: runs the API on the configured database, or on that of a running `make up`."""
    settings = Settings.read()
    os.environ["DATABASE_URL"] = embedded_lookup.postgres_url(settings)  # for the processes of uvicorn
    log.configure(settings, "api")
    if settings.api_metrics_port and settings.web_concurrency > 1:
        metrics.enable_multiprocess()
    uvicorn.run(
        "graph.app:app",
        host=settings.host,
        port=settings.port,
        workers=settings.web_concurrency,
        log_config=None,
        access_log=False,
        http=BoundedHttp,
        ws=BoundedWebSocket,
        ws_per_message_deflate=False,  # messages are too short to gain from compression
        ws_max_size=4 * MAX_BODY_BYTES,  # bytes; graph.http.socket enforces the lower limit and gives a reason
        proxy_headers=False,  # ForwardedHeadersMiddleware handles them, for TRUSTED_PROXIES
        timeout_graceful_shutdown=3,
    )
    return 0


def check_health(_options: argparse.Namespace) -> int:
    """`healthy`."""
    settings = Settings.read()
    connection = http.client.HTTPConnection(settings.reachable_host, settings.port, timeout=2.5)
    try:
        connection.request("GET", "/health")
        return 0 if connection.getresponse().status == http.HTTPStatus.OK else 1
    except OSError as error:
        sys.stderr.write(f"GET /health on PORT={settings.port} failed: {error}. Is the API running?\n")
        return 1
    finally:
        connection.close()


def print_latest(options: argparse.Namespace) -> int:
    """`latest`."""
    return asyncio.run(_print_latest(Settings.read(), options.tickers))


def print_schema(_options: argparse.Namespace) -> int:
    """`schema`."""
    sys.stdout.write(f"{Schema().as_str()}\n")
    return 0


def generate_key(_options: argparse.Namespace) -> int:
    """`key`."""
    key = secrets.token_urlsafe(24)
    print(f"key for the client: {key}\nfor API_KEYS:       {hashlib.sha256(key.encode()).hexdigest()}")
    return 0


async def _print_latest(settings: Settings, names: Sequence[str]) -> int:
    async with open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph latest") as db:
        try:
            names_to_show = arguments.parse_tickers(names) or await tickers.list_tracked(db)
            # Without tracked tickers, prices may still exist: imported or collected manually.
            names_to_show = names_to_show or [record["name"] for record in await tickers.list_tickers(db, time.time())]
            records = await prices.latest_of_each(db, names_to_show, time.time())
            await require_known_tickers(db, set(names_to_show) - {record["ticker"] for record in records})
        except ApiError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    for record in records:
        print(f"{record['ticker']:<20}{record['price']:>16f}  {times.iso(record['ts'])}  {record['source']}")
    return 0


def check_settings(_options: argparse.Namespace) -> int:
    """`check`."""
    settings = Settings.read()
    listeners = [("PORT", settings.port, "HOST", settings.host)]
    if settings.api_metrics_port:
        listeners.append(("API_METRICS_PORT", settings.api_metrics_port, "METRICS_HOST", settings.metrics_host))
    exit_status, sockets = settings.report(), contextlib.ExitStack()
    for port_name, port, host_name, host in listeners:
        try:
            sockets.enter_context(socket.create_server((host, port), reuse_port=False))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            listener = f"{port_name}={port} on {host_name}={host}"
            sys.stderr.write(f"{listener} cannot be used: {reason}. Set {port_name} or {host_name} to another value.\n")
            exit_status = 1
    sockets.close()
    return exit_status
