"""Serves Prometheus metrics on a separate port, and provides the release version."""

import atexit
import errno
import logging
import os
import platform
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that enables multiprocess mode in prometheus_client. The library reads it on import."""

build_info = Gauge("tickgraph_build_info", "Running release.", ("version", "python"), multiprocess_mode="mostrecent")

log = logging.getLogger(__name__)


def version() -> str:
    """Returns the version of this release from `pyproject.toml`."""
    project = Path(__file__).parent.parent.parent / "pyproject.toml"
    return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def enable_multiprocess() -> None:
    """Enables multiprocess mode for the processes that this process starts later."""
    if not os.environ.get(MULTIPROCESS_DIR):
        os.environ[MULTIPROCESS_DIR] = folder = tempfile.mkdtemp(prefix="tickgraph-metrics-")
        atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child runs this handler at exit, too
        shutil.rmtree(folder, ignore_errors=True)


def serve(host: str, port: int | None) -> None:
    """Serves `/metrics`. In multiprocess mode the first process serves the metrics of all; the others find the port in use."""
    if port is None:
        return
    build_info.labels(version(), platform.python_version()).set(1)
    registry = REGISTRY
    if os.environ.get(MULTIPROCESS_DIR):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        if os.environ.get(MULTIPROCESS_DIR) and error.errno == errno.EADDRINUSE:
            log.info("port %d is in use, probably by another Tickgraph process that serves the metrics of all", port)
        else:
            log.warning("cannot serve metrics on port %d: %s. Set another port", port, error.strerror)


def unregister_process() -> None:
    """Removes the live gauges of this process when it exits. Its counters remain."""
    if os.environ.get(MULTIPROCESS_DIR):
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
