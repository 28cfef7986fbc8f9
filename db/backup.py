"""Backups with PostgreSQL's own programs: one file, and a check that it fits before anything is restored."""

import asyncio
import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import asyncpg

from db import embedded, migrate, tables
from db.errors import ServerError
from db.pool import connect
from db.settings import without_password

_MAJOR: Final = re.compile(r"(\d+)(?:\.\d+|\w+)")
_DUMPED_FROM: Final = re.compile(r"^;\s+Dumped from database version: (\d+)", re.MULTILINE)
TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
HOLDS_NOTHING: Final = "SELECT NOT EXISTS (SELECT FROM ticker) AND NOT EXISTS (SELECT FROM price)"
ALEMBIC: Final = "alembic_version"
DROP_ALEMBIC: Final = f"DROP TABLE {ALEMBIC}"


async def major(dsn: str) -> int:
    """The major version of the server at `dsn`. Raises DatabaseUnavailableError."""
    connection = await connect(dsn)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


async def clear(dsn: str) -> bool:
    """Makes room in a database that was migrated and holds nothing yet; whether it has no table now."""
    connection: asyncpg.Connection = await connect(dsn)
    try:
        there = {row["tablename"] for row in await connection.fetch(TABLES)}
        if there == {*tables.metadata.tables, ALEMBIC} and await connection.fetchval(HOLDS_NOTHING):
            await asyncio.to_thread(migrate.take_away, dsn)
            await connection.execute(DROP_ALEMBIC)
            return True
        return not there
    finally:
        await connection.close()


def back_up(dsn: str, server: int, file: Path) -> None:
    """Writes the whole database into a file, in the custom format of pg_dump. Raises ServerError."""
    program = _program("pg_dump", server)
    partial = file.with_name(f"{file.name}.partial")
    # Renamed at the end, so that half a backup is never taken for one.
    _run(dsn, [program, "--format=custom", "--no-owner", "--no-privileges", f"--file={partial}", dsn])
    partial.rename(file)


def restore(file: Path, dsn: str, server: int) -> None:
    """Restores a backup into an empty database, all of it or nothing. Raises ServerError, at once where it cannot be."""
    program = _program("pg_restore", server)
    listed = subprocess.run([program, "--list", file], capture_output=True, text=True, check=False)  # noqa: S603  our own words
    if listed.returncode:
        raise ServerError(f"{file} is no backup: {listed.stderr.strip().splitlines()[-1]}")
    came_from = _DUMPED_FROM.search(listed.stdout)
    if came_from is not None and int(came_from[1]) > server:
        raise ServerError(
            f"{file} comes from PostgreSQL {came_from[1]}, and {without_password(dsn)} is {server}: "
            "restore into the same or a newer one"
        )
    options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    _run(dsn, [program, *options, f"--dbname={dsn}", str(file)])


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


def _run(dsn: str, words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  likewise
    if done.returncode:
        said = done.stderr.strip().replace(dsn, without_password(dsn))
        raise ServerError(f"{Path(words[0]).name}: {said}")
