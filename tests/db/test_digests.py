"""Digests of days: computed once, changed only with the content, chained, and checked by `verify` and by files."""

import asyncio
import os
import random
import re
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import migrate, times
from db.pool import Database, open_database
from db.queries import bulk_import, digests, gaps, history_export, prices, ranges, tickers, write_lock
from db.queries.digests import GENESIS, DayDigest
from db.rows import PriceRow, RangeRow, Reason, Source
from graph.settings import Settings
from ingest.jobs.digests import update_digests
from tests.conftest import ROOT
from tests.graph.conftest import run_api
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

DAY = START_TS // times.DAY * times.DAY
NOW = DAY + 3 * times.DAY + 16 * 60


def run_verb(dsn: str, *arguments: str, status: int = 0, package: str = "db", **environment: str) -> str:
    """Runs a verb of `python -m db` or of another package. Returns its standard output and error output."""
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", package, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"DATABASE_URL": dsn, "PATH": "/usr/bin:/bin", "LOG_LEVEL": "WARNING", **environment},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def run(*command: str, cwd: Path | None = None) -> str:
    """Runs a program of the system. Returns its output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603  fixed programs
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def _fill(db: Database) -> None:
    """Stores prices and ranges of two tickers on two days."""
    await track(db, "btc_usd", "eth_usd", since=DAY)
    for ticker in ("btc_usd", "eth_usd"):
        minutes = [DAY + times.MINUTE * n for n in (*range(5), *range(1_500, 1_505))]
        await store(db, [row(ticker, ts, str(100 + n)) for n, ts in enumerate(minutes)])
        await store_ranges(db, [range_row(ticker, ts) for ts in minutes[::2]])


async def _entries(db: Database) -> list[tuple[int, str, int, int]]:
    return [(e.number, e.ticker, (e.day - DAY) // times.DAY, e.digest.minutes) for e in await digests.entries_after(db, 0, 100)]


async def test_a_day_gets_a_digest_once_it_is_over_and_another_only_if_it_changes(db: Database) -> None:
    await _fill(db)
    await update_digests(DAY + times.DAY + 14 * 60, db)
    assert await _entries(db) == []
    await update_digests(DAY + times.DAY + 15 * 60, db)
    first_day = [(1, "btc_usd", 0, 5), (2, "eth_usd", 0, 5)]
    assert await _entries(db) == first_day
    await update_digests(NOW, db)
    both_days = [*first_day, (3, "btc_usd", 1, 5), (4, "eth_usd", 1, 5)]
    assert await _entries(db) == both_days
    await update_digests(NOW, db)
    assert await _entries(db) == both_days
    await store(db, [row("eth_usd", DAY + 600, source=Source.BACKFILL)])
    await store_ranges(db, [range_row("btc_usd", DAY + times.DAY + 3 * 86_400)])  # its day has no price, so it has no file
    await update_digests(NOW, db)
    await store_ranges(db, [range_row("btc_usd", DAY)])  # the same range again: the content is the same
    await update_digests(NOW, db)
    assert await _entries(db) == [*both_days, (5, "eth_usd", 0, 6)]
    entries = await digests.entries_after(db, 0, 100)
    assert entries[0].next_chain(GENESIS) == entries[0].chain
    assert all(entry.next_chain(previous.chain) == entry.chain for previous, entry in pairwise(entries))


async def test_days_of_an_import_before_and_of_candles_built_later_get_digests(db: Database) -> None:
    await _fill(db)
    await update_digests(NOW, db)
    async with write_lock.write_transaction(db) as connection:
        rows: list[bulk_import.Row] = [(DAY - n * times.DAY, "90", None, None, None) for n in (400, 2, 1)]
        await bulk_import.merge(connection, "btc_usd", rows)
    await update_digests(NOW, db)
    assert (await _entries(db))[4:] == [(5, "btc_usd", -400, 1), (6, "btc_usd", -2, 1), (7, "btc_usd", -1, 1)]


async def test_candles_of_an_older_release_get_their_last_id(db: Database) -> None:
    await _fill(db)
    await db.execute("UPDATE candle SET last_id = NULL")
    await update_digests(NOW, db)
    assert await db.fetchval("SELECT count(*) FROM candle WHERE last_id IS NULL") == 0


@pytest.mark.parametrize("seed", range(2))
async def test_the_digest_is_independent_of_the_order_of_commits(db: Database, seed: int) -> None:
    """Two tickers get the same rows, in different orders and transactions. Their files differ in the name alone."""
    chance = random.Random(seed)  # noqa: S311  samples
    await track(db, "btc_usd", "eth_usd", since=DAY)
    samples = [(DAY + times.MINUTE * n, str(chance.randint(1, 999)), chance.choice([1, None])) for n in range(40)]

    def rows(ticker: str, order: Sequence[int]) -> list[PriceRow | RangeRow]:
        found: list[PriceRow | RangeRow] = []
        for number in order:
            ts, price, at_s = samples[number]
            found.append(row(ticker, ts, price, at_s=at_s, source=Source.LIVE if at_s else Source.BACKFILL))
            if number % 3 == 0:
                found.append(range_row(ticker, ts))
        return found

    for ticker in ("btc_usd", "eth_usd"):
        shuffled = rows(ticker, range(len(samples)))
        chance.shuffle(shuffled)
        while shuffled:
            size = chance.randint(1, 12)
            part, shuffled = shuffled[:size], shuffled[size:]
            async with write_lock.write_transaction(db) as connection:
                found_prices = [one for one in part if isinstance(one, PriceRow)]
                if found_prices:
                    await prices.store(connection, found_prices)
                found_ranges = [one for one in part if isinstance(one, RangeRow)]
                if found_ranges:
                    await ranges.store(connection, found_ranges, {})
    files = [await digests.read_day_file(db, ticker, DAY, 2**62) for ticker in ("btc_usd", "eth_usd")]
    assert files[0].replace(b"btc_usd", b"eth_usd") == files[1]
    assert DayDigest.of_file(files[1], DAY) == DayDigest.of_file(files[0].replace(b"btc_usd", b"eth_usd"), DAY)


@given(st.sets(st.integers(0, 1_439)), st.sets(st.integers(0, 1_439)))
def test_differing_minutes_are_those_with_other_lines(present: set[int], changed: set[int]) -> None:
    def digest(extra: str) -> DayDigest:
        lines = [f"btc_usd,{60 * n},{n}{extra if n in changed else ''}\n" for n in sorted(present)]
        return DayDigest.of_file(("ticker,ts,price\n" + "".join(lines)).encode(), 0)

    before, after = digest(""), digest("5")
    found = set(before.differing_minutes(after, 0))
    assert found <= {60 * n for n in present & changed}
    assert len(found) >= len(present & changed) * 0.9 - 2, "one in 256 is not found"
    assert (before.sha256 == after.sha256) == (not present & changed)


@pytest.mark.slow
async def test_verify_names_the_day_and_the_minute_that_differ(dsn: str, db: Database) -> None:
    await _fill(db)
    await update_digests(NOW, db)
    output = run_verb(dsn, "verify")
    assert output.splitlines() == [
        "chain: 4 entries follow from each other",
        "btc_usd: 2 digests verified, 0 differ",
        "eth_usd: 2 digests verified, 0 differ",
    ]
    await store(db, [row("btc_usd", DAY + 900)])
    assert run_verb(dsn, "verify") == output, "a later minute is no difference as of that version"
    await db.execute("UPDATE price SET price = 12345 WHERE ticker = 'btc_usd' AND ts = $1", DAY + 120)
    await db.execute("DELETE FROM price WHERE ticker = 'btc_usd' AND ts = $1", DAY + 180)
    output = run_verb(dsn, "verify", "btc_usd", status=1)
    assert re.search(
        r"^btc_usd 2024-01-15: the minutes 00:02, 00:03 differ from the digest of data version \d+; it had 5 minutes, now 4$",
        output,
        re.MULTILINE,
    ), output
    assert "btc_usd: 2 digests verified, 1 differ" in output
    await db.execute("UPDATE digest SET sha256 = sha256(sha256) WHERE number = 3")
    output = run_verb(dsn, "verify", "eth_usd", status=1)
    assert "entry 3 of the chain (btc_usd 2024-01-16) does not follow from the one before" in output


async def test_verify_finds_a_price_that_was_replaced_before_its_day_got_another_digest(dsn: str, db: Database) -> None:
    await _fill(db)
    await update_digests(NOW, db)
    await db.execute("DELETE FROM price WHERE ticker = 'btc_usd' AND ts = $1", DAY + 120)
    await store(db, [row("btc_usd", DAY + 120, "77")])
    await update_digests(NOW, db)
    assert (await _entries(db))[-1] == (5, "btc_usd", 0, 5)
    assert "btc_usd 2024-01-15: the minutes 00:02 differ" in run_verb(dsn, "verify", status=1)


@pytest.mark.slow
async def test_verify_finds_minutes_that_were_added_past_the_worker_and_digests_that_are_late(dsn: str, db: Database) -> None:
    await _fill(db)
    await store(db, [row("btc_usd", DAY + 3 * 86_400)])
    await update_digests(NOW, db)
    await db.execute("UPDATE price SET id = id + 1000 WHERE ts = $1", DAY + 3 * 86_400)  # leaves ids for rows of somebody else
    await db.execute("UPDATE digest_progress SET position = position + 1000")
    unused = await db.fetchval("SELECT max(id) + 1 FROM price WHERE ts < $1", DAY + 3 * 86_400)
    await db.execute(
        "INSERT INTO price (id, ticker, ts, price, source) OVERRIDING SYSTEM VALUE VALUES ($1, 'btc_usd', $2, 5, 'IMPORT')",
        unused,
        DAY + 360,
    )
    assert "btc_usd 2024-01-15: the minutes 00:06 differ from the digest" in run_verb(dsn, "verify", status=1)
    await db.execute("DELETE FROM price WHERE id = $1", unused)
    await db.execute("DELETE FROM digest_progress")
    await db.execute("INSERT INTO version_time SELECT max(id), $1 FROM price", int(time.time()) // 60 * 60 - 2 * 86_400)
    assert "changes of more than a day ago are not in the digests" in run_verb(dsn, "verify", status=1)


@pytest.mark.slow
async def test_verify_looks_at_deleted_tickers_wrong_horizons_and_missing_digests(dsn: str, db: Database) -> None:
    await _fill(db)
    await update_digests(NOW, db)
    await db.execute("UPDATE ticker SET horizon = $1", 4_000_000_020)  # in the future
    await db.execute("DELETE FROM digest WHERE number = 4")
    await db.execute("DELETE FROM price WHERE ticker = 'btc_usd'")
    output = run_verb(dsn, "verify", status=1)
    assert "btc_usd: 2 digests verified, 2 differ" in output
    assert "eth_usd: 1 days have minutes, but no digest" in output


async def test_a_horizon_in_the_future_skips_no_digest(db: Database) -> None:
    await _fill(db)
    await db.execute("UPDATE ticker SET horizon = $1 WHERE name = 'eth_usd'", 4_000_000_020)
    await update_digests(NOW, db)
    assert {ticker for _, ticker, _, _ in await _entries(db)} == {"btc_usd", "eth_usd"}


async def test_runs_without_time_make_progress(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.jobs.digests.BATCH_DAYS", 3)
    remaining = iter([1.0] * 1_000)
    monkeypatch.setattr("ingest.jobs.deadline.Deadline.remaining_s", lambda _self: next(remaining, 0.0))
    await _fill(db)
    await update_digests(NOW, db)
    async with write_lock.write_transaction(db) as connection:
        rows: list[bulk_import.Row] = [(DAY - n * times.DAY, "90", None, None, None) for n in range(20, 0, -1)]
        await bulk_import.merge(connection, "btc_usd", rows)
    for run_count in range(1, 4):
        remaining = iter([1.0] * 2)  # time for one batch
        await update_digests(NOW, db)
        assert len(await _entries(db)) == 4 + 3 * run_count
    remaining = iter([1.0] * 1_000)
    await update_digests(NOW, db)
    assert [day for _, _, day, _ in (await _entries(db))[4:]] == list(range(-20, 0))


async def test_a_day_that_a_wrong_clock_closed_too_early_gets_another_digest(db: Database) -> None:
    await _fill(db)
    await update_digests(NOW, db)
    await store(db, [row("btc_usd", DAY + 1_440 * 60 + 600)])
    async with write_lock.write_transaction(db) as connection:
        await tickers.add(connection, ["sol_usd"])
    await store(db, [row("sol_usd", DAY + 1_440 * 60 + 600)])
    await update_digests(DAY + times.DAY + 3_600, db)  # the right clock: the second day is not over
    assert {(ticker, day) for _, ticker, day, _ in (await _entries(db))[4:]} == {("btc_usd", 1), ("sol_usd", 1)}


@pytest.mark.slow
async def test_verify_compares_with_a_file_that_somebody_else_has(dsn: str, db: Database, tmp_path: Path) -> None:
    await _fill(db)
    await update_digests(NOW, db)
    file = tmp_path / "digests.csv"
    file.write_text(run_verb(dsn, "digest", "--all"))
    assert f"{file}: 4 digests compared, 0 problems" in run_verb(dsn, "verify", "--digests", str(file))
    await db.execute("UPDATE price SET price = 12345 WHERE ticker = 'eth_usd' AND ts = $1", DAY + 120)
    await db.execute("DELETE FROM digest")  # also without digests of its own, the archive is compared with the file
    output = run_verb(dsn, "verify", "--digests", str(file), status=1)
    assert "eth_usd 2024-01-15: the archive differs from" in output
    for content in ("day,hash\n", "number,ticker\n1,btc_usd\n", file.read_text().replace(",5,", ",five,")):
        file.write_text(content)
        assert "is not a file of digests" in run_verb(dsn, "verify", "--digests", str(file), status=1)


@pytest.mark.slow
async def test_day_files_are_checked_by_sha256sum_and_imported_again(dsn: str, db: Database, tmp_path: Path) -> None:
    await _fill(db)
    async with write_lock.write_transaction(db) as connection:
        await tickers.add(connection, ["btc_usd"])
        lost = {("btc_usd", DAY + times.MINUTE * n): Reason.MAINTENANCE for n in (5, 6, 7)}
        await gaps.open_gaps(connection, lost)
    await update_digests(NOW, db)
    folder = tmp_path / "archive"
    assert "4 day files written" in run_verb(dsn, "export", "--days", str(folder))
    assert "0 day files written" in run_verb(dsn, "export", "--days", str(folder))
    assert run("sha256sum", "-c", "SHA256SUMS", cwd=folder).count(": OK") == 4
    manifest = orjson.loads((folder / "btc_usd" / "btc_usd-2024-01-15.json").read_bytes())
    assert (manifest["minutes"], manifest["complete"], manifest["expected"], manifest["missing"]) == (5, False, 1_440, 1_435)
    assert manifest["sources"] == {"LIVE": 5, "BACKFILL": 0, "IMPORT": 0, "PEER": 0, "not expected": 0}
    gap = {"from": "2024-01-15T00:05:00Z", "to": "2024-01-15T00:08:00Z", "reason": "maintenance", "state": "OPEN"}
    assert manifest["gaps"] == [gap]
    entries = {entry.number: entry for entry in await digests.entries_after(db, 0, 10)}
    assert manifest["chain"] == entries[manifest["number"]].chain.hex()
    file = folder / "btc_usd" / "btc_usd-2024-01-15.csv"
    assert file.read_bytes() == await digests.read_day_file(db, "btc_usd", DAY, int(manifest["data_version"]))
    await store(db, [row("btc_usd", DAY + 900)])
    await update_digests(NOW, db)
    assert "1 day files written" in run_verb(dsn, "export", "btc_usd", "--days", str(folder))
    assert file.read_text().count("\n") == 7
    window = ("btc_usd", "--from", "2024-01-15", "--to", "2024-01-16", "--columns", "ts,price")
    assert run_verb(dsn, "export", *window).count("\n") == 7
    assert run_verb(dsn, "export", *window, "--as-of", manifest["data_version"]).count("\n") == 6


@pytest.mark.slow
async def test_the_newest_digest_is_signed(dsn: str, db: Database, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    assert "there is no digest yet" in run_verb(dsn, "digest", "--latest", status=1)
    await _fill(db)
    await update_digests(NOW, db)
    key = tmp_path / "key.pem"
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key))
    found = orjson.loads(run_verb(dsn, "digest", "--latest", "--json", SIGNING_KEY_FILE=str(key)))
    public_key = Ed25519PublicKey.from_public_bytes(b64decode(found["public_key"]))
    public_key.verify(b64decode(found["signature"]), f"tickgraph {found['number']} {found['chain']}\n".encode())
    newest = await digests.latest_entry(db)
    assert newest is not None
    assert (found["number"], found["chain"]) == ("4", newest.chain.hex())
    key.write_text("not a key")
    assert "is not a PEM file of a private key" in run_verb(dsn, "digest", SIGNING_KEY_FILE=str(key), status=1)
    assert "No such file" in run_verb(dsn, "digest", SIGNING_KEY_FILE=str(tmp_path / "missing"), status=1)


@pytest.mark.slow
async def test_the_page_about_verification_runs_as_written(dsn: str, db: Database, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "verification.md").read_text()
    key_block, sums_block, signature_block, export_block = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "check_chain.py").write_text(program)
    await _fill(db)
    await update_digests(NOW, db)
    run("bash", "-ec", key_block, cwd=tmp_path)
    published = orjson.loads(run_verb(dsn, "digest", "--json"))["chain"]
    await store(db, [row("btc_usd", DAY + 900)])
    await update_digests(NOW, db)  # the published value stays in the chain
    run_verb(dsn, "export", "--days", str(tmp_path / "archive"), SIGNING_KEY_FILE=str(tmp_path / "signing.pem"))
    run("bash", "-ec", sums_block, cwd=tmp_path)
    check = [sys.executable, "check_chain.py", "archive"]
    assert run(*check, published, cwd=tmp_path).startswith("4 day files agree with the chain")
    assert "Signature Verified Successfully" in run("bash", "-ec", signature_block, cwd=tmp_path)
    async with run_api(Settings(database_url=dsn)) as api:
        days = {"DAY": times.iso(DAY), "NEXT_DAY": times.iso(DAY + times.DAY), "TICKGRAPH": api.url, "PATH": os.environ["PATH"]}
        checking = await asyncio.create_subprocess_exec(
            "bash", "-ec", export_block, cwd=tmp_path, env=days, stdout=asyncio.subprocess.PIPE
        )
        assert (await checking.communicate())[0] == b"day.csv: OK\n"
    with pytest.raises(AssertionError, match="is not in the chain"):
        run(*check, "0" * 64, cwd=tmp_path)
    file = tmp_path / "archive" / "btc_usd" / "btc_usd-2024-01-16.csv"
    file.write_text(file.read_text().replace("LIVE", "IMPORT", 1))
    with pytest.raises(AssertionError, match="the file of btc_usd on 2024-01-16 differs from its digest"):
        run(*check, published, cwd=tmp_path)
    chain = tmp_path / "archive" / "digests.csv"
    chain.write_text(chain.read_text().replace("btc_usd", "eth_usd", 1))
    with pytest.raises(AssertionError, match="entry 1 does not follow from the one before"):
        run(*check, published, cwd=tmp_path)


@pytest.mark.slow
async def test_a_day_file_is_imported_with_its_original_sources(dsn: str, db: Database, empty_dsn: str, tmp_path: Path) -> None:
    await track(db, "btc_usd", since=DAY)
    await store(db, [row("btc_usd", DAY + 60 * n, at_s=1.25) for n in range(3)])
    peer_row = {"ticker": "btc_usd", "ts": DAY + 180, "price": 7, "observed_at": (DAY + 190) * 10**6, "source": "PEER"}
    await store(db, [PriceRow.model_validate(peer_row | {"peer": "https://b.example.org"})])
    await store_ranges(db, [range_row("btc_usd", DAY)])
    await update_digests(NOW, db)
    run_verb(dsn, "export", "--days", str(tmp_path))
    await asyncio.to_thread(migrate.upgrade, empty_dsn)
    file = tmp_path / "btc_usd" / "btc_usd-2024-01-15.csv"
    run_verb(empty_dsn, "import", str(file), "--ticker", "btc_usd", package="ingest")
    async with open_database(empty_dsn, application_name="tests") as imported_db:
        before, after = [await prices.window(site, "btc_usd", DAY, NOW, newest_first=False) for site in (db, imported_db)]
        imported_ranges = await imported_db.fetch("SELECT ts, open, high, low, close FROM minute_range")
    assert [(r["ts"], r["price"], r["observed_at"]) for r in after] == [(r["ts"], r["price"], r["observed_at"]) for r in before]
    assert [(r["source"], r["original_source"]) for r in after] == [("IMPORT", source) for source in ("LIVE",) * 3 + ("PEER",)]
    assert [tuple(r) for r in imported_ranges] == [(DAY, 90, 110, 90, 110)]


async def test_the_canonical_columns_are_all_columns_of_an_export() -> None:
    assert digests.DAY_SHAPE.columns == history_export.DAY_COLUMNS
    assert digests.DAY_SHAPE.header == (
        b"ticker,ts,price,observed_at,source,original_source,peer,open,high,low,close,twap,ticks,watched_s,longest_silence_s,"
        b"opened_ms,closed_ms,range_source\n"
    ), "a change of the columns changes every digest: add a version to the chain first"
