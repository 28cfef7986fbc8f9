"""Verbs for an archive that others can check: `verify`, `digest` and `export --days`."""

import argparse
import asyncio
import csv
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from db import export, pool, signing, times
from db.commands import read_settings, require_known_tickers, show_progress
from db.errors import CommandLineError
from db.queries import coverage, digests, gaps, retention, tickers
from db.queries.digests import GENESIS, DayDigest, DigestEntry, Progress
from db.queries.snapshots import Snapshot
from db.runtime import embedded_lookup
from db.settings import Settings

CSV_HEADER: Final = "number,ticker,day,sha256,minutes,as_of,chain"
PAGE_ENTRIES: Final = 5_000
MAX_MINUTES_SHOWN: Final = 5
SUMS_FILE: Final = "SHA256SUMS"
CHAIN_FILE: Final = "digests.csv"
MAX_GAPS: Final = 1_440


def run_verify(options: argparse.Namespace) -> int:
    """`verify`."""
    return asyncio.run(_verify(read_settings(), options.tickers, options.digests))


def run_digest(options: argparse.Namespace) -> int:
    """`digest`."""
    return asyncio.run(_print_digests(read_settings(), print_all=options.all, as_json=options.json))


def run_export(options: argparse.Namespace) -> int:
    """`export`, with or without `--days`."""
    if options.days is None:
        return export.run(options)
    return asyncio.run(_export_days(read_settings(), options.days, options.tickers, options.start, options.end))


async def _all_entries(db: pool.Database) -> AsyncIterator[DigestEntry]:
    number = 0
    while page := await digests.entries_after(db, number, PAGE_ENTRIES):
        for entry in page:
            yield entry
        number = page[-1].number


async def _verify(settings: Settings, names: Sequence[str], file: Path | None) -> int:
    async with pool.open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph verify") as db:
        await require_known_tickers(db, sorted(set(names) - set(await digests.list_tickers(db))))
        problems = await _verify_chain(db)
        if file is not None:
            return 1 if problems + await _verify_file(db, file, names) else 0
        progress, due_progress = await digests.read_progress(db), await digests.due_progress(db)
        position, closed_until = (0, 0) if progress is None else (progress.position, progress.closed_until)
        if position < due_progress.position:
            print("changes of more than a day ago are not in the digests: is a worker running? Its log says why it waits")
            problems += 1
        required = Progress(max(position, due_progress.position), max(closed_until, due_progress.closed_until))
        for name in names or await _list_known_tickers(db):
            problems += await _verify_ticker(db, name, position)
            missing = await digests.count_days_without_digest(db, name, required)
            if missing:
                print(f"{name}: {missing} days have minutes, but no digest")
            problems += missing
    return 1 if problems else 0


async def _list_known_tickers(db: pool.Database) -> list[str]:
    """Returns the tickers, and those of which only digests are left."""
    return sorted({*await digests.list_tickers(db), *(row["name"] for row in await tickers.list_tickers(db, time.time()))})


async def _is_deleted(db: pool.Database, entry: DigestEntry) -> bool:
    """Whether retention has deleted minutes of the day, or began to."""
    return entry.day < (await retention.horizons(db)).get(entry.ticker, times.FIRST)


async def _entries_of_ticker(db: pool.Database, name: str) -> AsyncIterator[tuple[DigestEntry, bool]]:
    """Yields each entry of a ticker by day and number, and whether it is the newest one of its day."""
    entry: DigestEntry | None = None
    while page := await digests.entries_of_ticker(db, name, entry, PAGE_ENTRIES):
        for following in page:
            if entry is not None:
                yield entry, entry.day != following.day
            entry = following
    if entry is not None:
        yield entry, True


async def _verify_ticker(db: pool.Database, name: str, position: int) -> int:
    """Recomputes all digests of a ticker. Returns the number of those that differ.

    The newest digest of a day must be that of its content as of `position`, up to which all changes are in the digests: so a
    minute that was added behind its back is found. An earlier digest is recomputed as of its own data version.
    """
    verified = deleted = differing = 0
    horizon = (await retention.horizons(db)).get(name, times.FIRST)
    with show_progress(name, None) as update:
        async for entry, is_newest in _entries_of_ticker(db, name):
            if entry.day < horizon:
                deleted += 1
            else:
                differing += await _report_difference(db, entry, max(entry.as_of, position) if is_newest else entry.as_of)
                verified += 1
            update(advance=1)
    suffix = f"; the minutes of {deleted} others are deleted" if deleted else ""
    print(f"{name}: {verified} digests verified, {differing} differ{suffix}")
    return differing


async def _verify_chain(db: pool.Database) -> int:
    previous, count, broken = GENESIS, 0, 0
    async for entry in _all_entries(db):
        count += 1
        if entry.number != count or entry.next_chain(previous) != entry.chain:
            day = times.iso(entry.day)[:10]
            print(f"entry {entry.number} of the chain ({entry.ticker} {day}) does not follow from the one before")
            broken += 1
            count = entry.number
        previous = entry.chain
    print(f"chain: {count} entries, {broken} do not follow" if broken else f"chain: {count} entries follow from each other")
    return broken


async def _report_difference(db: pool.Database, entry: DigestEntry, as_of: int) -> bool:
    """Prints which minutes of the day as of a data version differ from its digest. Returns whether any does."""
    found = await _compute(db, entry, as_of)
    if found.sha256 == entry.digest.sha256 or await _is_deleted(db, entry):  # it may have begun meanwhile
        return False
    differing = entry.digest.differing_minutes(found, entry.day)
    shown = ", ".join(times.iso(ts)[11:16] for ts in differing[:MAX_MINUTES_SHOWN])
    more = f" and {len(differing) - MAX_MINUTES_SHOWN} more" if len(differing) > MAX_MINUTES_SHOWN else ""
    where = f"the minutes {shown}{more}" if differing else "a minute that its digest does not identify"
    print(
        f"{entry.ticker} {times.iso(entry.day)[:10]}: {where} differ from the digest of data version {entry.as_of}; "
        f"it had {entry.digest.minutes} minutes, now {found.minutes}"
    )
    return True


async def _verify_file(db: pool.Database, file: Path, names: Sequence[str]) -> int:
    """Compares the archive with a file that `digest --all` or `export --days` wrote. Returns the number of problems."""
    listed, horizons = _read_file(file), await retention.horizons(db)
    if not listed:
        raise CommandLineError(f"{file} contains no digests")
    compared = deleted = problems = 0
    previous = GENESIS
    with show_progress(file.name, len(listed)) as update:
        for entry in listed:
            update(advance=1)
            day = f"{entry.ticker} {times.iso(entry.day)[:10]}"
            if entry.next_chain(previous) != entry.chain:
                print(f"{file}: entry {entry.number} ({day}) does not follow from the one before")
                problems += 1
            previous = entry.chain
            stored = await digests.entry_of_number(db, entry.number)
            if stored is None or stored.chain != entry.chain:
                print(f"{day}: entry {entry.number} of the archive's own chain differs from {file}")
                problems += 1
            if entry.day < horizons.get(entry.ticker, times.FIRST):
                deleted += 1
            elif not names or entry.ticker in names:
                compared += 1
                if (await _compute(db, entry, entry.as_of)).sha256 != entry.digest.sha256:
                    print(f"{day}: the archive differs from {file} as of data version {entry.as_of}")
                    problems += 1
    suffix = f"; the minutes of {deleted} others are deleted" if deleted else ""
    print(f"{file}: {compared} digests compared, {problems} problems{suffix}")
    return problems


async def _compute(db: pool.Database, entry: DigestEntry, as_of: int) -> DayDigest:
    return DayDigest.of_file(await digests.read_day_file(db, entry.ticker, entry.day, as_of), entry.day)


def _read_file(file: Path) -> list[DigestEntry]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = csv.DictReader(opened)
            if rows.fieldnames != CSV_HEADER.split(","):
                raise CommandLineError(f"{file} is not a file of digests with the columns {CSV_HEADER}")
            return [_parse_entry(row) for row in rows]
    except OSError as error:
        raise CommandLineError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CommandLineError(f"{file} is not a file of digests with the columns {CSV_HEADER}: {error}") from error


def _parse_entry(row: dict[str, str]) -> DigestEntry:
    digest = DayDigest(bytes.fromhex(row["sha256"]), int(row["minutes"]), b"")
    chain = bytes.fromhex(row["chain"])
    return DigestEntry(int(row["number"]), row["ticker"], times.parse(row["day"]), digest, int(row["as_of"]), chain)


async def _print_digests(settings: Settings, *, print_all: bool, as_json: bool) -> int:
    async with pool.open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph digest") as db:
        if print_all:
            print(CSV_HEADER)
            async for entry in _all_entries(db):
                print(f"{entry.line},{entry.chain.hex()}")
            return 0
        newest = await digests.latest_entry(db)
    if newest is None:
        sys.stderr.write("there is no digest yet: the worker computes them 15 minutes after the end of a UTC day\n")
        return 1
    values = {"number": str(newest.number), "chain": newest.chain.hex(), "data_version": str(newest.as_of)}
    if settings.signing_key_file is not None:
        signature = signing.sign(newest, settings.signing_key_file)
        values |= {"signature": signature.signature, "public_key": signature.public_key}
    if as_json:
        print(orjson.dumps(values).decode())
    else:
        for name, value in values.items():
            print(f"{name.replace('_', ' '):<13}{value}")
    return 0


async def _export_days(settings: Settings, folder: Path, names: Sequence[str], low: int, high: int) -> int:
    """Writes a file and a manifest for each ticker and closed day that has a digest. Files that are up to date stay."""
    written = 0
    async with pool.open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph export") as db:
        await require_known_tickers(db, names)
        newest = await digests.latest_entry(db)
        signature = (
            None if newest is None or settings.signing_key_file is None else signing.sign(newest, settings.signing_key_file)
        )
        horizons = await retention.horizons(db)
        for name in names or await _list_known_tickers(db):
            entries = await digests.newest_of_days(db, name, max(low, horizons.get(name, times.FIRST)), high)
            with show_progress(name, len(entries)) as update:
                for entry in entries:
                    written += await _write_day(db, folder, entry)
                    update(advance=1)
        lines = [CSV_HEADER, *[f"{entry.line},{entry.chain.hex()}" async for entry in _all_entries(db)]]
    _write_chain(folder, lines, newest, signature)
    sys.stderr.write(f"{folder}: {written} day files written\n")
    return 0


def _day_path(folder: Path, entry: DigestEntry) -> Path:
    return folder / entry.ticker / f"{entry.ticker}-{times.iso(entry.day)[:10]}.csv"


async def _write_day(db: pool.Database, folder: Path, entry: DigestEntry) -> bool:
    path = _day_path(folder, entry)
    manifest_path = path.with_suffix(".json")
    if (
        path.exists()
        and manifest_path.exists()
        and orjson.loads(manifest_path.read_bytes())["sha256"] == entry.digest.sha256.hex()
    ):
        return False
    content = await digests.read_day_file(db, entry.ticker, entry.day, entry.as_of)
    if DayDigest.of_file(content, entry.day).sha256 != entry.digest.sha256:
        if await _is_deleted(db, entry):  # meanwhile
            return False
        raise CommandLineError(f"{entry.ticker} {times.iso(entry.day)[:10]} differs from its digest. Run `python -m db verify`")
    _replace(path, content)
    _replace(
        manifest_path, orjson.dumps(await _manifest(db, path, entry), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    return True


async def _manifest(db: pool.Database, path: Path, entry: DigestEntry) -> dict[str, Any]:
    end = entry.day + times.DAY
    snapshot = Snapshot(entry.as_of, times.END - times.MINUTE)
    counts = await coverage.count(db, entry.ticker, entry.day, end, times.END, snapshot)
    found = await gaps.periods(db, entry.ticker, entry.day, end, ["OPEN", "FILLED", "GIVEN_UP"], MAX_GAPS, snapshot=snapshot)
    return {
        "file": path.name,
        "ticker": entry.ticker,
        "day": times.iso(entry.day)[:10],
        "sha256": entry.digest.sha256.hex(),
        "minutes": entry.digest.minutes,
        "complete": entry.digest.minutes == digests.MINUTES_PER_DAY,
        "expected": counts.expected,
        "missing": counts.missing,
        "sources": {
            "LIVE": counts.live,
            "BACKFILL": counts.backfilled,
            "IMPORT": counts.imported,
            "PEER": counts.from_peers,
            "not expected": counts.extra,
        },
        "gaps": [
            {"from": times.iso(gap["low"]), "to": times.iso(gap["high"]), "reason": gap["reason"], "state": gap["state"]}
            for gap in found
        ],
        "data_version": str(entry.as_of),
        "number": entry.number,
        "chain": entry.chain.hex(),
    }


def _write_chain(folder: Path, lines: Sequence[str], newest: DigestEntry | None, signature: signing.Signature | None) -> None:
    _replace(folder / CHAIN_FILE, "".join(f"{line}\n" for line in lines).encode())
    if newest is not None:
        values = {"number": newest.number, "chain": newest.chain.hex(), "data_version": str(newest.as_of)}
        if signature is not None:
            values |= {"signature": signature.signature, "public_key": signature.public_key}
        _replace(folder / "latest.json", orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    manifests = sorted(path for path in folder.glob("*/*.json"))
    sums = [f"{orjson.loads(path.read_bytes())['sha256']}  {path.parent.name}/{path.stem}.csv\n" for path in manifests]
    _replace(folder / SUMS_FILE, "".join(sums).encode())


def _replace(path: Path, content: bytes) -> None:
    """Writes a file, in a folder that may not exist yet, so that a reader sees either the old or the new content."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise CommandLineError(f"{path} cannot be written: {error.strerror}") from error
