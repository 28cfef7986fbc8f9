"""Duration of the import of a year, compared with a plain COPY of the same rows into the same table.

python -m tests.bench.bulk_import [--rows 525600] [--rounds 3]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from db import migrate
from db.runtime import embedded
from ingest.simulator import market
from tests.conftest import ROOT
from tests.sample_data import START_TS


def main() -> None:
    """Prints each round, the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=525_600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        file = Path(folder) / "year.csv"
        _write_csv(file, options.rows)
        copies, imports = [], []
        for _ in range(options.rounds):
            copies.append(_plain_copy(server.url, file))
            seconds, megabytes = _import(server.url, file)
            imports.append(seconds)
            print(f"COPY {copies[-1]:6.2f} s   import {seconds:6.2f} s   at most {megabytes} MB resident", flush=True)
    copied, imported = statistics.median(copies), statistics.median(imports)
    print(f"{options.rows:,} rows: COPY {copied:.2f} s, import {imported:.2f} s, ratio {imported / copied:.2f}")


def _write_csv(file: Path, rows: int) -> None:
    with file.open("w") as out:
        out.write("ts,price\n")
        for number in range(rows):
            ts = START_TS + 60 * number
            out.write(f"{ts},{market.price('btc_usd', ts)}\n")


def _recreate_database(url: str) -> None:
    async def recreate() -> None:
        admin = await asyncpg.connect(url.removesuffix("/tickgraph") + "/postgres")
        await admin.execute("DROP DATABASE IF EXISTS tickgraph WITH (FORCE)")
        await admin.execute("CREATE DATABASE tickgraph")
        await admin.execute("CHECKPOINT")
        await admin.close()

    asyncio.run(recreate())
    migrate.upgrade(url)


def _plain_copy(url: str, file: Path) -> float:
    _recreate_database(url)
    psql = [str(embedded.postgres_program("psql")), "-qX", url]
    subprocess.run([*psql, "-c", "INSERT INTO ticker (name) VALUES ('btc_usd')"], check=True)  # noqa: S603  our own
    copy_file = file.with_suffix(".copy")
    with file.open() as rows, copy_file.open("w") as out:
        next(rows)
        out.writelines(f"btc_usd,{row.rstrip()},IMPORT\n" for row in rows)
    started_at = time.perf_counter()
    subprocess.run(  # noqa: S603  our own command
        [*psql, "-c", f"\\copy price (ticker, ts, price, source) FROM '{copy_file}' WITH (FORMAT csv)"], check=True
    )
    return time.perf_counter() - started_at


def _import(url: str, file: Path) -> tuple[float, int]:
    """Returns the seconds and the peak memory in megabytes of an import."""
    _recreate_database(url)
    command = [sys.executable, "-m", "ingest", "import", str(file), "--ticker", "btc_usd"]
    started_at = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603  our own command
        command, cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - started_at, usage.ru_maxrss // 1024


if __name__ == "__main__":
    main()
