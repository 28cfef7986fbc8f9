"""The verbs of `python -m db`."""

import argparse
import asyncio
import contextlib
import difflib
import functools
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from alembic.util.exc import CommandError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from db import connection_url, migrate, pool, times
from db.connection_url import mask_password
from db.errors import CommandLineError, DatabaseUnavailableError
from db.queries import bulk_import, candles, clock, reader, retention, tickers, views, write_lock
from db.runtime import backup, embedded, embedded_lookup, log, processes
from db.settings import Settings

STOP_TIMEOUT_S = 15.0
MAX_DIFFERENCES_SHOWN = 20
"""Maximum number of differing candles that `verify-candles` prints for one ticker."""


def run_migrate(options: argparse.Namespace) -> int:
    """`migrate`."""
    settings = read_settings()
    dsn = embedded_lookup.postgres_url(settings)
    _migrate(dsn, settings.dsn_setting)
    if options.mark_demo:
        asyncio.run(backup.mark_as_demo(dsn))
    return 0


def run_psql(options: argparse.Namespace) -> int:
    """`psql`."""
    return _psql(read_settings(), processes.strip_separator(options.command))


def run_verify_candles(options: argparse.Namespace) -> int:
    """`verify-candles`."""
    return asyncio.run(_verify_candles(embedded_lookup.postgres_url(read_settings()), options.tickers))


def run_backup(options: argparse.Namespace) -> int:
    """`backup`."""
    return asyncio.run(_back_up(embedded_lookup.postgres_url(read_settings()), options.output))


def run_restore(options: argparse.Namespace) -> int:
    """`restore`."""
    return _restore_file(read_settings(), options.file, force=options.force)


def run_forget(options: argparse.Namespace) -> int:
    """`forget`."""
    return asyncio.run(_forget(embedded_lookup.postgres_url(read_settings()), options))


def run_views(options: argparse.Namespace) -> int:
    """`views`."""
    return asyncio.run(_views(embedded_lookup.postgres_url(read_settings()), drop=options.drop))


def run_reader(options: argparse.Namespace) -> int:
    """`reader`."""
    settings = read_settings()
    password = None if settings.reader_password is None else settings.reader_password.get_secret_value()
    return asyncio.run(_reader(embedded_lookup.postgres_url(settings), options.name, password, drop=options.drop))


def run_stop(_options: argparse.Namespace) -> int:
    """`stop`."""
    return _stop(*embedded_lookup.data_folders(read_settings()))


def read_settings() -> Settings:
    """Reads the settings of a verb, and configures the log."""
    settings = Settings.read()
    log.configure(settings, "db")
    return settings


def _migrate(dsn: str, setting: str) -> None:
    try:
        asyncio.run(_require_postgres(dsn))
        migrate.upgrade(dsn)
    except (DatabaseUnavailableError, ValueError) as error:
        raise CommandLineError(f"{setting}: no connection to {mask_password(dsn)}: {error}") from error
    except (SQLAlchemyError, CommandError) as error:
        reason = str(error).partition("\n")[0]
        raise CommandLineError(f"{setting}: {mask_password(dsn)} cannot be migrated: {reason}") from error


async def _require_postgres(dsn: str) -> None:
    connection = await pool.connect(dsn)
    await connection.close()


def _psql(settings: Settings, arguments: Sequence[str]) -> int:
    dsn, environment = connection_url.parse(embedded_lookup.postgres_url(settings)).for_libpq()
    program = shutil.which("psql") or str(embedded.postgres_program("psql"))
    os.execve(program, [program, dsn, *arguments], environment)  # noqa: S606  the verb replaces this process by psql


async def _verify_candles(dsn: str, names: Sequence[str]) -> int:
    wrong = 0
    async with pool.open_database(dsn, application_name="tickgraph verify-candles") as db:
        await require_known_tickers(db, names)
        # Rounded up to a full day: minutes before the horizon are deleted, so the candle of its day cannot be verified.
        # A horizon in the future comes from a wrong clock and is ignored.
        now = time.time()
        horizons = {name: -(-at // times.DAY) * times.DAY for name, at in (await retention.horizons(db)).items() if at <= now}
        checked_from = await candles.pending_builds(db) | horizons
        for name in names or [row["name"] for row in await tickers.list_tickers(db, now)]:
            found = await candles.find_differences(db, name, checked_from.get(name, times.FIRST))
            wrong += len(found)
            for span, ts in found[:MAX_DIFFERENCES_SHOWN]:
                print(
                    f"{name}: the {'hour' if span == times.HOUR else 'day'} candle of {times.iso(ts)} differs from its minutes"
                )
            suffix = f"; checked from {times.iso(checked_from[name])} on" if name in checked_from else ""
            print(f"{name}: {len(found)} candles differ{suffix}")
    return 1 if wrong else 0


async def require_known_tickers(db: pool.Database, names: Sequence[str]) -> None:
    """Raises CommandLineError for a name that is not a known ticker, with a similar one."""
    for name in set(names) - await tickers.filter_known(db, names):
        known = [row["name"] for row in await tickers.list_tickers(db, time.time())]
        similar = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {similar[0]}?" if similar else "`python -m ingest status` lists the known tickers"
        raise CommandLineError(f"{name} is not a known ticker. {hint}")


async def _forget(dsn: str, options: argparse.Namespace) -> int:
    async with pool.open_database(
        dsn, application_name="tickgraph forget", statement_timeout_s=pool.WRITER_TIMEOUT_S, max_connections=1
    ) as db:
        now = min(int(time.time()), int(await clock.now(db)))
        return await (_reset_horizons(db, now) if options.reset else _forget_before(db, options.before, now, yes=options.yes))


async def _reset_horizons(db: pool.Database, now: int) -> int:
    async with write_lock.write_transaction(db) as connection:
        moved = await retention.reset(connection, now)
    for name, horizon in moved.items():
        print(f"{name}: prices are now expected from {times.iso(horizon)}")
    print(f"{len(moved)} horizons were reset. The worker now checks the minutes after them for gaps")
    return 0


async def _forget_before(db: pool.Database, before: int, now: int, *, yes: bool) -> int:
    horizon = before // times.DAY * times.DAY
    due = await retention.list_horizon_steps(db, horizon, now)
    for row in due:
        print(f"{row['name']}: minutes before {times.iso(row['to_ts'])}, {row['step'] // times.DAY} days")
    if not due:
        print("nothing to delete: no minute is older, or candles are still being built")
        return 0
    if not yes:
        sys.stderr.write("nothing was deleted. Deletion is permanent; add --yes to delete\n")
        return 1
    async with write_lock.write_transaction(db) as connection:
        await retention.advance_horizons(connection, horizon, now, times.END)
    deleted_count = await retention.delete_expired(db, now)
    print(f"{deleted_count:,} rows of minutes and gaps were deleted. Hourly and daily candles remain")
    return 0


async def _views(dsn: str, *, drop: bool) -> int:
    async with (
        pool.open_database(dsn, application_name="tickgraph views", max_connections=1) as db,
        db.transaction() as connection,
    ):
        await (views.drop(connection) if drop else views.create(connection))
    print(f"{' and '.join(views.NAMES)} are {'dropped' if drop else 'views of price'}")
    return 0


async def _reader(dsn: str, role: str, chosen_password: str | None, *, drop: bool) -> int:
    password = chosen_password or secrets.token_urlsafe(24)
    async with (
        pool.open_database(dsn, application_name="tickgraph reader", max_connections=1) as db,
        db.transaction() as connection,
    ):
        await (reader.drop(connection, role) if drop else reader.create(connection, role, password))
    if drop:
        print(f"the role {role} is dropped, and the views with the last such role")
        return 0
    shown = "READER_PASSWORD" if chosen_password else f"the password {password}"
    print(f"{', '.join(reader.NAMES)} can be read by the role {role} with {shown}")
    return 0


@contextlib.contextmanager
def show_progress(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Shows a progress bar on a terminal while the block runs. Yields rich's `Progress.update` of its one task."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with progress:
        yield functools.partial(progress.update, progress.add_task(description, total=total))


async def _back_up(dsn: str, output: Path | None) -> int:
    file = output or Path(f"tickgraph-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump")
    if file.exists():
        raise CommandLineError(f"{file} already exists. Name another file or move it")
    try:
        server_version = await backup.server_major_version(dsn)
    except DatabaseUnavailableError as error:
        raise CommandLineError(f"no connection to {mask_password(dsn)}: {error}") from error
    sys.stderr.write(f"backing up {mask_password(dsn)} into {file.absolute()} …\n")
    await asyncio.to_thread(backup.back_up, dsn, server_version, file)
    sys.stderr.write(f"{file}: {file.stat().st_size / 1_000:,.0f} kB of {mask_password(dsn)}\n")
    return 0


def _restore_file(settings: Settings, file: Path, *, force: bool) -> int:
    if not file.exists():
        raise CommandLineError(f"{file} does not exist")
    if settings.dsn is not None:
        return asyncio.run(_restore_into_server(settings.dsn, file, force=force))
    for folder in embedded_lookup.data_folders(settings):
        if folder.exists() and embedded_lookup.find_owner_pid(folder) is not None:
            raise CommandLineError(
                f"{folder.absolute()} is in use. Stop the process that uses it (`make down`), or set DATABASE_URL "
                "or another DATA_DIR as the target"
            )
    folder = settings.data_dir / "postgres"
    version = embedded.major_version(embedded.postgres_program("postgres"))
    # Before the server starts, so that a rejected file leaves no empty database in the folder.
    backup.require_restorable(file, str(folder.absolute()), version, force=force)
    sys.stderr.write(f"restoring into {folder.absolute()} …\n")
    with contextlib.ExitStack() as servers:
        servers.enter_context(embedded.lock_data_dir(settings.data_dir))
        dsn = servers.enter_context(embedded.postgres(folder)).url
        return asyncio.run(_restore_into(dsn, file, version))


async def _restore_into_server(dsn: str, file: Path, *, force: bool) -> int:
    try:
        server_version = await backup.server_major_version(dsn)
    except DatabaseUnavailableError as error:
        raise CommandLineError(f"no connection to {mask_password(dsn)}: {error}") from error
    await asyncio.to_thread(backup.require_restorable, file, mask_password(dsn), server_version, force=force)
    return await _restore_into(dsn, file, server_version)


async def _restore_into(dsn: str, file: Path, server_version: int) -> int:
    await backup.drop_empty_schema(dsn)
    try:
        await asyncio.to_thread(backup.restore, file, dsn, server_version)
    finally:  # also after a failure, so that the database gets its schema again
        await asyncio.to_thread(migrate.upgrade, dsn)
    async with pool.open_database(dsn, application_name="tickgraph restore", max_connections=1) as db:
        await bulk_import.refresh_statistics(db)
    sys.stderr.write(f"{file} is restored into {mask_password(dsn)}; the worker will backfill the minutes since the backup\n")
    return 0


def _stop(*folders: Path) -> int:
    owner_pids = {
        folder: pid for folder in folders if folder.exists() and (pid := embedded_lookup.find_owner_pid(folder)) is not None
    }
    if not owner_pids:
        sys.stderr.write(f"no process uses DATA_DIR={folders[0]}\n")
    for folder, pid in owner_pids.items():
        with contextlib.suppress(ProcessLookupError):  # the process has already exited
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while embedded_lookup.find_owner_pid(folder) is not None:
            if time.monotonic() > deadline:
                raise CommandLineError(f"process {pid} did not stop within {STOP_TIMEOUT_S:.0f} s. End it with `kill -9 {pid}`")
            time.sleep(0.05)
        sys.stderr.write(f"stopped the process that used {folder}\n")
    return 0
