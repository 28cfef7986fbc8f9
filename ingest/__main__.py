"""`python -m ingest`: runs the worker, the scheduler, single jobs and a simulated exchange, and shows the status."""

import argparse
import sys
from pathlib import Path

from db import times
from db.runtime import cli
from ingest.imports.columns import PRICE_NAMES, TICKER_NAMES, TIME_NAMES, UNITS

EXAMPLES = """examples:
  python -m ingest work --threads 4                        # like `dramatiq ingest.broker:broker ingest.actors`
  python -m ingest schedule                                # like `periodiq ingest.broker:broker ingest.actors`
  python -m ingest stream                                  # the ticks of each minute, from Deribit's WebSocket
  python -m ingest status                                  # the system status as a table
  python -m ingest gaps --open                             # missing minutes and their reasons
  python -m ingest alerts                                  # alerts, and webhooks that are not delivered
  python -m ingest import history.csv.gz --ticker btc_usd  # history from a file
  python -m ingest simulate --port 8090                    # a simulated exchange on http://127.0.0.1:8090/api/v2
  python -m ingest with-simulator -- COMMAND               # the same, with DERIBIT_RPC_URL set for COMMAND
  curl -X POST 127.0.0.1:8090/control/faults -d '{"name": "http_503", "index": "btc_usd", "times": 3}'
"""
FAULT_EXAMPLE = """simulate --port 8090
  curl -X POST 127.0.0.1:8090/control/faults -d '{"name": "http_503", "index": "btc_usd", "times": 3}'
  curl 127.0.0.1:8090/control   # clock, faults and the names of all faults"""
TICKER = cli.argument("ingest.settings:parse_index_name")
INSTANT = cli.argument("db.times:parse")
NUMBER = cli.argument("ingest.commands.alerts:parse_number")


def build() -> cli.CommandLine:
    """Returns the command line with all verbs."""
    verbs = cli.CommandLine("ingest", __doc__, EXAMPLES)
    verbs.add("check", "ingest.commands.work:check_settings", "validate the settings and list their problems", "check")
    work = verbs.add("work", "ingest.commands.work:work", "run a worker until stopped", "work --threads 4")
    work.add_argument("--processes", type=int, default=1, help="worker processes (default: %(default)s)")
    work.add_argument("--threads", type=int, default=4, help="concurrent messages in each process (default: %(default)s)")
    verbs.add("schedule", "ingest.commands.work:schedule", "send the messages of every minute until stopped", "schedule")
    verbs.add(
        "stream",
        "ingest.commands.stream:run",
        "collect the ticks of every minute until stopped, unless STREAM=false",
        "stream   # settings: STREAM, DERIBIT_WS_URL, TICKS_DAYS, STREAM_METRICS_PORT",
    )
    healthy = verbs.add(
        "healthy",
        "ingest.commands.work:check_health",
        "exit with 0 if Redis accepts writes; for container health checks",
        "healthy --worker",
    )
    healthy.add_argument("--worker", action="store_true", help="also check that a worker runs on this host")
    healthy.add_argument("--stream", action="store_true", help="also check that a stream process runs on this host")
    alerts = verbs.add(
        "alerts",
        "ingest.commands.alerts:run",
        "list, add, mute, unmute, test or delete alerts, whose webhooks the workers deliver",
        "alerts add btc_usd --kind CROSSES --level 70000 --url https://example.org/hook\n  python -m ingest alerts test 3",
    )
    alerts.add_argument(
        "action", nargs="?", default="list", choices=["list", "add", "mute", "unmute", "test", "delete"], help="default: list"
    )
    alerts.add_argument("subject", nargs="?", metavar="TICKER|ALERT", help="the ticker for `add`, else the number of an alert")
    alerts.add_argument(
        "--kind",
        type=cli.argument("ingest.commands.alerts:parse_kind"),
        help="CROSSES, MOVES, STALE, GAP, STREAM_SILENT or DELIVERY_DIFFERS",
    )
    alerts.add_argument("--url", help="URL that receives the webhook")
    alerts.add_argument(
        "--format",
        type=cli.argument("ingest.commands.alerts:parse_format"),
        default="STANDARD",
        help="body: STANDARD (default), SLACK, DISCORD or NTFY",
    )
    alerts.add_argument("--level", type=NUMBER, help="CROSSES: the price to cross")
    alerts.add_argument(
        "--hysteresis", type=NUMBER, default="0", help="CROSSES: distance before it can be crossed again (default: 0)"
    )
    alerts.add_argument(
        "--direction",
        type=cli.argument("ingest.commands.alerts:parse_direction"),
        default="EITHER",
        help="CROSSES: UP, DOWN or EITHER (default)",
    )
    alerts.add_argument("--percent", type=NUMBER, help="MOVES, DELIVERY_DIFFERS: smallest change in percent")
    alerts.add_argument("--minutes", type=int, help="MOVES, STALE, GAP, STREAM_SILENT: number of minutes")
    collect = verbs.add(
        "collect",
        "ingest.commands.collect:run",
        "collect a minute now, without a worker, and print the prices",
        "collect --minute 2024-01-15T11:40:00Z   # a past minute: collects the current one",
    )
    collect.add_argument(
        "--minute",
        type=cli.argument("ingest.commands.arguments:parse_minute"),
        help="UNIX seconds or ISO 8601; a past minute is replaced by the current one (default: the current minute)",
    )
    status = verbs.add(
        "status",
        "ingest.commands.status:run",
        "show the system status; exit with 1 if something is stale, unavailable, not collected, or another problem exists",
        "status --json | jq '.tickers[] | select(.stale)'",
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    _add_gaps_and_rejects(verbs)
    _add_import(verbs)
    simulate = verbs.add(
        "simulate", "ingest.commands.simulate:run_simulator", "serve a simulated Deribit until stopped", FAULT_EXAMPLE
    )
    simulate.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    simulate.add_argument("--port", type=int, default=8090, help="port to listen on, 0 for any (default: %(default)s)")
    with_simulator = verbs.add(
        "with-simulator",
        "ingest.commands.simulate:run_with_simulator",
        "run a command with a simulated Deribit",
        "with-simulator -- make up",
    )
    with_simulator.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    return verbs


def _add_gaps_and_rejects(verbs: cli.CommandLine) -> None:
    gaps = verbs.add(
        "gaps",
        "ingest.commands.gaps_and_rejects:run_gaps",
        "list the gaps with their reasons",
        "gaps --ticker btc_usd --from 2024-01-15 --open",
    )
    gaps.add_argument("--open", action="store_true", help="only gaps that are not filled, without minutes that an import lacks")
    gaps.add_argument("--check", action="store_true", help="detect new gaps first, as the worker does every minute")
    backfill = verbs.add(
        "backfill",
        "ingest.commands.gaps_and_rejects:run_backfill",
        "fill gaps from the exchange's chart, including unrecoverable ones",
        "backfill --ticker btc_usd --from 2024-01-15T11:00:00Z",
    )
    for parser in (gaps, backfill):
        parser.add_argument("--ticker", type=TICKER, help="index name, like btc_usd (default: all)")
        parser.add_argument(
            "--from",
            dest="start",
            type=INSTANT,
            default=times.FIRST,
            help="start, UNIX seconds or ISO 8601 (default: the first)",
        )
        parser.add_argument("--to", dest="end", type=INSTANT, default=times.END, help="end, exclusive (default: now)")
    compare = verbs.add(
        "compare",
        "ingest.commands.compare:run",
        "compare days with a peer, minute by minute; exit with 1 if minutes are missing here",
        "compare --peer https://b.example.org --from 2024-01-15 --to 2024-01-17 --repair",
    )
    compare.add_argument(
        "--peer",
        type=cli.argument("ingest.settings:parse_peer_url"),
        required=True,
        help="URL of another Tickgraph; its key is that of PEER_KEYS",
    )
    compare.add_argument("--ticker", type=TICKER, help="index name, like btc_usd (default: all)")
    compare.add_argument("--from", dest="start", type=INSTANT, help="first UTC day (default: yesterday)")
    compare.add_argument("--to", dest="end", type=INSTANT, help="end, exclusive (default: now, or with no --from its day only)")
    compare.add_argument("--repair", action="store_true", help="store the peer's live prices that are missing here")
    rejects = verbs.add(
        "rejects",
        "ingest.commands.gaps_and_rejects:run_rejects",
        "list prices and minutes of ticks that could not be stored",
        "rejects --limit 100",
    )
    rejects.add_argument("--limit", type=int, default=20, help="number of entries, newest first (default: %(default)s)")


def _add_import(verbs: cli.CommandLine) -> None:
    parser = verbs.add(
        "import",
        "ingest.commands.import_history:run",
        "import history from a file or a table of another PostgreSQL",
        "import history.csv.gz --ticker btc_usd --dry-run\n"
        "  python -m ingest import --from-dsn postgresql://me@old/crypto --table price_ticks --ticker btc_usd",
    )
    parser.add_argument(
        "file", type=Path, nargs="?", help="CSV, JSON Lines or JSON, plain or compressed with gz, bz2, xz or zip"
    )
    parser.add_argument("--ticker", type=TICKER, required=True, help="index name of the prices, like btc_usd")
    parser.add_argument(
        "--time-column", help=f"name or number of the time column (default: the first of {', '.join(TIME_NAMES)})"
    )
    parser.add_argument("--price-column", help=f"same for the price column (default: the first of {', '.join(PRICE_NAMES)})")
    parser.add_argument(
        "--ticker-column", help=f"ticker column (default: the first of {', '.join(TICKER_NAMES)}); `none`: use every row"
    )
    parser.add_argument("--ticker-value", help="name of the ticker in the file, like BTC/USD (default: any spelling of it)")
    parser.add_argument("--time-unit", choices=list(UNITS), help="unit of UNIX times (default: by the size of each)")
    parser.add_argument("--decimal", choices=[".", ","], default=".", help="decimal separator (default: %(default)s)")
    parser.add_argument("--from-dsn", help="DSN of another PostgreSQL, instead of a file")
    parser.add_argument("--table", default="price_ticks", help="its table (default: %(default)s)")
    parser.add_argument(
        "--rejects", type=Path, metavar="FILE", help="write the rejected rows and their reasons to this CSV file"
    )
    parser.add_argument("--dry-run", action="store_true", help="validate all rows and print the first ones, but store nothing")


if __name__ == "__main__":
    sys.exit(build().main())
