"""Backups with PostgreSQL's own programs: one file, and a check that it fits before anything is restored."""

import asyncio
import contextlib
import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import asyncpg
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from db import address, embedded, migrate, tables
from db.errors import ServerError
from db.pool import connect
from db.settings import without_password

_MAJOR: Final = re.compile(r"(\d+)(?:\.\d+|\w+)")
_DUMPED_FROM: Final = re.compile(r"^;\s+Dumped from database version: (\d+)", re.MULTILINE)
TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
ALEMBIC: Final = "alembic_version"
DEMO_SCHEMA: Final = "tickgraph_demo"
MARK: Final = f"CREATE SCHEMA IF NOT EXISTS {DEMO_SCHEMA}"
DROP_ALEMBIC: Final = f"DROP TABLE {ALEMBIC}"
LOCK_ALL: Final = f"LOCK TABLE {', '.join(tables.metadata.tables)} IN ACCESS EXCLUSIVE MODE"
HOLDS_SOMETHING: Final = " UNION ALL ".join(f"(SELECT 1 FROM {name} LIMIT 1)" for name in ("ticker", "price", "reject"))  # noqa: S608


async def major(dsn: str) -> int:
    """The major version of the server at `dsn`. Raises DatabaseUnavailableError."""
    connection = await connect(dsn)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


async def clear(dsn: str) -> None:
    """Makes room in a database that was migrated and holds nothing yet. Raises ServerError where it holds something."""
    connection: asyncpg.Connection = await connect(dsn)
    try:
        there = {row["tablename"] for row in await connection.fetch(TABLES)}
        if there == {*tables.metadata.tables, ALEMBIC}:
            await asyncio.to_thread(migrate.take_away, dsn, functools.partial(_require_nothing, dsn))
            await connection.execute(DROP_ALEMBIC)
        elif there:
            raise _holds_something(dsn)
    except (SQLAlchemyError, CommandError) as error:
        raise ServerError(f"{without_password(dsn)}: {str(error).partition(chr(10))[0]}") from error
    finally:
        await connection.close()


def _require_nothing(dsn: str, connection: Connection) -> None:
    connection.execute(text(LOCK_ALL))  # whoever stores something now has done so, or never will
    if connection.execute(text(HOLDS_SOMETHING)).first() is not None:
        raise _holds_something(dsn)


def _holds_something(dsn: str) -> ServerError:
    return ServerError(
        f"{without_password(dsn)} holds something: restore into an empty database, and point DATABASE_URL at it then, "
        "or into a new DATA_DIR"
    )


def back_up(dsn: str, server: int, file: Path) -> None:
    """Writes the whole database into a file, in the custom format of pg_dump. Raises ServerError."""
    program = _program("pg_dump", server)
    partial = file.with_name(f"{file.name}.partial")
    # Renamed at the end, so that half a backup is never taken for one.
    target, environment = address.parse(dsn).for_libpq()
    _run([program, "--format=custom", "--no-owner", "--no-privileges", f"--file={partial}", target], environment)
    partial.rename(file)


async def mark_as_demo(dsn: str) -> None:
    """Makes each backup of the database one that says that its prices are simulated."""
    connection = await connect(dsn)
    try:
        await connection.execute(MARK)
    finally:
        await connection.close()


def require_fitting(file: Path, dsn: str, server: int, *, force: bool = False) -> None:
    """Raises ServerError where the file is no backup, one that the server is too old for, or, without `force`, the demo's."""
    program = _program("pg_restore", server)
    listed = subprocess.run([program, "--list", file], capture_output=True, text=True, check=False)  # noqa: S603  our own words
    if listed.returncode:
        raise ServerError(f"{file} is no backup: {listed.stderr.strip().splitlines()[-1]}")
    if DEMO_SCHEMA in listed.stdout and not force:
        raise ServerError(f"{file} is of the demo, whose prices are simulated: --force restores it all the same")
    came_from = _DUMPED_FROM.search(listed.stdout)
    if came_from is not None and int(came_from[1]) > server:
        raise ServerError(
            f"{file} comes from PostgreSQL {came_from[1]}, and {without_password(dsn)} is {server}: "
            "restore into the same or a newer one"
        )


def restore(file: Path, dsn: str, server: int) -> None:
    """Restores a backup into an empty database, all of it or nothing. Raises ServerError."""
    options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    target, environment = address.parse(dsn).for_libpq()
    _run([_program("pg_restore", server), *options, f"--dbname={target}", str(file)], environment)


def _program(name: str, server: int) -> str:
    """The program in PATH or in the embedded server's folder, whichever is not older than the server."""
    found, places = [], [shutil.which(name)]
    with contextlib.suppress(ServerError):  # where the embedded server is not installed
        places.append(str(embedded.postgres_program(name)))
    for place in filter(None, places):
        said = subprocess.run([place, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603  likewise
        version = _MAJOR.search(said)
        if version is not None:
            found.append((int(version[1]), place))
    fitting = [place for version, place in found if version >= server]
    if not fitting:
        have = ", ".join(str(version) for version, _ in found) or "none"
        raise ServerError(f"{name} of PostgreSQL {server} or newer is needed; found: {have}")
    return fitting[0]


def _run(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  likewise
    if done.returncode:
        raise ServerError(f"{Path(words[0]).name}: {done.stderr.strip()}")
