"""`python -m ingest`: runs the worker, the scheduler, single jobs and a simulated exchange, and shows the status."""

import argparse
import sys
from collections.abc import Sequence

from db.runtime import cli
from ingest.commands import collect, import_history, ledger, simulate, status, work

EXAMPLES = """examples:
  python -m ingest work --threads 4                        # like `dramatiq ingest.broker:broker ingest.actors`
  python -m ingest schedule                                # like `periodiq ingest.broker:broker ingest.actors`
  python -m ingest status                                  # the system status as a table
  python -m ingest gaps --open                             # missing minutes and their reasons
  python -m ingest import history.csv.gz --ticker btc_usd  # history from a file
  python -m ingest simulate --port 8090                    # a simulated exchange on http://127.0.0.1:8090/api/v2
  python -m ingest with-simulator -- COMMAND               # the same, with DERIBIT_RPC_URL set for COMMAND
  curl -X POST 127.0.0.1:8090/control/faults -d '{"name": "http_503", "index": "btc_usd", "times": 3}'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ingest", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for command in (work, collect, status, ledger, import_history, simulate):
        command.add(verbs)
    options = parser.parse_args(arguments)
    run: int = options.run(options)
    return run


if __name__ == "__main__":
    sys.exit(cli.run(main))
