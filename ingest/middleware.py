"""Dramatiq middleware: sets the minute of messages, opens resources, sends the first messages, heartbeats, metrics, traces."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import dramatiq
import redis
import redis.asyncio
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread
from dramatiq.broker import MessageProxy
from dramatiq.middleware import AsyncIO

from db import times
from db.runtime import metrics, tracing
from ingest import redis_state
from ingest.jobs.message_minutes import MinuteChooser
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import HEARTBEATS, Outbox, open_outbox
from ingest.redis_state import RedisState
from ingest.settings import Settings
from ingest.source import Exchange

if TYPE_CHECKING:
    from db.pool import Database
    from ingest.jobs.delivery_prices import DeliveryPriceCollector
    from ingest.jobs.peers import PeerComparer
    from ingest.peers import Peer
    from ingest.webhooks import WebhookSender

_PR_SET_PDEATHSIG = 1
HEARTBEAT_INTERVAL_S = 5
HEARTBEAT_TTL_S = 20

log = logging.getLogger(__name__)


class ScheduledMinute(dramatiq.Middleware):
    """Adds the minute to a scheduled message. periodiq records only when it sent the message, half a second late."""

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[None], delay: int | None) -> None:
        scheduled_at = message.options.get("scheduled_at")
        if scheduled_at is not None:
            message.kwargs.setdefault("minute", times.minute_of(datetime.fromisoformat(scheduled_at).timestamp()))


class EnqueueOnBoot(dramatiq.Middleware):
    """Sends messages for the current minute when a worker starts. The next scheduled messages may be a minute away."""

    def __init__(self, *addresses: tuple[str, str]) -> None:
        """`addresses` are pairs of queue and actor."""
        self._addresses = addresses

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        minute = times.minute_of(time.time())
        for queue, actor in self._addresses:
            broker.enqueue(dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs={"minute": minute}, options={}))


class ExitWithParent(dramatiq.Middleware):
    """Terminates a worker process when its parent is killed. No other process would terminate it."""

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        parent = multiprocessing.parent_process()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if parent is not None and os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGTERM)


class EventLoop(AsyncIO):
    """Runs Dramatiq's event loop in a daemon thread.

    A second SIGTERM makes Dramatiq exit at once; `timeout` and systemd send one to each process of a group. Python would
    wait forever for a thread that is not a daemon.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        thread = EventLoopThread(self.logger)
        thread.daemon = True
        thread.start(timeout=1.0)
        set_event_loop_thread(thread)


class Heartbeat(dramatiq.Middleware):
    """Writes heartbeats of this worker process to Redis, from its event loop. The value of a heartbeat is its TICKERS.

    Workers read them to agree on the tracked tickers, and `python -m ingest healthy --worker` checks them. Dramatiq's own
    heartbeats are no proof of a worker: every process that sends a message writes them. Must follow `EventLoop` in the list.
    """

    def __init__(self, tickers: Sequence[str], states: Mapping[str, RedisState]) -> None:
        """`states` maps the URL of each Redis server to its state: the outbox's and, if it is another, the broker's."""
        self._tickers = json.dumps(list(tickers))
        self._states = states
        self._heartbeat_task: concurrent.futures.Future[None] | None = None

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        thread = get_event_loop_thread()
        if thread is not None:
            self._heartbeat_task = asyncio.run_coroutine_threadsafe(self._send_heartbeats(), thread.loop)
        check = threading.Thread(target=self._log_redis_problems, daemon=True)
        check.start()  # in a thread, because a worker starts without Redis

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._heartbeat_task is not None:
            self._heartbeat_task.cancel()

    async def _send_heartbeats(self) -> None:
        key = f"{HEARTBEATS}{socket.gethostname()}:{os.getpid()}"
        async with contextlib.AsyncExitStack() as stack:
            clients = {
                url: await stack.enter_async_context(
                    redis.asyncio.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
                )
                for url in self._states
            }
            try:
                while True:
                    for url, client in clients.items():
                        try:
                            await client.set(key, self._tickers, ex=HEARTBEAT_TTL_S)
                        except (redis.RedisError, OSError) as error:
                            self._states[url].record_failure(error)
                        else:
                            self._states[url].record_success()
                    await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            finally:
                for client in clients.values():
                    with contextlib.suppress(redis.RedisError, OSError):
                        await client.delete(key)

    def _log_redis_problems(self) -> None:
        for url, state in self._states.items():
            with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=2) as client:
                for problem in redis_state.list_problems(client):
                    log.warning("%s: %s", state.setting, problem)


class Metrics(dramatiq.Middleware):
    """Serves the metrics of all worker processes from the first one."""

    def __init__(self, host: str, port: int | None) -> None:
        self._host = host
        self._port = port

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        metrics.serve(self._host, self._port)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        metrics.unregister_process()


class TracingMiddleware(dramatiq.Middleware):
    """Traces messages. The span of a message is a child of its sender's span, across processes."""

    def __init__(self) -> None:
        self._spans: dict[str, contextlib.ExitStack] = {}

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[None], delay: int | None) -> None:
        with tracing.span(f"send {message.actor_name}", "PRODUCER"):
            message.options.update(tracing.carrier())

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        span = tracing.span(message.actor_name, "CONSUMER", message.options.get(tracing.CARRIER))
        self._spans[message.message_id] = contextlib.ExitStack()
        self._spans[message.message_id].enter_context(span)

    def after_process_message(
        self, broker: dramatiq.Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        span = self._spans.pop(message.message_id, None)
        if span is not None:
            span.__exit__(type(exception) if exception else None, exception, None)

    def after_skip_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        self.after_process_message(broker, message)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        tracing.flush()


def has_local_heartbeat(client: redis.Redis) -> bool:
    """Returns whether Redis has a heartbeat of a worker on this host. Raises redis.RedisError."""
    return next(iter(client.scan_iter(f"{HEARTBEATS}{socket.gethostname()}:*")), None) is not None


@dataclass(frozen=True)
class Resources:
    """The resources of the jobs, one set per process."""

    db: "Database"
    outbox: Outbox
    source: Exchange
    watchlist: Watchlist
    collect_minute_chooser: MinuteChooser
    reconcile_minute_chooser: MinuteChooser
    delivery_prices: "DeliveryPriceCollector"
    peers: "Sequence[Peer]"
    peer_comparer: "PeerComparer | None"
    """None without peers."""
    webhooks: "WebhookSender"


class ResourceMiddleware(dramatiq.Middleware):
    """Opens the resources for the first message and closes them when the worker stops.

    Must follow `EventLoop` in the list, because the resources use its loop. They are not opened in `before_worker_boot`:
    Dramatiq swallows the exceptions of hooks.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._resources: Resources | None = None
        self._lock = asyncio.Lock()

    async def resources(self) -> Resources:
        """Returns the resources. The first call opens them."""
        # The scheduler, which loads this module, too, does without them.
        from db.pool import WRITER_TIMEOUT_S, open_database  # noqa: PLC0415
        from ingest.deribit.client import open_deribit  # noqa: PLC0415
        from ingest.jobs.delivery_prices import DeliveryPriceCollector  # noqa: PLC0415
        from ingest.webhooks import open_sender  # noqa: PLC0415

        async with self._lock:
            if self._resources is None:
                database = open_database(
                    self._settings.required_dsn(), application_name="tickgraph worker", statement_timeout_s=WRITER_TIMEOUT_S
                )
                outbox = open_outbox(self._settings.required_redis(), self._settings.outbox_most)
                async with contextlib.AsyncExitStack() as opened:
                    peers, peer_comparer = await self._open_peers(opened)
                    self._resources = Resources(
                        db=await opened.enter_async_context(database),
                        outbox=await opened.enter_async_context(outbox),
                        source=await opened.enter_async_context(open_deribit(self._settings)),
                        watchlist=Watchlist(self._settings.tickers),
                        collect_minute_chooser=MinuteChooser(),
                        reconcile_minute_chooser=MinuteChooser(),
                        delivery_prices=DeliveryPriceCollector(),
                        peers=peers,
                        peer_comparer=peer_comparer,
                        webhooks=await opened.enter_async_context(open_sender(self._settings)),
                    )
                    self._stack = opened.pop_all()
        return self._resources

    async def _open_peers(self, stack: contextlib.AsyncExitStack) -> "tuple[Sequence[Peer], PeerComparer | None]":
        if not self._settings.peers:
            return (), None
        from ingest.jobs.peers import PeerComparer  # noqa: PLC0415  only with PEERS
        from ingest.peers import open_peers  # noqa: PLC0415

        peers = await stack.enter_async_context(open_peers(self._settings))
        return peers, PeerComparer(peers)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        loop = get_event_loop_thread()
        if loop is not None:
            loop.run_coroutine(self._stack.aclose())
        self._resources = None
