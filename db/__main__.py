"""Manages the servers, the schema and the stored data from the command line (`python -m db`)."""

import argparse
import sys
from pathlib import Path

from db import times
from db.runtime import cli

EXAMPLES = """examples:
  python -m db with-servers -- alembic current     # run a command with PostgreSQL and Valkey
  python -m db migrate                             # upgrade the configured database
  python -m db psql -- -c 'SELECT count(*) FROM price'
  python -m db verify-candles btc_usd              # compare candles with their minute prices
  python -m db export btc_usd --output btc_usd.csv # `python -m ingest import` can read this file
  python -m db export --days archive               # day files with checksums, for anybody to check
  python -m db verify                              # recompute the digests of all days
  python -m db digest --latest                     # the value that fixes all history before it
  python -m db backup                              # write a timestamped file to this folder
  python -m db restore tickgraph-20261121T220000Z.dump
  python -m db forget --before 2025-01-01          # preview; add --yes to delete
  python -m db views                               # create price_ticks and price_records
  python -m db reader                              # a role and views for dashboards
  python -m db stop                                # stop what `make up` started in this folder
"""


def build() -> cli.CommandLine:
    """Returns the command line with all verbs."""
    verbs = cli.CommandLine("db", __doc__, EXAMPLES)
    with_servers = verbs.add(
        "with-servers",
        "db.with_servers:run",
        "start embedded PostgreSQL and Valkey where none is configured, migrate, run a command, then stop them",
        "with-servers -- alembic current",
    )
    with_servers.add_argument(
        "--demo", action="store_true", help="use embedded servers with separate data in DATA_DIR/demo, ignoring configured ones"
    )
    with_servers.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    migrate = verbs.add("migrate", "db.commands:run_migrate", "migrate the database to the newest schema", "migrate")
    migrate.add_argument("--mark-demo", action="store_true", help=argparse.SUPPRESS)  # for `with-servers --demo`
    psql = verbs.add(
        "psql",
        "db.commands:run_psql",
        "open psql on the configured database, or on the running embedded one",
        "psql -- -c 'SELECT count(*) FROM price'",
    )
    psql.add_argument("command", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS…")
    verify = verbs.add(
        "verify-candles",
        "db.commands:run_verify_candles",
        "recompute all candles from minute prices; exit status 1 if any differs",
        "verify-candles btc_usd",
    )
    verify.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, for example btc_usd (default: all)")
    archive = verbs.add(
        "verify",
        "db.archive:run_verify",
        "recompute all digests of days and the hash chain; exit status 1 if any differs",
        "verify --digests digests.csv",
    )
    archive.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, for example btc_usd (default: all)")
    archive.add_argument(
        "--digests", type=Path, metavar="FILE", help="compare with a file of `digest --all` or `export --days` instead"
    )
    digest = verbs.add(
        "digest",
        "db.archive:run_digest",
        "print the newest value of the hash chain, which fixes all history before it",
        "digest --latest",
    )
    what = digest.add_mutually_exclusive_group()
    what.add_argument("--latest", action="store_true", help="print the newest entry (this is the default)")
    what.add_argument("--all", action="store_true", help="print all entries as CSV")
    digest.add_argument("--json", action="store_true", help="print the newest entry as JSON")
    export = verbs.add(
        "export",
        "db.archive:run_export",
        "write the history of tickers to a file or to standard output",
        "export btc_usd --from 2024-01-15 --output btc_usd.csv",
    )
    instant = cli.argument("db.times:parse")
    export.add_argument(
        "tickers", metavar="TICKER", nargs="*", help="index name, for example btc_usd (with --days: default all)"
    )
    export.add_argument(
        "--from", dest="start", type=instant, default=times.FIRST, help="start; UNIX seconds or ISO 8601 (default: oldest)"
    )
    export.add_argument("--to", dest="end", type=instant, default=times.END, help="end, exclusive (default: no limit)")
    export.add_argument(
        "--format",
        choices=["csv", "jsonl", "parquet", "arrow"],
        default="csv",
        help="csv with header (default), jsonl, or, with pyarrow, parquet or arrow",
    )
    export.add_argument(
        "--columns",
        help="columns, separated by commas: ticker, ts, price, observed_at, source, original_source (these are the default; in "
        "parquet and arrow time instead of ts), time, "
        "peer, open, high, low, close, twap, ticks, watched_s, longest_silence_s, opened_ms, closed_ms, range_source",
    )
    export.add_argument(
        "--interval",
        type=cli.argument("db.export:parse_interval"),
        help="candles instead of minutes: ONE_HOUR, ONE_DAY, … as in GraphQL",
    )
    export.add_argument(
        "--layout",
        choices=["long", "wide"],
        default="long",
        help="several tickers one after the other (default), or side by side, a column of prices for each",
    )
    export.add_argument(
        "--partition",
        choices=["month"],
        help="write ticker=…/month=…/data.parquet into the folder of --output: one table for DuckDB, polars and Spark",
    )
    export.add_argument("--as-of", type=int, metavar="VERSION", help="data version to read (default: the newest)")
    export.add_argument(
        "--days",
        type=Path,
        metavar="DIR",
        help="write a CSV file and a manifest for each ticker and UTC day that is over, with checksums and the hash chain",
    )
    export.add_argument("--output", type=Path, help="output file (default: standard output)")
    back_up = verbs.add(
        "backup",
        "db.commands:run_backup",
        "write the whole database to a file in the custom format of pg_dump",
        "backup --output tickgraph.dump",
    )
    back_up.add_argument("--output", type=Path, help="output file (default: tickgraph-TIME.dump in this folder)")
    restore = verbs.add(
        "restore",
        "db.commands:run_restore",
        "restore a backup into an empty database or DATA_DIR, in one transaction",
        "restore tickgraph-20261121T220000Z.dump",
    )
    restore.add_argument("file", type=Path, help="file written by `backup`")
    restore.add_argument("--force", action="store_true", help="also restore a backup of the demo, whose prices are simulated")
    forget = verbs.add(
        "forget",
        "db.commands:run_forget",
        "delete old minutes that RETENTION_DAYS does not delete automatically, or reset horizons in the future",
        "forget --before 2025-01-01 --yes",
    )
    mode = forget.add_mutually_exclusive_group(required=True)
    mode.add_argument("--before", type=instant, help="first UTC day to retain; UNIX seconds or ISO 8601")
    mode.add_argument("--reset", action="store_true", help="reset horizons that a wrong clock set to the future")
    forget.add_argument("--yes", action="store_true", help="delete; without it, only show what would be deleted")
    views = verbs.add(
        "views",
        "db.commands:run_views",
        "create the views price_ticks and price_records, the table names of other trackers",
        "views && python -m db psql -- -c 'SELECT * FROM price_ticks LIMIT 3'",
    )
    views.add_argument("--drop", action="store_true", help="drop the views")
    reader = verbs.add(
        "reader",
        "db.commands:run_reader",
        "create the views v_price, v_candle and v_gap, and a role that can only read them; sets a new password each time",
        "reader",
    )
    reader.add_argument("--name", default="tickgraph_reader", help="name of the role (default: %(default)s)")
    reader.add_argument("--drop", action="store_true", help="drop the views and the role")
    verbs.add(
        "stop", "db.commands:run_stop", "stop the process that uses the data folder, and wait until it has exited", "stop"
    )
    return verbs


if __name__ == "__main__":
    sys.exit(build().main())
