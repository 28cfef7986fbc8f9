"""`python -m db`: the servers and the schema, by hand."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import redis
from alembic.util.exc import CommandError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from db import address, backup, cli, embedded, log, migrate, pool, processes, running, times
from db.errors import DatabaseError, DatabaseUnavailableError, ServerError
from db.queries import candles, clock, exporting, retention, tickers, views, writing
from db.queries.exporting import Form
from db.settings import Settings, without_password

STOPPED_WITHIN_S = 15.0
SHOWN = 20
"""Candles of a ticker that are listed."""
HOUR = 3_600

EXAMPLES = """examples:
  python -m db with-servers -- alembic current     # real PostgreSQL and Valkey for as long as the command runs
  python -m db migrate                             # what DATABASE_URL names, up to the newest schema
  python -m db psql -- -c 'SELECT count(*) FROM price'
  python -m db verify-candles btc_usd              # is each what its minutes make?
  python -m db export btc_usd --output btc_usd.csv # its whole history, as `python -m ingest import` takes it again
  python -m db backup                              # into a file of this folder, named by the time
  python -m db restore tickgraph-20261121T220000Z.dump
  python -m db forget --before 2025-01-01          # what would go; with --yes it goes
  python -m db views                               # price_ticks and price_records, for older queries
  python -m db stop                                # what `make up` started in this folder
"""


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: C901, PLR0912, PLR0915  a verb is a branch
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m db", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    with_servers = verbs.add_parser(
        "with-servers",
        help="start PostgreSQL and Valkey (those that no setting names), migrate, run a command, stop them",
    )
    with_servers.add_argument(
        "--demo", action="store_true", help="embedded ones on data of their own, DATA_DIR/demo, whatever the settings name"
    )
    with_servers.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    verbs.add_parser("migrate", help="bring the database up to the newest schema")
    psql = verbs.add_parser("psql", help="open psql on the database: the one that is set, or the embedded one that runs")
    psql.add_argument("command", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS…")
    verify = verbs.add_parser("verify-candles", help="make all candles anew from the minutes, and compare; 1 where one differs")
    verify.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd (all)")
    export = verbs.add_parser("export", help="write a ticker's history to a file, or to standard output where none is named")
    export.add_argument("ticker", metavar="TICKER", help="index name, like btc_usd")
    export.add_argument(
        "--from", dest="start", type=times.parse, default=times.FIRST, help="UNIX seconds or ISO 8601 (the first)"
    )
    export.add_argument("--to", dest="end", type=times.parse, default=times.END, help="likewise, itself not in it (the last)")
    export.add_argument("--format", type=Form, default=Form.CSV, choices=list(Form), help="csv with a header, or jsonl (csv)")
    export.add_argument("--output", type=Path, help="the file; standard output where left out")
    back_up = verbs.add_parser("backup", help="write the whole database into a file, in the custom format of pg_dump")
    back_up.add_argument("--output", type=Path, help="the file; left out: tickgraph-TIME.dump in this folder")
    restore = verbs.add_parser("restore", help="restore a backup into an empty database, or DATA_DIR, all of it or nothing")
    restore.add_argument("file", type=Path, help="what `backup` wrote")
    restore.add_argument("--force", action="store_true", help="a backup of the demo, too: its prices are simulated")
    forget = verbs.add_parser(
        "forget",
        help="forget minutes by hand: what RETENTION_DAYS refuses to do by itself, or take back a horizon of the future",
        epilog="example:\n  python -m db forget --before 2025-01-01 --yes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = forget.add_mutually_exclusive_group(required=True)
    what.add_argument("--before", type=times.parse, help="UNIX seconds or ISO 8601: the UTC day of it is the first one kept")
    what.add_argument("--reset", action="store_true", help="horizons that a wrong clock set into the future go back")
    forget.add_argument("--yes", action="store_true", help="do it: without it only what would be forgotten is shown")
    shown = verbs.add_parser(
        "views",
        help="make views named price_ticks and price_records, as older trackers called their tables",
        epilog="example:\n  python -m db views && python -m db psql -- -c 'SELECT * FROM price_ticks LIMIT 3'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shown.add_argument("--drop", action="store_true", help="take them away again")
    verbs.add_parser("stop", help="stop what runs on the data folder, and wait until it is gone")
    options = parser.parse_args(arguments)
    settings = Settings.read()
    log.configure(settings, "db")
    try:
        match options.verb:
            case "migrate":
                return _migrate(running.dsn_of(settings), settings.dsn_setting)
            case "psql":
                return _psql(settings, processes.after_dashes(options.command))
            case "verify-candles":
                return asyncio.run(_verify_candles(running.dsn_of(settings), options.tickers))
            case "export":
                return asyncio.run(_export(running.dsn_of(settings), options))
            case "backup":
                return asyncio.run(_back_up(running.dsn_of(settings), options.output))
            case "restore":
                return _restore_somewhere(settings, options.file, force=options.force)
            case "forget":
                return asyncio.run(_forget(running.dsn_of(settings), options))
            case "views":
                return asyncio.run(_views(running.dsn_of(settings), drop=options.drop))
            case "stop":
                return _stop(settings.data_dir, settings.data_dir / embedded.DEMO)
            case _:
                command = processes.after_dashes(options.command)
                if not command:
                    with_servers.error("name the command to run, for example: with-servers -- alembic current")
                return _with_servers(_for_demo(settings) if options.demo else settings, command, is_demo=options.demo)
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _for_demo(settings: Settings) -> Settings:
    """What is tried out must not touch what the settings name."""
    nowhere = dict.fromkeys(("database_url", "broker_url", *(n for n in Settings.model_fields if n[:5] in ("postg", "redis"))))
    return settings.model_copy(update=nowhere | {"data_dir": settings.data_dir / embedded.DEMO})


def _with_servers(settings: Settings, command: Sequence[str], *, is_demo: bool) -> int:
    folder = settings.data_dir
    os.environ["DATA_DIR"] = str(folder)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with contextlib.ExitStack() as servers:
        running: list[embedded.Server] = []
        # Held even where both servers are elsewhere: one `make up` a folder.
        servers.enter_context(embedded.held(folder))
        if settings.redis is None:
            running.append(servers.enter_context(embedded.valkey(folder / "valkey")))
            os.environ["REDIS_URL"] = running[-1].url
            os.environ["BROKER_URL"] = settings.broker_url or running[-1].url
        else:
            _refuse_silent_redis(settings.redis)
        if settings.dsn is None:
            running.append(servers.enter_context(embedded.postgres(folder / "postgres")))
            os.environ["DATABASE_URL"] = running[-1].url
        _migrate(settings.dsn or os.environ["DATABASE_URL"], settings.dsn_setting)
        if is_demo:
            asyncio.run(backup.mark_as_demo(os.environ["DATABASE_URL"]))
        return processes.run(command, {server.name: server.process for server in running})


def _migrate(dsn: str, setting: str) -> int:
    try:
        asyncio.run(_connect_once(dsn))
        migrate.upgrade(dsn)
    except (DatabaseUnavailableError, ValueError) as error:
        raise ServerError(f"{setting}: no connection to {without_password(dsn)}: {error}") from error
    except (SQLAlchemyError, CommandError) as error:
        reason = str(error).partition("\n")[0]
        raise ServerError(f"{setting}: {without_password(dsn)} cannot be migrated: {reason}") from error
    return 0


async def _connect_once(dsn: str) -> None:
    connection = await pool.connect(dsn)
    await connection.close()


def _refuse_silent_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3) as client:
            client.ping()
    except (redis.exceptions.RedisError, ValueError, TypeError) as error:
        raise ServerError(f"REDIS_URL: no answer from {without_password(url)}: {error}") from error


def _psql(settings: Settings, words: Sequence[str]) -> int:
    dsn, environment = address.parse(running.dsn_of(settings)).for_libpq()
    program = shutil.which("psql") or str(embedded.postgres_program("psql"))
    os.execve(program, [program, dsn, *words], environment)  # noqa: S606  that is what was asked for


async def _verify_candles(dsn: str, names: Sequence[str]) -> int:
    wrong = 0
    try:
        async with pool.open_database(dsn, application_name="tickgraph verify-candles") as db:
            await _require_known(db, names)
            building = await candles.still_to_build(db) | await retention.horizons(db)
            for name in names or [row["name"] for row in await tickers.every(db, time.time())]:
                found = await candles.different(db, name, building.get(name, times.FIRST))
                wrong += len(found)
                for span, ts in found[:SHOWN]:
                    print(f"{name}: the {'hour' if span == HOUR else 'day'} of {times.iso(ts)} is not what its minutes make")
                behind = f", from {times.iso(building[name])} on" if name in building else ""
                print(f"{name}: {len(found)} candles differ{behind}")
    except DatabaseError as error:
        raise ServerError(str(error)) from error
    return 1 if wrong else 0


async def _require_known(db: pool.Database, names: Sequence[str]) -> None:
    for name in set(names) - await tickers.known(db, names):
        raise ServerError(f"{name} is not known: `python -m ingest status` lists those that are")


async def _forget(dsn: str, options: argparse.Namespace) -> int:
    try:
        async with pool.open_database(
            dsn, application_name="tickgraph forget", statement_timeout_s=pool.WRITER_TIMEOUT_S, connections=1
        ) as db:
            now = min(int(time.time()), int(await clock.now(db)))
            return await (
                _reset_horizons(db, now) if options.reset else _forget_before(db, options.before, now, yes=options.yes)
            )
    except DatabaseError as error:
        raise ServerError(str(error)) from error


async def _reset_horizons(db: pool.Database, now: int) -> int:
    async with writing.turn(db) as connection:
        moved = await retention.reset(connection, now)
    for name, horizon in moved.items():
        print(f"{name}: what is expected begins with {times.iso(horizon)}")
    print(f"{len(moved)} horizons were taken back; what is missing since then is looked for by the next worker")
    return 0


async def _forget_before(db: pool.Database, before: int, now: int, *, yes: bool) -> int:
    horizon = before // times.DAY * times.DAY
    due = await retention.steps(db, horizon, now)
    for row in due:
        print(f"{row['name']}: minutes before {times.iso(row['to_ts'])}, {row['step'] // times.DAY} days")
    if not due:
        print("nothing to forget: no minute is older, or its candles are still to be built")
        return 0
    if not yes:
        sys.stderr.write("nothing was forgotten: minutes that are forgotten never come back; say --yes to do it\n")
        return 1
    async with writing.turn(db) as connection:
        await retention.move(connection, horizon, now, times.END)
    forgotten = 0
    for row in await retention.behind(db, now):
        found = retention.AT_ONCE
        while found >= retention.AT_ONCE:
            async with writing.turn(db) as connection:
                found = await retention.forget(connection, row["name"], row["horizon"])
            forgotten += found
    print(f"{forgotten:,} rows of minutes and gaps are forgotten; hours and days stay, as candles")
    return 0


async def _views(dsn: str, *, drop: bool) -> int:
    try:
        async with (
            pool.open_database(dsn, application_name="tickgraph views", connections=1) as db,
            db.transaction() as connection,
        ):
            await (views.drop(connection) if drop else views.create(connection))
    except DatabaseError as error:
        raise ServerError(str(error)) from error
    print(f"{' and '.join(views.NAMES)} are {'gone' if drop else 'views of price'}")
    return 0


async def _export(dsn: str, options: argparse.Namespace) -> int:
    target = options.output
    try:
        async with pool.open_database(dsn, application_name="tickgraph export") as db:
            await _require_known(db, [options.ticker])
            low, high = await exporting.extent(db, options.ticker, options.start, options.end) or (options.start, options.start)
            shown = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                disable=not sys.stderr.isatty(),
            )
            with target.open("wb") if target else contextlib.nullcontext(sys.stdout.buffer) as out, shown:
                task = shown.add_task(options.ticker, total=high - low)
                slices = exporting.slices(db, options.format, options.ticker, options.start, options.end)
                async with contextlib.aclosing(slices):
                    async for done, written in slices:
                        out.write(written)
                        shown.update(task, completed=done - low)
    except BrokenPipeError:  # whoever read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise ServerError(f"{target} cannot be written: {error.strerror}") from error
    except DatabaseError as error:
        raise ServerError(str(error)) from error
    if target:
        sys.stderr.write(f"{target}: {times.minutes((high - low) // times.MINUTE)} from {times.iso(low)} on\n")
    return 0


async def _back_up(dsn: str, output: Path | None) -> int:
    file = output or Path(f"tickgraph-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump")
    if file.exists():
        raise ServerError(f"{file} is there already: name another file, or move it away")
    try:
        server = await backup.major(dsn)
    except DatabaseUnavailableError as error:
        raise ServerError(f"no connection to {without_password(dsn)}: {error}") from error
    sys.stderr.write(f"backing up {without_password(dsn)} into {file.absolute()} …\n")
    await asyncio.to_thread(backup.back_up, dsn, server, file)
    sys.stderr.write(f"{file}: {file.stat().st_size / 1_000:,.0f} kB of {without_password(dsn)}\n")
    return 0


def _restore_somewhere(settings: Settings, file: Path, *, force: bool) -> int:
    if not file.exists():
        raise ServerError(f"{file} is not there")
    if settings.dsn is not None:
        return asyncio.run(_restore(settings.dsn, file, force=force))
    for folder in (settings.data_dir, settings.data_dir / embedded.DEMO):
        if folder.exists() and running.holder(folder) is not None:
            raise ServerError(
                f"{folder.absolute()} is in use: stop what runs there (`make down`), or name where to restore to, with "
                "DATABASE_URL or another DATA_DIR"
            )
    folder = settings.data_dir / "postgres"
    sys.stderr.write(f"restoring into {folder.absolute()} …\n")
    with contextlib.ExitStack() as servers:
        servers.enter_context(embedded.held(settings.data_dir))
        dsn = servers.enter_context(embedded.postgres(folder)).url
        return asyncio.run(_restore(dsn, file, force=force))


async def _restore(dsn: str, file: Path, *, force: bool) -> int:
    try:
        server = await backup.major(dsn)
        await asyncio.to_thread(backup.require_fitting, file, dsn, server, force=force)
        await backup.clear(dsn)
    except DatabaseUnavailableError as error:
        raise ServerError(f"no connection to {without_password(dsn)}: {error}") from error
    try:
        await asyncio.to_thread(backup.restore, file, dsn, server)
    finally:  # where it failed, it is as empty as it was
        await asyncio.to_thread(migrate.upgrade, dsn)
    sys.stderr.write(
        f"{file} is restored into {without_password(dsn)}; what was missed since is caught up by the next worker\n"
    )
    return 0


def _stop(*folders: Path) -> int:
    held = {folder: pid for folder in folders if folder.exists() and (pid := running.holder(folder)) is not None}
    if not held:
        sys.stderr.write(f"nothing runs in DATA_DIR={folders[0]}\n")
    for folder, pid in held.items():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOPPED_WITHIN_S
        while running.holder(folder) is not None:
            if time.monotonic() > deadline:
                raise ServerError(f"process {pid} does not stop within {STOPPED_WITHIN_S:.0f} s: end it with `kill -9 {pid}`")
            time.sleep(0.05)
        sys.stderr.write(f"stopped what ran in {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
