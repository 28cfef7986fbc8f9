"""`python -m db`: the servers and the schema, by hand."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

import redis

from db import embedded, migrate, pool, processes
from db.errors import DatabaseUnavailableError, ServerError
from db.settings import Settings, without_password

EXAMPLES = """examples:
  python -m db with-servers -- alembic current     # real PostgreSQL and Valkey for as long as the command runs
  python -m db migrate                             # what DATABASE_URL names, up to the newest schema
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m db",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    with_servers = verbs.add_parser(
        "with-servers",
        help="start PostgreSQL and Valkey (those that no setting names), migrate, run a command, stop them",
    )
    with_servers.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    verbs.add_parser("migrate", help="bring the database up to the newest schema")
    options = parser.parse_args(arguments)
    settings = Settings.read()
    try:
        if options.verb == "migrate":
            return _migrate(settings.required_dsn(), settings.dsn_setting)
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command:
            with_servers.error("name the command to run, for example: with-servers -- alembic current")
        return _with_servers(settings, command)
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _with_servers(settings: Settings, command: Sequence[str]) -> int:
    folder = settings.data_dir
    os.environ["DATA_DIR"] = str(folder)
    with contextlib.ExitStack() as servers:
        running: list[embedded.Server] = []
        if settings.dsn is None or settings.redis is None:
            servers.enter_context(embedded.held(folder))
        if settings.redis is None:
            running.append(servers.enter_context(embedded.valkey(folder / "valkey")))
            os.environ["REDIS_URL"] = running[-1].url
        else:
            _refuse_silent_redis(settings.redis)
        if settings.dsn is None:
            running.append(servers.enter_context(embedded.postgres(folder / "postgres")))
            os.environ["DATABASE_URL"] = running[-1].url
        _migrate(settings.dsn or os.environ["DATABASE_URL"], settings.dsn_setting)
        return processes.run(command, {server.name: server.process for server in running})


def _migrate(dsn: str, setting: str) -> int:
    try:
        asyncio.run(_connect_once(dsn))
    except DatabaseUnavailableError as error:
        raise ServerError(f"{setting}: no connection to {without_password(dsn)}: {error}") from error
    migrate.upgrade(dsn)
    return 0


async def _connect_once(dsn: str) -> None:
    connection = await pool.connect(dsn)
    await connection.close()


def _refuse_silent_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3) as client:
            client.ping()
    except redis.exceptions.RedisError as error:
        raise ServerError(f"REDIS_URL: no answer from {without_password(url)}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
