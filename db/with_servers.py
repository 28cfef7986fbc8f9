"""`python -m db with-servers`: the launcher of `make up`.

It stays in memory as long as the servers run, so it imports little, and migrates in a child process.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import redis

from db.connection_url import mask_password
from db.errors import CommandLineError, UsageError
from db.runtime import embedded, log, processes
from db.settings import Settings


def run(options: argparse.Namespace) -> int:
    """`with-servers`."""
    settings = Settings.read()
    log.configure(settings, "db")
    command = processes.strip_separator(options.command)
    if not command:
        raise UsageError("no command given. Name it after --, for example: with-servers -- alembic current")
    return _run(_demo_settings(settings) if options.demo else settings, command, is_demo=options.demo)


def _demo_settings(settings: Settings) -> Settings:
    """Returns settings without configured servers, so that the demo writes to its own servers only."""
    unset = dict.fromkeys(("database_url", "broker_url", *(n for n in Settings.model_fields if n[:5] in ("postg", "redis"))))
    return settings.model_copy(update=unset | {"data_dir": settings.data_dir / embedded.DEMO_FOLDER})


def _run(settings: Settings, command: Sequence[str], *, is_demo: bool) -> int:
    folder = settings.data_dir
    os.environ["DATA_DIR"] = str(folder)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with contextlib.ExitStack() as servers:
        started_servers: list[embedded.Server] = []
        # The lock is taken even if neither server is embedded: only one `make up` may use a folder.
        servers.enter_context(embedded.lock_data_dir(folder))
        if settings.redis is None:
            started_servers.append(servers.enter_context(embedded.valkey(folder / "valkey")))
            os.environ["REDIS_URL"] = started_servers[-1].url
            os.environ["BROKER_URL"] = settings.broker_url or started_servers[-1].url
        else:
            _require_redis(settings.redis)
        if settings.dsn is None:
            started_servers.append(servers.enter_context(embedded.postgres(folder / "postgres")))
            os.environ["DATABASE_URL"] = started_servers[-1].url
        migrate = [sys.executable, "-m", "db", "migrate", *(["--mark-demo"] if is_demo else [])]
        status = subprocess.run(migrate, check=False).returncode  # noqa: S603  our own command
        return status or processes.run(command, {server.name: server.process for server in started_servers})


def _require_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3) as client:
            client.ping()
    except (redis.exceptions.RedisError, ValueError, TypeError) as error:
        raise CommandLineError(f"REDIS_URL: no connection to {mask_password(url)}: {error}") from error
