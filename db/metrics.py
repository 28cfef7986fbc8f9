"""Metrics for Prometheus, on a port of their own, and which release tells them."""

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

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client shares metrics between processes. It looks when it is imported."""

build = Gauge("tickgraph_build_info", "Which release runs.", ("version", "python"), multiprocess_mode="mostrecent")

log = logging.getLogger(__name__)


def version() -> str:
    """Of this release: the one place that says so is `pyproject.toml`."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def share() -> None:
    """Lets the processes that are started from now on share their metrics."""
    if not os.environ.get(FOLDER):
        os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="tickgraph-metrics-")
        atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a child that was forked has this at its exit, too
        shutil.rmtree(folder, ignore_errors=True)


def serve(host: str, port: int | None) -> None:
    """Serves `/metrics`, of all processes that share theirs. The first of them does it; for the others the port is taken."""
    if port is None:
        return
    build.labels(version(), platform.python_version()).set(1)
    registry = REGISTRY
    if os.environ.get(FOLDER):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        if os.environ.get(FOLDER) and error.errno == errno.EADDRINUSE:
            log.info("port %d is taken: one of the other processes serves the metrics of all, if it is no stranger", port)
        else:
            log.warning("metrics are not served on port %d: %s; set another port", port, error.strerror)


def leave() -> None:
    """What this process counted stays; what it was in the middle of goes."""
    if os.environ.get(FOLDER):
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
