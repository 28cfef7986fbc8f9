"""`python -m ingest`: the worker's settings and the simulator, by hand."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from db import processes
from ingest.settings import Settings
from ingest.simulator.server import Simulator, serving

EXAMPLES = """examples:
  python -m ingest check                                   # are the settings right?
  python -m ingest simulate --port 8090                    # an exchange on http://127.0.0.1:8090/api/v2
  python -m ingest with-simulator -- COMMAND               # the same, with DERIBIT_RPC_URL set for COMMAND
  curl -X POST :8090/control/faults -d '{"name": "http_503", "index": "btc_usd", "times": 3}'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ingest",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="read the settings and say what is wrong with them")
    simulate = verbs.add_parser("simulate", help="serve a simulated Deribit until stopped")
    simulate.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    simulate.add_argument("--port", type=int, default=8090, help="port to listen on, 0 for any (%(default)s)")
    beside = verbs.add_parser("with-simulator", help="run a command beside a simulated Deribit")
    beside.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    options = parser.parse_args(arguments)
    match options.verb:
        case "check":
            Settings.read()
            return 0
        case "simulate":
            return asyncio.run(_simulate(options.host, options.port))
        case _:
            command = options.command[1:] if options.command[:1] == ["--"] else options.command
            if not command:
                beside.error("name the command to run, for example: with-simulator -- make up")
            return asyncio.run(_with_simulator(command))


async def _simulate(host: str, port: int) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        async with serving(Simulator(), host, port) as url:
            print(f"DERIBIT_RPC_URL={url}", flush=True)
            await stopped.wait()
    except OSError as error:
        sys.stderr.write(f"--port {port}: {error.strerror}\n")
        return 1
    return 0


async def _with_simulator(command: Sequence[str]) -> int:
    async with serving(Simulator()) as url:
        os.environ["DERIBIT_RPC_URL"] = url
        loop = asyncio.get_running_loop()
        child = processes.start(command)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, child.terminate)
        return await asyncio.to_thread(child.wait)


if __name__ == "__main__":
    sys.exit(main())
