"""The verbs of `python -m graph`."""

import argparse
import contextlib
import hashlib
import http.client
import os
import secrets
import socket
import sys

import uvicorn

from db.runtime import embedded_lookup, log, metrics
from graph.http.protocol import BoundedHttp, BoundedWebSocket
from graph.http.request import MAX_BODY_BYTES
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


def generate_key(_options: argparse.Namespace) -> int:
    """`key`."""
    key = secrets.token_urlsafe(24)
    print(f"key for the client: {key}\nfor API_KEYS:       {hashlib.sha256(key.encode()).hexdigest()}")
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
