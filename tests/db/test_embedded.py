"""Embedded servers: data survives a restart, and each failure is reported in one line."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
import redis

from db.errors import CommandLineError
from db.runtime import embedded
from tests.conftest import ROOT, Servers
from tests.wait import WAIT_TIMEOUT_S

pytestmark = pytest.mark.slow  # each test starts processes


def _psql(url: str, statement: str) -> str:
    psql = str(embedded.postgres_program("psql"))
    return subprocess.run([psql, url, "-qAtc", statement], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def _with_servers(folder: Path, *command: str, options: Sequence[str] = (), **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own commands
        [sys.executable, "-m", "db", "with-servers", *options, *(("--", *command) if command else ())],
        cwd=folder,
        env={**os.environ, "DATA_DIR": str(folder / "data"), "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_TIMEOUT_S,
    )


def test_data_survives_a_restart_and_a_kill(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path) as server:
        _psql(server.url, "CREATE TABLE sample AS SELECT 42 AS value")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with embedded.postgres(tmp_path) as server:
        assert _psql(server.url, "SELECT value FROM sample") == "42"


def test_data_of_another_postgresql_version_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("14\n")
    message = r"DATA_DIR: .* holds data of PostgreSQL 14, and this is PostgreSQL 18"
    with pytest.raises(CommandLineError, match=message), embedded.postgres(tmp_path):
        pass


def test_a_data_folder_is_locked_by_one_process(tmp_path: Path) -> None:
    message = rf"DATA_DIR=.* in use by process {os.getpid()}"
    with embedded.lock_data_dir(tmp_path), pytest.raises(CommandLineError, match=message), embedded.lock_data_dir(tmp_path):
        pass
    with embedded.lock_data_dir(tmp_path):
        pass


def test_other_users_need_the_password(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path) as server:
        assert (tmp_path / "password").stat().st_mode & 0o077 == 0
        password = (tmp_path / "password").read_text()
        with pytest.raises(subprocess.CalledProcessError):
            _psql(server.url.replace(password, "guessed"), "SELECT 1")


def test_a_command_runs_with_migrated_servers_and_its_exit_status_is_returned(tmp_path: Path) -> None:
    result = _with_servers(tmp_path, "sh", "-c", "echo $DATABASE_URL $REDIS_URL; exit 7")
    assert result.returncode == 7, result.stderr
    assert "postgresql://tickgraph:" in result.stdout
    assert "redis://:" in result.stdout


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"DATABASE_URL": "postgres://ann:secret@127.0.0.1:1/x"}, "DATABASE_URL: no connection to postgresql://ann:***@127.0.0.1:1/x"),
        ({"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"}, "POSTGRES_… settings: no connection to postgresql://postgres@127.0.0.1:1"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL: should look like postgresql://user:password@host:5432/name"),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "REDIS_URL: no connection to redis://127.0.0.1:1"),
        ({"DATA_DIR": "/proc/nowhere"}, "DATA_DIR=/proc/nowhere cannot be used"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_reported_in_one_line_that_names_it(tmp_path: Path, env: dict[str, str], line: str) -> None:
    result = _with_servers(tmp_path, "true", **env)
    assert result.returncode == 1
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1, result.stderr
    assert "secret" not in result.stderr


async def test_a_wrong_password_is_reported_without_showing_it(tmp_path: Path, dsn: str) -> None:
    wrong = dsn.replace(dsn.split(":")[2].split("@", maxsplit=1)[0], "guessed")
    result = _with_servers(tmp_path, "true", DATABASE_URL=wrong)
    assert "DATABASE_URL: no connection" in result.stderr
    assert "password authentication failed" in result.stderr
    assert "guessed" not in result.stderr


def test_a_missing_command_prints_an_example(tmp_path: Path) -> None:
    result = _with_servers(tmp_path)
    assert result.returncode == 2
    assert "no command given. Name it after --, for example" in result.stderr


def test_an_interrupted_first_start_does_not_prevent_the_next_one(tmp_path: Path) -> None:
    unfinished = tmp_path / "data.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with embedded.postgres(tmp_path, durable=False) as server:
        assert _psql(server.url, "SELECT 1") == "1"
    assert not unfinished.exists()


def test_a_path_may_contain_spaces_and_quotes(tmp_path: Path) -> None:
    with embedded.valkey(tmp_path / 'a "b" c') as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_the_demo_ignores_the_servers_named_by_settings(tmp_path: Path) -> None:
    env = {"DATABASE_URL": "postgres://real@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1", "POSTGRES_HOST": "127.0.0.1"}
    result = _with_servers(tmp_path, "sh", "-c", "echo $DATABASE_URL $REDIS_URL $BROKER_URL", options=("--demo",), **env)
    assert result.returncode == 0, result.stderr
    database, messages, broker = result.stdout.split()
    assert database.startswith("postgresql://tickgraph:")
    assert messages.startswith("redis://:")
    assert broker == messages


def test_a_missing_database_is_reported_in_one_line(tmp_path: Path, servers: Servers) -> None:
    result = _with_servers(
        tmp_path,
        "true",
        DATABASE_URL=servers.dsn_of("template_tickgraph_unknown"),
        REDIS_URL=servers.redis_url,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("DATABASE_URL: no connection to")
    assert "Traceback" not in result.stderr


async def test_an_unknown_revision_is_reported_in_one_line(tmp_path: Path, servers: Servers, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    result = _with_servers(tmp_path, "true", DATABASE_URL=dsn, REDIS_URL=servers.redis_url)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("DATABASE_URL: ")
    assert "cannot be migrated: Can't locate revision identified by '9999'" in last
    assert "Traceback" not in result.stderr


ORPHAN_PROGRAM = """
import ctypes, signal, sys
from db.runtime import processes

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: this process adopts orphans, as PID 1 does
command = "sh -c 'sleep 0.1 & echo $!' > orphan; while [ -d /proc/$(cat orphan) ]; do sleep 0.05; done"
sys.exit(processes.run(["sh", "-c", command], {}))
"""


def test_finished_orphans_are_reaped(tmp_path: Path) -> None:
    """PID 1 of a container adopts orphans. An orphan that is not reaped stays in /proc and keeps the wait loop spinning."""
    result = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", ORPHAN_PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        timeout=WAIT_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0


def test_only_the_owner_can_read_the_files_of_embedded_servers(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path / "postgres", durable=False), embedded.valkey(tmp_path / "valkey"):
        files = [tmp_path / "postgres" / name for name in ("password", "postgres.log")]
        files += [tmp_path / "valkey" / name for name in ("password", "valkey.conf", "valkey.log")]
        assert {file.name: oct(file.stat().st_mode & 0o777) for file in files} == {file.name: "0o600" for file in files}


def test_a_server_reuses_its_port_after_a_restart(tmp_path: Path) -> None:
    urls = []
    for _ in range(2):
        with (
            embedded.postgres(tmp_path / "postgres", durable=False) as postgres,
            embedded.valkey(tmp_path / "valkey") as valkey,
        ):
            urls.append((postgres.url, valkey.url))
    assert urls[0] == urls[1]
