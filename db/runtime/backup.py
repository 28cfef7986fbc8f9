"""Backups and restores with pg_dump and pg_restore. A restore first checks the file and the target."""

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

from db import connection_url, migrate, tables
from db.connection_url import mask_password
from db.errors import CommandLineError
from db.pool import connect
from db.queries import reader, views
from db.runtime import embedded

_DUMPED_FROM: Final = re.compile(r"^;\s+Dumped from database version: (\d+)", re.MULTILINE)
LIST_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
ALEMBIC_TABLE: Final = "alembic_version"
DEMO_SCHEMA: Final = "tickgraph_demo"
CREATE_DEMO_SCHEMA: Final = f"CREATE SCHEMA IF NOT EXISTS {DEMO_SCHEMA}"
DROP_ALEMBIC_TABLE: Final = f"DROP TABLE {ALEMBIC_TABLE}"
LOCK_ALL: Final = f"LOCK TABLE {', '.join(tables.metadata.tables)} IN ACCESS EXCLUSIVE MODE"
HAS_ROWS: Final = " UNION ALL ".join(f"(SELECT 1 FROM {name} LIMIT 1)" for name in ("ticker", "price", "reject"))  # noqa: S608


async def server_major_version(dsn: str) -> int:
    """Returns the major version of the server at `dsn`. Raises DatabaseUnavailableError."""
    connection = await connect(dsn)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


async def drop_empty_schema(dsn: str) -> None:
    """Drops the schema of a migrated database without tickers, prices and rejects, before a restore.

    Raises CommandLineError if it has such rows, or tables other than those of this release.
    """
    connection: asyncpg.Connection = await connect(dsn)
    try:
        table_names = {row["tablename"] for row in await connection.fetch(LIST_TABLES)}
        if table_names == {*tables.metadata.tables, ALEMBIC_TABLE}:
            await asyncio.to_thread(migrate.drop_schema, dsn, functools.partial(_require_empty, dsn))
            await connection.execute(DROP_ALEMBIC_TABLE)
        elif table_names:
            raise _not_empty_error(dsn)
    except (SQLAlchemyError, CommandError) as error:
        raise CommandLineError(f"{mask_password(dsn)}: {str(error).partition(chr(10))[0]}") from error
    finally:
        await connection.close()


def _require_empty(dsn: str, connection: Connection) -> None:
    """Raises CommandLineError if the database has rows. Otherwise drops the views, on which tables could not be dropped."""
    connection.execute(text(LOCK_ALL))  # no other session can store rows between this check and the drop
    if connection.execute(text(HAS_ROWS)).first() is not None:
        raise _not_empty_error(dsn)
    for statement in (views.DROP, reader.DROP_VIEWS):
        connection.execute(text(statement))


def _not_empty_error(dsn: str) -> CommandLineError:
    return CommandLineError(
        f"{mask_password(dsn)} is not empty. Restore into an empty database and set DATABASE_URL to it, "
        "or restore into a new DATA_DIR"
    )


def back_up(dsn: str, server_version: int, file: Path) -> None:
    """Writes the whole database to a file in the custom format of pg_dump. Raises CommandLineError."""
    program = _find_program("pg_dump", server_version)
    partial = file.with_name(f"{file.name}.partial")
    # The file gets its name only when complete, so that a partial backup is never restored.
    target, environment = connection_url.parse(dsn).for_libpq()
    _run([program, "--format=custom", "--no-owner", "--no-privileges", f"--file={partial}", target], environment)
    partial.rename(file)


async def mark_as_demo(dsn: str) -> None:
    """Marks the database, and thereby each backup of it, as simulated data."""
    connection = await connect(dsn)
    try:
        await connection.execute(CREATE_DEMO_SCHEMA)
    finally:
        await connection.close()


def require_restorable(file: Path, target: str, server_version: int, *, force: bool = False) -> None:
    """Raises CommandLineError if the file is no backup, needs a newer server, or is of the demo and `force` is not set.

    `target` names the database, whose server has the major version `server_version`.
    """
    program = _find_program("pg_restore", server_version)
    listing = subprocess.run([program, "--list", file], capture_output=True, text=True, check=False)  # noqa: S603  fixed arguments
    if listing.returncode:
        raise CommandLineError(f"{file} is not a backup: {listing.stderr.strip().splitlines()[-1]}")
    if DEMO_SCHEMA in listing.stdout and not force:
        raise CommandLineError(f"{file} is a backup of the demo, whose prices are simulated. Use --force to restore it anyway")
    dump_version = _DUMPED_FROM.search(listing.stdout)
    if dump_version is not None and int(dump_version[1]) > server_version:
        raise CommandLineError(
            f"{file} is from PostgreSQL {dump_version[1]}, and {target} is PostgreSQL {server_version}. "
            "Restore into the same or a newer version"
        )


def restore(file: Path, dsn: str, server_version: int) -> None:
    """Restores a backup into an empty database in one transaction. Raises CommandLineError."""
    options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    target, environment = connection_url.parse(dsn).for_libpq()
    _run([_find_program("pg_restore", server_version), *options, f"--dbname={target}", str(file)], environment)


def _find_program(name: str, server_version: int) -> Path:
    """Returns the path of a PostgreSQL program of at least the given major version, from PATH or from the embedded server.

    Raises CommandLineError if there is none.
    """
    on_path = shutil.which(name)
    candidates = [Path(on_path)] if on_path else []
    with contextlib.suppress(CommandLineError):  # the embedded server may not be installed
        candidates.append(embedded.postgres_program(name))
    found = [(embedded.major_version(path), path) for path in candidates]
    compatible = [path for version, path in found if version >= server_version]
    if not compatible:
        versions = ", ".join(str(version) for version, _ in found) or "none"
        raise CommandLineError(f"{name} of PostgreSQL {server_version} or newer is required; found: {versions}")
    return compatible[0]


def _run(arguments: list[str | Path], environment: dict[str, str]) -> None:
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  fixed arguments
    if result.returncode:
        raise CommandLineError(f"{Path(arguments[0]).name}: {result.stderr.strip()}")
