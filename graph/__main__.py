"""`python -m graph`: the API's settings and schema, by hand."""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence

import uvicorn

from graph.schema.executable import build
from graph.settings import Settings
from graph.welcome import welcome

EXAMPLES = """examples:
  python -m graph check                          # are the settings right, is the port free?
  python -m graph serve                          # the API by itself
  python -m graph schema > graph/schema.graphql  # what `make schema` does
  python -m graph welcome                        # where things are, and the first prices
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m graph", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="read the settings and say what is wrong with them, a port in use included")
    verbs.add_parser("serve", help="serve the API on HOST and PORT, like `uvicorn graph.app:app`")
    verbs.add_parser("schema", help="print the schema")
    verbs.add_parser("welcome", help="wait for the API, say where things are and print each ticker's first price")
    match parser.parse_args(arguments).verb:
        case "check":
            return _check(Settings.read())
        case "serve":
            settings = Settings.read()
            uvicorn.run("graph.app:app", host=settings.host, port=settings.port, access_log=False, timeout_graceful_shutdown=3)
            return 0
        case "schema":
            sys.stdout.write(f"{build().as_str()}\n")
            return 0
        case _:
            return asyncio.run(welcome(Settings.read()))


def _check(settings: Settings) -> int:
    try:
        with socket.create_server((settings.host, settings.port), reuse_port=False):
            return 0
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        sys.stderr.write(f"PORT={settings.port} on HOST={settings.host} cannot be used: {reason}; set PORT to a free one\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
