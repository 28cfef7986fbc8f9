"""Runs `make` verbs as a user does, and Chromium. Finds the processes of a verb by a variable in their environment."""

import asyncio
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from db.runtime.embedded import free_port
from tests.conftest import ROOT
from tests.wait import WAIT_TIMEOUT_S, wait_until

CHROMIUM = shutil.which("chromium")
OPENSSL = shutil.which("openssl")
expect.set_options(timeout=20_000)  # the default of 5 s is too short for a slow machine


def create_certificate(folder: Path, name: str) -> None:
    """Creates a self-signed certificate of 127.0.0.1: `<name>.crt` and `<name>.key`."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    command = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603  our own command
    (folder / f"{name}.key").chmod(0o644)  # for a server that runs as another user


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """A Chromium for the tests of a module. To start one for each test would take a second each."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )
        yield browser
        await browser.close()


@pytest.fixture
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """A Chromium without pages. Each page that a test opens with `new_page` has its own storage and cache."""
    yield chromium
    for context in chromium.contexts:
        await context.close()


class MakeProcess:
    """A running `make` verb with its own terminal."""

    def __init__(self, folder: Path, port: int, env: dict[str, str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.mark = f"TICKGRAPH_RUN={uuid.uuid4().hex}"
        self._log = folder / f"{self.mark[-8:]}.log"
        name, _, value = self.mark.partition("=")
        self._env = {**os.environ, "DATA_DIR": str(folder / "data"), "PORT": str(port), **env, name: value}

    async def start(self, verb: str) -> None:
        """Starts `make` behind a pseudo terminal, so that Ctrl-C works as it does for a user."""
        self._terminal, child = pty.openpty()
        with self._log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *("make", "-C", str(ROOT), verb),
                env=self._env,
                stdin=child,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_take_terminal,
            )
        os.close(child)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def processes(self) -> dict[int, str]:
        """Returns the command line of each process of the run, by its id."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:
                        found[int(folder.name)] = command
        return found

    def pid_of(self, part: str) -> int:
        return next(pid for pid, command in self.processes().items() if part in command and "setpriv" not in command)

    async def wait_for_output(self, text: str) -> None:
        await wait_until(lambda: text in self.output, describe_state=lambda: self.output)

    async def wait_until_ended(self) -> None:
        """Waits until no process of the run is left."""
        await wait_until(
            lambda: not self.processes(),
            describe_state=lambda: f"still running: {self.processes()}\n{self.output}",
        )

    def kill(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._terminal)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


RunMake = Callable[..., "contextlib.AbstractAsyncContextManager[MakeProcess]"]


@pytest.fixture
def run_make(tmp_path: Path, rpc_url: str) -> RunMake:
    """Returns a function that runs a `make` verb (`up` by default) against the test's simulator."""

    @contextlib.asynccontextmanager
    async def start(verb: str = "up", port: int | None = None, **env: str) -> AsyncIterator[MakeProcess]:
        run = MakeProcess(tmp_path, port or free_port(), {"DERIBIT_RPC_URL": rpc_url, **env})
        await run.start(verb)
        try:
            yield run
        finally:
            run.kill()
            await run.process.wait()

    return start


async def run_verb(folder: Path, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Runs a verb of one of the three command lines in the folder. Returns its exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    # As long as several others, because a test may run them while this one waits.
    out, err = await asyncio.wait_for(process.communicate(), 10 * WAIT_TIMEOUT_S)
    return process.returncode or 0, out.decode(), err.decode()
