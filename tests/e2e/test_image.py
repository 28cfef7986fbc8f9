"""Checks the shipped image and the compose file on a real Docker. `make check-image` prints the figures."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from db.runtime.embedded import free_port
from tests.conftest import ROOT
from tests.wait import wait_until

SECRET = uuid.uuid4().hex
"""The content of files that must not reach the image."""
EXCLUDED_FILES = (".env", ".git/config", ".tickgraph/postgres/password", "id_rsa")
DRAIN_TIMEOUT_S = 10.0
COMPOSE_EXEC_DB = ("compose", "exec", "-T", "db")
USER_OPTION = ("-U", "tickgraph")


def _docker_is_available() -> bool:
    program = shutil.which("docker")
    return program is not None and subprocess.run([program, "version"], capture_output=True, check=False).returncode == 0  # noqa: S603


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _docker_is_available(), reason="Docker is not available")]


def docker(*arguments: str, stdin: bytes = b"", **env: str) -> bytes:
    """Runs a Docker command and returns its output. Fails with its error output."""
    command = ["docker", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | env, input=stdin, capture_output=True, check=False)  # noqa: S603
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def docker_text(*arguments: str, **env: Any) -> str:
    """Runs a Docker command and returns its output as text."""
    return docker(*arguments, **env).decode().strip()


def copy_repository(folder: Path) -> Path:
    """Copies all tracked files to the folder, as a clone would, and returns it."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    for name in filter(None, tracked.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built in a working folder that contains settings, data and keys."""
    folder = copy_repository(tmp_path_factory.mktemp("work") / "tickgraph")
    for name in EXCLUDED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET)
    tag = f"tickgraph-check:{uuid.uuid4().hex[:8]}"
    docker("build", "-q", "--target", "app", "-t", tag, str(folder))
    yield tag
    docker("image", "rm", "-f", tag)


def test_the_image_runs_unprivileged_and_writes_nothing(image: str) -> None:
    assert docker_text("run", "--rm", "--read-only", "--cap-drop=ALL", image, "id", "-u") == "10001"
    printed_schema = docker_text("run", "--rm", "--read-only", "--cap-drop=ALL", image, "python", "-m", "graph", "schema")
    assert printed_schema.splitlines() == (ROOT / "graph" / "schema.graphql").read_text().splitlines()
    found = docker_text("run", "--rm", "--entrypoint", "sh", image, "-c", "find /app /venv -writable -not -type l | head")
    assert found == "", "the user of the image cannot change the program"


def test_no_layer_contains_a_secret(image: str, tmp_path: Path) -> None:
    docker("save", "-o", str(tmp_path / "image.tar"), image)
    assert SECRET not in docker_text("history", "--no-trunc", image)
    with tarfile.open(tmp_path / "image.tar") as saved:
        saved.extractall(tmp_path / "image", filter="data")
    layers = [path for path in (tmp_path / "image").rglob("*") if path.is_file() and tarfile.is_tarfile(path)]
    assert layers
    for path in layers:
        with tarfile.open(path) as layer:
            for member in filter(tarfile.TarInfo.isfile, layer):
                content = layer.extractfile(member)
                assert content is not None
                assert SECRET.encode() not in content.read(), member.name
                assert not Path(member.name).is_relative_to("app/tests"), member.name
    megabytes = int(docker_text("image", "inspect", "-f", "{{.Size}}", image)) / 1e6
    base = int(docker_text("image", "inspect", "-f", "{{.Size}}", "python:3.13-slim")) / 1e6
    print(f"\nthe image has {megabytes:.0f} MB, {base:.0f} MB of which are the base image")


@contextlib.asynccontextmanager
async def run_compose(folder: Path) -> AsyncIterator[tuple[dict[str, Any], str]]:
    """Runs the compose file with the simulated exchange. Yields its environment and the URL of its API."""
    port = free_port()
    env: dict[str, Any] = {
        "COMPOSE_FILE": str(copy_repository(folder) / "docker-compose.yml"),  # a folder without .env
        "COMPOSE_PROJECT_NAME": f"tickgraph-check-{uuid.uuid4().hex[:8]}",
        "COMPOSE_PROFILES": "demo",
        "DERIBIT_RPC_URL": "http://simulator:8090/api/v2",
        "PUBLISH_PORT": str(port),
    }
    try:
        await asyncio.to_thread(docker, "compose", "up", "--build", "-d", "--wait", **env)
        yield env, f"http://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(docker, "compose", "down", "-v", "-t", "5", **env)


async def test_compose_collects_a_price_drains_its_services_and_restores_a_dump(tmp_path: Path) -> None:
    started_at = time.perf_counter()
    async with run_compose(tmp_path / "tickgraph") as (env, url), aiohttp.ClientSession() as session:

        async def has_price() -> bool:
            async with session.get(f"{url}/prices/last?ticker=btc_usd") as response:
                return response.status == 200

        await wait_until(has_price, timeout_s=90)
        print(f"\nfrom `docker compose up --build` to the first price: {time.perf_counter() - started_at:.0f} s")
        dump = await asyncio.to_thread(docker, *COMPOSE_EXEC_DB, "pg_dump", *USER_OPTION, "--format=custom", "tickgraph", **env)
        async with session.post(
            f"{url}/graphql",
            json={"query": "subscription { priceAdded { id } }"},
            headers={"Accept": "text/event-stream"},
        ) as event_stream:
            assert await event_stream.content.readline() == b"retry: 1000\n"
            for service in ("api", "worker", "scheduler"):
                started_at = time.perf_counter()
                await asyncio.to_thread(docker, "compose", "stop", service, **env)
                elapsed_s = time.perf_counter() - started_at
                container = docker_text("compose", "ps", "-aq", service, **env)
                status = docker_text("inspect", "-f", "{{.State.ExitCode}}", container)
                print(f"{service} has drained in {elapsed_s:.1f} s")
                assert status in ("0", "143"), "ended by itself or by SIGTERM; 137 would mean SIGKILL"
                assert elapsed_s < DRAIN_TIMEOUT_S
    async with _start_empty_database(env):
        restore = ("pg_restore", *USER_OPTION, "-d", "tickgraph", "--no-owner", "--single-transaction", "--exit-on-error")
        await asyncio.to_thread(docker, *COMPOSE_EXEC_DB, *restore, stdin=dump, **env)
        await asyncio.to_thread(docker, "compose", "up", "-d", "--wait", **env)
        await wait_until(lambda: _responds(url, "/prices/last?ticker=btc_usd"))


async def _responds(url: str, path: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status == 200


@contextlib.asynccontextmanager
async def _start_empty_database(env: dict[str, Any]) -> AsyncIterator[None]:
    """Runs PostgreSQL alone, on an empty volume."""
    try:
        await asyncio.to_thread(docker, "compose", "up", "-d", "--wait", "db", **env)
        yield
    finally:
        await asyncio.to_thread(docker, "compose", "down", "-v", "-t", "5", **env)
