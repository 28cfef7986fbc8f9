"""The embedded servers: what is on disk stays, and what is in the way is said in one line."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
import redis

from db import embedded
from db.errors import ServerError
from tests.conftest import ROOT, Servers


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
        timeout=60,
    )


def test_data_survives_a_restart_and_a_kill(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path) as server:
        _psql(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with embedded.postgres(tmp_path) as server:
        assert _psql(server.url, "SELECT answer FROM kept") == "42"


def test_data_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("14\n")
    complaint = r"DATA_DIR: .* holds data of PostgreSQL 14, and this is PostgreSQL 18"
    with pytest.raises(ServerError, match=complaint), embedded.postgres(tmp_path):
        pass


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    complaint = rf"DATA_DIR=.* in use by process {os.getpid()}"
    with embedded.lock_data_dir(tmp_path), pytest.raises(ServerError, match=complaint), embedded.lock_data_dir(tmp_path):
        pass
    with embedded.lock_data_dir(tmp_path):
        pass


def test_other_users_need_the_password(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path) as server:
        assert (tmp_path / "password").stat().st_mode & 0o077 == 0
        password = (tmp_path / "password").read_text()
        with pytest.raises(subprocess.CalledProcessError):
            _psql(server.url.replace(password, "guessed"), "SELECT 1")


def test_a_command_runs_beside_migrated_servers_and_its_status_is_ours(tmp_path: Path) -> None:
    done = _with_servers(tmp_path, "sh", "-c", "echo $DATABASE_URL $REDIS_URL; exit 7")
    assert done.returncode == 7, done.stderr
    assert "postgresql://tickgraph:" in done.stdout
    assert "redis://:" in done.stdout


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
def test_what_is_wrong_is_one_line_that_names_the_setting(tmp_path: Path, env: dict[str, str], line: str) -> None:
    done = _with_servers(tmp_path, "true", **env)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "secret" not in done.stderr


async def test_a_wrong_password_is_told_without_showing_it(tmp_path: Path, dsn: str) -> None:
    wrong = dsn.replace(dsn.split(":")[2].split("@", maxsplit=1)[0], "guessed")
    done = _with_servers(tmp_path, "true", DATABASE_URL=wrong)
    assert "DATABASE_URL: no connection" in done.stderr
    assert "password authentication failed" in done.stderr
    assert "guessed" not in done.stderr


def test_without_a_command_the_usage_says_what_to_write(tmp_path: Path) -> None:
    done = _with_servers(tmp_path)
    assert done.returncode == 2
    assert "no command given. Name it after --, for example" in done.stderr


def test_a_first_start_killed_on_its_way_harms_no_later_one(tmp_path: Path) -> None:
    unfinished = tmp_path / "data.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with embedded.postgres(tmp_path, durable=False) as server:
        assert _psql(server.url, "SELECT 1") == "1"
    assert not unfinished.exists()


def test_a_path_may_have_spaces_and_quotes(tmp_path: Path) -> None:
    with embedded.valkey(tmp_path / 'a "b" c') as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_the_demo_touches_nothing_that_the_settings_name(tmp_path: Path) -> None:
    env = {"DATABASE_URL": "postgres://real@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1", "POSTGRES_HOST": "127.0.0.1"}
    done = _with_servers(tmp_path, "sh", "-c", "echo $DATABASE_URL $REDIS_URL $BROKER_URL", options=("--demo",), **env)
    assert done.returncode == 0, done.stderr
    database, messages, broker = done.stdout.split()
    assert database.startswith("postgresql://tickgraph:")
    assert messages.startswith("redis://:")
    assert broker == messages


def test_what_cannot_be_migrated_is_one_line(tmp_path: Path, servers: Servers) -> None:
    done = _with_servers(
        tmp_path,
        "true",
        DATABASE_URL=servers.dsn_of("template_tickgraph_unknown"),
        REDIS_URL=servers.redis_url,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("DATABASE_URL: no connection to")
    assert "Traceback" not in done.stderr


async def test_an_unknown_revision_is_one_line(tmp_path: Path, servers: Servers, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    done = _with_servers(tmp_path, "true", DATABASE_URL=dsn, REDIS_URL=servers.redis_url)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("DATABASE_URL: ")
    assert "cannot be migrated: Can't locate revision identified by '9999'" in last
    assert "Traceback" not in done.stderr


ORPHANING = """
import ctypes, signal, sys
from db import processes

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become ours, as those of PID 1 do
command = "sh -c 'sleep 0.1 & echo $!' > orphan; while [ -d /proc/$(cat orphan) ]; do sleep 0.05; done"
sys.exit(processes.run(["sh", "-c", command], {}))
"""


def test_orphans_that_end_are_reaped(tmp_path: Path) -> None:
    """As PID 1 of a container it gets them: one that is not reaped stays in /proc, and keeps the loop spinning."""
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", ORPHANING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0


def test_what_embedded_servers_write_is_for_their_user_alone(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path / "postgres", durable=False), embedded.valkey(tmp_path / "valkey"):
        files = [tmp_path / "postgres" / name for name in ("password", "postgres.log")]
        files += [tmp_path / "valkey" / name for name in ("password", "valkey.conf", "valkey.log")]
        assert {file.name: oct(file.stat().st_mode & 0o777) for file in files} == {file.name: "0o600" for file in files}


def test_a_server_keeps_its_port(tmp_path: Path) -> None:
    urls = []
    for _ in range(2):
        with (
            embedded.postgres(tmp_path / "postgres", durable=False) as postgres,
            embedded.valkey(tmp_path / "valkey") as valkey,
        ):
            urls.append((postgres.url, valkey.url))
    assert urls[0] == urls[1]
