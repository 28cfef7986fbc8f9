"""`python -m ingest simulate` and `with-simulator`: a simulated exchange on this machine."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from db.runtime import embedded_lookup, processes
from ingest.simulator.server import Simulator, serve


def run_simulator(options: argparse.Namespace) -> int:
    """`simulate`."""
    return asyncio.run(_simulate(options.host, options.port))


def run_with_simulator(options: argparse.Namespace) -> int:
    """`with-simulator`."""
    command = processes.strip_separator(options.command)
    if not command:
        sys.stderr.write("name the command to run, for example: with-simulator -- make up\n")
        return 2
    return asyncio.run(_with_simulator(command))


async def _simulate(host: str, port: int) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        async with serve(Simulator(), host, port) as url:
            print(f"DERIBIT_RPC_URL={url}", flush=True)
            await stopped.wait()
    except OSError as error:
        sys.stderr.write(f"--port {port}: {os.strerror(error.errno or 0)}\n")
        return 1
    return 0


async def _with_simulator(command: Sequence[str]) -> int:
    async with serve(Simulator()) as url:
        os.environ["DERIBIT_RPC_URL"] = url
        if os.environ.get("DATA_DIR"):  # other verbs read the URL from this file
            (Path(os.environ["DATA_DIR"]) / embedded_lookup.EXCHANGE_URL_FILE).write_text(url)
        loop = asyncio.get_running_loop()
        child = processes.start(command)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, child.terminate)
        return await asyncio.to_thread(child.wait)
