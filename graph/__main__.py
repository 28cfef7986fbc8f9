"""Runs the API and reads from it (`python -m graph`)."""

import sys

from db.runtime import cli

EXAMPLES = """examples:
  python -m graph check                          # validate the settings; check that the port is free
  python -m graph serve                          # run the API alone
  python -m graph latest btc_usd eth_usd         # print the newest prices from the database
  python -m graph watch btc_usd eth_usd          # show each price when it is stored
  python -m graph watch --json --after 42        # the same as JSON lines, after the price with id 42
  python -m graph schema > graph/schema.graphql  # what `make schema` does
"""


def build() -> cli.CommandLine:
    """Returns the command line with all verbs."""
    verbs = cli.CommandLine("graph", __doc__, EXAMPLES)
    verbs.add("check", "graph.commands:check_settings", "validate the settings; report a port that is in use", "check")
    verbs.add("serve", "graph.commands:serve", "serve the API on HOST and PORT, with limits that plain uvicorn lacks", "serve")
    verbs.add("schema", "graph.schema.executable:print_schema", "print the schema", "schema > graph/schema.graphql")
    verbs.add("key", "graph.commands:generate_key", "generate an API key; print it with its digest for API_KEYS", "key")
    verbs.add(
        "healthy",
        "graph.commands:check_health",
        "exit with 0 if GET /health on this machine returns 200; for container health checks",
        "healthy && echo up",
    )
    latest = verbs.add(
        "latest",
        "graph.latest:run",
        "print the newest price of each tracked ticker, or of the given tickers",
        "latest btc_usd eth_usd",
    )
    latest.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd")
    watch = verbs.add(
        "watch",
        "graph.watch:run",
        "show each price when it is stored, through the API's subscription",
        "watch --json --ticks btc_usd | jq .price",
    )
    watch.add_argument("tickers", nargs="*", metavar="TICKER", help="index name, like btc_usd; default: all")
    mcp = verbs.add(
        "mcp",
        "graph.mcp_server:run",
        "serve tools for agents (Model Context Protocol) on standard input and output",
        "mcp --url https://prices.example.org",
    )
    for client in (watch, mcp):
        client.add_argument("--url", help="URL of the API; default: the one of a running `make up`, or this machine and PORT")
        client.add_argument("--key", help="API key, if the API requires one")
    watch.add_argument("--json", action="store_true", help="print one JSON line for each price, for pipes")
    events = watch.add_mutually_exclusive_group()
    events.add_argument("--ticks", action="store_true", help="print a line for each tick instead; needs the stream process")
    events.add_argument("--after", metavar="ID", help="start after the price with this id; prints lines instead of a table")
    return verbs


if __name__ == "__main__":
    sys.exit(build().main())
