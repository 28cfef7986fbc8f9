"""`python -m ingest stream`: collects the ticks of every minute from the exchange's WebSocket."""

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import suppress
from typing import Any, Final

import aiohttp

from db.pool import WRITER_TIMEOUT_S, open_database
from db.runtime import log, metrics, tracing
from ingest.deribit.channel import stream_url
from ingest.deribit.stream import DeribitStream
from ingest.jobs.stream import TickRecorder
from ingest.jobs.watchlist import ALL
from ingest.outbox import StreamState, open_outbox
from ingest.settings import Settings

PUBLISH_INTERVAL_S: Final = 0.5
SHUTDOWN_TIMEOUT_S: Final = 2.0
"""Time to save the ticks of unfinished minutes when the process stops. Longer would delay the stop of `make up`."""

logger = logging.getLogger(__name__)


def run(_options: argparse.Namespace) -> int:
    """`stream`."""
    settings = Settings.read()
    log.configure(settings, "stream")
    if not settings.stream:
        sys.stdout.write("STREAM=false: no ticks are collected\n")
        return 0
    settings.required_redis()
    settings.required_dsn()
    tracing.configure("tickgraph stream")
    metrics.serve(settings.metrics_host, settings.stream_metrics_port)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    """Runs until a signal arrives. Returns 128 plus its number, so that a supervisor restarts what it did not stop itself."""
    received_signals: list[int] = []
    stopped = asyncio.Event()

    def stop(number: int) -> None:
        received_signals.append(number)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    database = open_database(
        settings.required_dsn(), application_name="tickgraph stream", max_connections=2, statement_timeout_s=WRITER_TIMEOUT_S
    )
    async with (
        database as db,
        open_outbox(settings.required_redis(), settings.outbox_most) as outbox,
        aiohttp.ClientSession() as session,
    ):
        recorder = TickRecorder(db, outbox, [name for name in settings.tickers if name != ALL])
        stream = DeribitStream(session, settings.deribit_ws_url or stream_url(settings.deribit_rpc_url), recorder.receive)

        def state() -> StreamState:
            return StreamState(stream.is_connected, sorted(stream.subscribed), sorted(stream.refused), recorder.last_tick_at)

        jobs: list[asyncio.Task[Any]] = [
            asyncio.create_task(job)
            for job in (
                stopped.wait(),
                recorder.follow_tickers(),
                recorder.seal_minutes(),
                recorder.drain_outbox(),
                recorder.publish(PUBLISH_INTERVAL_S, state),
                stream.run(recorder.tickers),
            )
        ]
        done, pending = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in pending:
            job.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await recorder.save_all()
        for job in done:
            job.result()  # raises the unexpected error of a job: the process ends, and is restarted
    logger.info("the stream is stopped")
    return 128 + received_signals[0]
