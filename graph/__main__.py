"""`python -m graph`: the API's settings and schema, by hand."""

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

from db import cli, log, metrics, running, times
from db.pool import open_database
from db.queries import prices, tickers
from graph.engine.knowledge import require_known
from graph.errors import ApiError
from graph.http.asked import BODY_MOST
from graph.http.protocol import BoundedHttp, BoundedWebSocket
from graph.schema import arguments
from graph.schema.executable import Schema
from graph.settings import Settings
from graph.watch import watch

EXAMPLES = """examples:
  python -m graph check                          # are the settings right, is the port free?
  python -m graph serve                          # the API by itself
  python -m graph latest btc_usd eth_usd         # the newest prices, from the database
  python -m graph watch btc_usd eth_usd          # prices as they are stored, from the API
  python -m graph watch --json --after 0         # the same as lines of JSON, from the beginning on
  python -m graph schema > graph/schema.graphql  # what `make schema` does
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m graph", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="read the settings and say what is wrong with them, a port in use included")
    verbs.add_parser("serve", help="serve the API on HOST and PORT, like `uvicorn graph.app:app`")
    verbs.add_parser("schema", help="print the schema")
    verbs.add_parser("key", help="draw a key for a reader, and print it with the digest that API_KEYS takes")
    verbs.add_parser("healthy", help="exit with 0 if the API on this machine answers GET /health with 200; for containers")
    newest = verbs.add_parser("latest", help="print the newest price of each ticker, or of those named")
    newest.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd")
    follow = verbs.add_parser("watch", help="show prices as they are stored, over the API's subscription")
    follow.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd; left out: all")
    follow.add_argument("--url", help="where the API is; left out: on this machine, at PORT")
    follow.add_argument("--key", help="where reading needs one")
    follow.add_argument("--json", action="store_true", help="a line of JSON for each price, for pipes")
    follow.add_argument("--after", metavar="ID", help="with --json: begin after the price with this id")
    options = parser.parse_args(words)
    match options.verb:
        case "watch":
            return _watch(options)
        case "healthy":
            return _healthy(Settings.read())
        case "latest":
            return asyncio.run(_latest(Settings.read(), options.tickers))
        case "check":
            return _check(Settings.read())
        case "serve":
            return _serve(Settings.read())
        case "key":
            key = secrets.token_urlsafe(24)
            print(f"key, for the reader: {key}\nfor API_KEYS:        {hashlib.sha256(key.encode()).hexdigest()}")
            return 0
        case _:
            sys.stdout.write(f"{Schema().as_str()}\n")
            return 0


def _serve(settings: Settings) -> int:
    settings.required_dsn()
    log.configure(settings, "api")
    if settings.api_metrics_port and settings.web_concurrency > 1:
        metrics.share()
    uvicorn.run(
        "graph.app:app",
        host=settings.host,
        port=settings.port,
        workers=settings.web_concurrency,
        log_config=None,
        access_log=False,
        http=BoundedHttp,
        ws=BoundedWebSocket,
        ws_per_message_deflate=False,  # messages are short
        ws_max_size=4 * BODY_MOST,  # bytes; what is longer than a body may be is told so below that
        proxy_headers=False,  # TRUSTED_PROXIES says whose are believed
        timeout_graceful_shutdown=3,
    )
    return 0


def _healthy(settings: Settings) -> int:
    connection = http.client.HTTPConnection(settings.reachable_host, settings.port, timeout=2.5)
    try:
        connection.request("GET", "/health")
        return 0 if connection.getresponse().status == http.HTTPStatus.OK else 1
    except OSError as error:
        sys.stderr.write(f"PORT={settings.port}: {error}\n")
        return 1
    finally:
        connection.close()


async def _latest(settings: Settings, names: Sequence[str]) -> int:
    async with open_database(running.dsn_of(settings), application_name="tickgraph latest") as db:
        try:
            wanted = arguments.tickers(names) or await tickers.tracked(db)
            # Where nothing is tracked, prices may have been collected by hand, or imported.
            wanted = wanted or [record["name"] for record in await tickers.every(db, time.time())]
            records = await prices.latest_of_each(db, wanted, time.time())
            await require_known(db, set(wanted) - {record["ticker"] for record in records})
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


def _check(settings: Settings) -> int:
    places = [("PORT", settings.port, "HOST", settings.host)]
    if settings.api_metrics_port:
        places.append(("API_METRICS_PORT", settings.api_metrics_port, "METRICS_HOST", settings.metrics_host))
    wrong, taken = cli.tell(settings), contextlib.ExitStack()
    for port_name, port, host_name, host in places:
        try:
            taken.enter_context(socket.create_server((host, port), reuse_port=False))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            place = f"{port_name}={port} on {host_name}={host}"
            sys.stderr.write(f"{place} cannot be used: {reason}; set {port_name} or {host_name} to another\n")
            wrong = 1
    taken.close()
    return wrong


if __name__ == "__main__":
    sys.exit(cli.run(main))
