"""Command line of the API: `python -m graph`."""

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence

import uvicorn

from db import times
from db.pool import open_database
from db.queries import prices, tickers
from db.runtime import cli, embedded_lookup, log, metrics
from graph.engine.tickers import require_known_tickers
from graph.errors import ApiError
from graph.http.protocol import BoundedHttp, BoundedWebSocket
from graph.http.request import MAX_BODY_BYTES
from graph.schema import arguments
from graph.schema.executable import Schema
from graph.settings import Settings
from graph.watch import watch

EXAMPLES = """examples:
  python -m graph check                          # validate the settings; check that the port is free
  python -m graph serve                          # run the API alone
  python -m graph latest btc_usd eth_usd         # print the newest prices from the database
  python -m graph watch btc_usd eth_usd          # show each price when the API stores it
  python -m graph watch --json --after 42        # the same as JSON lines, after the price with id 42
  python -m graph schema > graph/schema.graphql  # what `make schema` does
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m graph", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="validate the settings; report a port that is in use")
    verbs.add_parser("serve", help="serve the API on HOST and PORT, with limits that `uvicorn graph.app:app` lacks")
    verbs.add_parser("schema", help="print the schema")
    verbs.add_parser("key", help="generate an API key; print it with its digest for API_KEYS")
    verbs.add_parser("healthy", help="exit with 0 if GET /health on this machine returns 200; for container health checks")
    latest_parser = verbs.add_parser("latest", help="print the newest price of each tracked ticker, or of the given tickers")
    latest_parser.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd")
    watch_parser = verbs.add_parser("watch", help="show each price when it is stored, through the API's subscription")
    watch_parser.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd; default: all")
    watch_parser.add_argument("--url", help="URL of the API; default: this machine, PORT")
    watch_parser.add_argument("--key", help="API key, if the API requires one")
    watch_parser.add_argument("--json", action="store_true", help="print one JSON line for each price, for pipes")
    watch_parser.add_argument("--after", metavar="ID", help="start after the price with this id; the terminal table ignores it")
    options = parser.parse_args(argv)
    match options.verb:
        case "watch":
            return _watch(options)
        case "healthy":
            return _check_health(Settings.read())
        case "latest":
            return asyncio.run(_print_latest(Settings.read(), options.tickers))
        case "check":
            return _check_settings(Settings.read())
        case "serve":
            return _serve(Settings.read())
        case "key":
            key = secrets.token_urlsafe(24)
            print(f"key for the client: {key}\nfor API_KEYS:       {hashlib.sha256(key.encode()).hexdigest()}")
            return 0
        case _:
            sys.stdout.write(f"{Schema().as_str()}\n")
            return 0


def _serve(settings: Settings) -> int:
    settings.required_dsn()
    log.configure(settings, "api")
    if settings.api_metrics_port and settings.web_concurrency > 1:
        metrics.enable_multiprocess()
    uvicorn.run(
        "graph.app:app",
        host=settings.host,
        port=settings.port,
        workers=settings.web_concurrency,
        log_config=None,
        access_log=False,
        http=BoundedHttp,
        ws=BoundedWebSocket,
        ws_per_message_deflate=False,  # messages are too short to gain from compression
        ws_max_size=4 * MAX_BODY_BYTES,  # bytes; graph.http.socket enforces the lower limit and gives a reason
        proxy_headers=False,  # ForwardedHeadersMiddleware handles them, for TRUSTED_PROXIES
        timeout_graceful_shutdown=3,
    )
    return 0


def _check_health(settings: Settings) -> int:
    connection = http.client.HTTPConnection(settings.reachable_host, settings.port, timeout=2.5)
    try:
        connection.request("GET", "/health")
        return 0 if connection.getresponse().status == http.HTTPStatus.OK else 1
    except OSError as error:
        sys.stderr.write(f"GET /health on PORT={settings.port} failed: {error}. Is the API running?\n")
        return 1
    finally:
        connection.close()


async def _print_latest(settings: Settings, names: Sequence[str]) -> int:
    async with open_database(embedded_lookup.postgres_url(settings), application_name="tickgraph latest") as db:
        try:
            names_to_show = arguments.parse_tickers(names) or await tickers.list_tracked(db)
            # Without tracked tickers, prices may still exist: imported or collected manually.
            names_to_show = names_to_show or [record["name"] for record in await tickers.list_tickers(db, time.time())]
            records = await prices.latest_of_each(db, names_to_show, time.time())
            await require_known_tickers(db, set(names_to_show) - {record["ticker"] for record in records})
        except ApiError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    for record in records:
        print(f"{record['ticker']:<20}{record['price']:>16f}  {times.iso(record['ts'])}  {record['source']}")
    return 0


def _watch(options: argparse.Namespace) -> int:
    url = options.url or Settings.read().url
    try:
        return asyncio.run(watch(url, options.tickers, key=options.key, as_json=options.json, after=options.after))
    except KeyboardInterrupt:
        return 0


def _check_settings(settings: Settings) -> int:
    listeners = [("PORT", settings.port, "HOST", settings.host)]
    if settings.api_metrics_port:
        listeners.append(("API_METRICS_PORT", settings.api_metrics_port, "METRICS_HOST", settings.metrics_host))
    exit_status, sockets = cli.report_settings(settings), contextlib.ExitStack()
    for port_name, port, host_name, host in listeners:
        try:
            sockets.enter_context(socket.create_server((host, port), reuse_port=False))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            listener = f"{port_name}={port} on {host_name}={host}"
            sys.stderr.write(f"{listener} cannot be used: {reason}. Set {port_name} or {host_name} to another value.\n")
            exit_status = 1
    sockets.close()
    return exit_status


if __name__ == "__main__":
    sys.exit(cli.run(main))
