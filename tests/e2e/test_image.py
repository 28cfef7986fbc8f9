"""The image as it is shipped, and the compose file, on a real Docker: `make check-image` prints the figures."""

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

from tests.conftest import ROOT
from tests.e2e.conftest import free_port
from tests.waiting import until

SECRET = uuid.uuid4().hex
"""Stands in files that must not reach the image."""
NOT_SHIPPED = (".env", ".git/config", ".tickgraph/postgres/password", "id_rsa")
DRAINED_WITHIN_S = 10.0
IN_DATABASE = ("compose", "exec", "-T", "db")
AS_TICKGRAPH = ("-U", "tickgraph")


def _docker_answers() -> bool:
    program = shutil.which("docker")
    return program is not None and subprocess.run([program, "version"], capture_output=True, check=False).returncode == 0  # noqa: S603


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _docker_answers(), reason="Docker is not here")]


def docker(*words: str, given: bytes = b"", **env: str) -> bytes:
    """What a command of Docker's prints; fails with what it complains of."""
    command = ["docker", *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, input=given, capture_output=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def said(*words: str, **env: Any) -> str:
    """The same as text."""
    return docker(*words, **env).decode().strip()


def copied(folder: Path) -> Path:
    """What a clone of this would have in it, in a folder of its own."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    for name in filter(None, tracked.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built in a folder where somebody works: with settings, data and keys in it."""
    folder = copied(tmp_path_factory.mktemp("work") / "tickgraph")
    for name in NOT_SHIPPED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET)
    tag = f"tickgraph-check:{uuid.uuid4().hex[:8]}"
    docker("build", "-q", "--target", "app", "-t", tag, str(folder))
    yield tag
    docker("image", "rm", "-f", tag)


def test_it_runs_as_nobody_of_importance_and_writes_nothing(image: str) -> None:
    assert said("run", "--rm", "--read-only", "--cap-drop=ALL", image, "id", "-u") == "10001"
    written = said("run", "--rm", "--read-only", "--cap-drop=ALL", image, "python", "-m", "graph", "schema")
    assert written.splitlines() == (ROOT / "graph" / "schema.graphql").read_text().splitlines()
    found = said("run", "--rm", "--entrypoint", "sh", image, "-c", "find /app /venv -writable -not -type l | head")
    assert found == "", "its own user cannot change what it runs"


def test_no_secret_is_in_a_layer_and_its_size_is_told(image: str, tmp_path: Path) -> None:
    docker("save", "-o", str(tmp_path / "image.tar"), image)
    assert SECRET not in said("history", "--no-trunc", image)
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
    megabytes = int(said("image", "inspect", "-f", "{{.Size}}", image)) / 1e6
    base = int(said("image", "inspect", "-f", "{{.Size}}", "python:3.13-slim")) / 1e6
    print(f"\nthe image has {megabytes:.0f} MB, {base:.0f} MB of them the base's")


@contextlib.asynccontextmanager
async def composed(folder: Path) -> AsyncIterator[tuple[dict[str, Any], str]]:
    """The compose file with the simulated exchange, as a project of its own: its environment, and where its API is."""
    port = free_port()
    env: dict[str, Any] = {
        "COMPOSE_FILE": str(copied(folder) / "docker-compose.yml"),  # no .env beside it
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


async def test_from_nothing_to_the_first_price_restored_and_drained(tmp_path: Path) -> None:
    began = time.perf_counter()
    async with composed(tmp_path / "tickgraph") as (env, url), aiohttp.ClientSession() as session:

        async def has_price() -> bool:
            async with session.get(f"{url}/prices/last?ticker=btc_usd") as response:
                return response.status == 200

        await until(has_price, patience_s=90)
        print(f"\nfrom `docker compose up --build` to the first price: {time.perf_counter() - began:.0f} s")
        dump = await asyncio.to_thread(docker, *IN_DATABASE, "pg_dump", *AS_TICKGRAPH, "--format=custom", "tickgraph", **env)
        async with session.post(
            f"{url}/graphql",
            json={"query": "subscription { priceAdded { id } }"},
            headers={"Accept": "text/event-stream"},
        ) as listening:
            assert await listening.content.readline() == b"retry: 1000\n"
            for service in ("api", "worker", "scheduler"):
                began = time.perf_counter()
                await asyncio.to_thread(docker, "compose", "stop", service, **env)
                took = time.perf_counter() - began
                container = said("compose", "ps", "-aq", service, **env)
                status = said("inspect", "-f", "{{.State.ExitCode}}", container)
                print(f"{service} has drained in {took:.1f} s")
                assert status in ("0", "143"), "by itself, or by the SIGTERM; 137 would be killed"
                assert took < DRAINED_WITHIN_S
    async with _empty_database(env):
        restore = ("pg_restore", *AS_TICKGRAPH, "-d", "tickgraph", "--no-owner", "--single-transaction", "--exit-on-error")
        await asyncio.to_thread(docker, *IN_DATABASE, *restore, given=dump, **env)
        await asyncio.to_thread(docker, "compose", "up", "-d", "--wait", **env)
        await until(lambda: _answers(url, "/prices/last?ticker=btc_usd"))


async def _answers(url: str, path: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status == 200


@contextlib.asynccontextmanager
async def _empty_database(env: dict[str, Any]) -> AsyncIterator[None]:
    """PostgreSQL alone, on an empty volume."""
    try:
        await asyncio.to_thread(docker, "compose", "up", "-d", "--wait", "db", **env)
        yield
    finally:
        await asyncio.to_thread(docker, "compose", "down", "-v", "-t", "5", **env)
