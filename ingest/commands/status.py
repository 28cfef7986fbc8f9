"""`python -m ingest status`: the status report for operators."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field

import orjson
import redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from db import times
from db.connection_url import mask_password
from db.errors import DatabaseError
from db.pool import Database, open_database
from db.queries import alerts, clock, delivery_prices, gaps, peers, rejects, retention, tickers, write_lock
from db.runtime import embedded_lookup
from ingest import redis_state
from ingest.commands.arguments import console
from ingest.errors import OutboxError
from ingest.jobs.delivery_prices import MAX_DIFFERENCE_BPS
from ingest.jobs.watchlist import ALL
from ingest.outbox import Report, StreamState, hosts_of, open_outbox
from ingest.settings import Settings

STREAM_STALE_AFTER_S = 60
"""The newest tick of a stream is older than this only if something is wrong. Deribit sends about one a second."""
MAX_COMPARISON_AGE_S = 4 * times.DAY
"""An older comparison with a peer is a problem."""
MIN_SHOWN_LOCK_S = 2.0
"""A writer holds the lock for milliseconds. A lock that is held for longer than this is reported."""


@dataclass(frozen=True)
class TickerStatus:
    """The status of one ticker."""

    ticker: str
    tracked: bool
    last_minute: int | None
    age_s: int | None
    stale: bool
    gaps_open: int
    gaps_given_up: int
    checked_until: int | None
    last_error: str | None


@dataclass(frozen=True)
class PeerStatus:
    """The newest daily comparison with a peer, over all tickers."""

    peer: str
    day: str
    shared: int
    only_here: int
    only_there: int
    max_bps: float


@dataclass
class Status:
    """The status of the system."""

    at: int
    database_at: str = ""
    """Connection URL of PostgreSQL, with the password masked."""
    database: str = "ok"
    redis: str = "ok"
    workers: int | None = None
    """Number of hosts with a running worker; None if Redis is unavailable."""
    streams: list[StreamState] = field(default_factory=list)
    """The state of each running stream process."""
    outbox: int | None = None
    """Number of queued prices."""
    outbox_ticks: int | None = None
    """Number of queued minutes of ticks."""
    rejects: int | None = None
    clock_skew_s: float | None = None
    tickers: list[TickerStatus] = field(default_factory=list)
    not_collected: list[str] = field(default_factory=list)
    """Names in TICKERS that are not collected."""
    database_clock_skew_s: float | None = None
    """Clock of this host minus the database's clock, in seconds."""
    writer: str | None = None
    """The session that holds the writer lock, if it holds it for too long."""
    peers: list[PeerStatus] = field(default_factory=list)
    """The newest comparison with each peer."""
    problems: list[str] = field(default_factory=list)
    """Other problems for an operator, one sentence each."""

    @property
    def is_healthy(self) -> bool:
        """Whether both servers are available, no ticker is stale, all TICKERS are collected, and there is no other problem."""
        return (
            (self.database, self.redis) == ("ok", "ok")
            and not any(ticker.stale for ticker in self.tickers)
            and not self.not_collected
            and not self.problems
        )


def run(options: argparse.Namespace) -> int:
    """`status`."""
    settings = Settings.read()
    status = asyncio.run(read_status(settings))
    if options.json:
        sys.stdout.write(orjson.dumps(asdict(status) | {"ok": status.is_healthy}, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print_status(status, settings.outbox_most, console())
    return 0 if status.is_healthy else 1


async def read_status(settings: Settings) -> Status:
    """Reads the status from both servers. If one is unavailable, reports that and the rest."""
    status = Status(at=int(time.time()))
    report = Report()
    redis_url = embedded_lookup.redis_url(settings)
    if redis_url is None:
        status.redis = "REDIS_URL is not set, and no embedded server runs here"
    else:
        async with open_outbox(redis_url, settings.outbox_most) as outbox:
            try:
                status.outbox, report = await outbox.prices.depth(), await outbox.read_report()
                status.outbox_ticks = await outbox.ticks.depth()
                status.streams = list((await outbox.read_stream_states()).values())
                if settings.stream:
                    status.problems += _stream_problems(status.streams, status.at)
                workers = await outbox.worker_tickers()
                status.workers = len(hosts_of(workers))
                status.clock_skew_s = report.clock_skew_s
                status.problems += _disagreements(workers)
                status.problems += [
                    f"the job {name} has failed since {times.iso(at)}: {error}" for name, (at, error) in report.jobs.items()
                ]
                status.problems += await asyncio.to_thread(_redis_problems, redis_url, settings.broker or redis_url)
            except (OutboxError, redis.RedisError) as error:
                status.redis = f"unavailable: {error}"
    async with AsyncExitStack() as stack:
        dsn = embedded_lookup.postgres_url(settings)
        status.database_at = mask_password(dsn)
        db = await stack.enter_async_context(open_database(dsn, application_name="tickgraph status", statement_timeout_s=10))
        try:
            database_now = await clock.now(db)
            status.database_clock_skew_s = round(time.time() - database_now, 3)
            status.tickers = await _tickers(db, status.at, settings.stale_after_s, report.errors)
            status.problems += [
                f"the horizon of {name} is {times.iso(horizon)}, in the future: a clock was wrong; "
                "run `python -m db forget --reset`"
                for name, horizon in (await retention.future_horizons(db, int(database_now))).items()
            ]
            failed = await alerts.count_failed(db)
            if failed:
                status.problems.append(f"{failed} webhooks were given up in the last day: see `python -m ingest alerts`")
            differences = await delivery_prices.latest_differences(db, status.at - 2 * times.DAY)
            status.problems += [
                f"{name}: the mean before the newest delivery is {bps:.2f} basis points from the exchange's delivery price"
                for name, bps in differences.items()
                if abs(bps) > MAX_DIFFERENCE_BPS
            ]
            status.peers = await _peers(db, settings.peers)
            status.problems += _peer_problems(status, settings.peers)
            status.writer = await _writer(db)
            tracked = {ticker.ticker for ticker in status.tickers if ticker.tracked}
            status.not_collected = [name for name in settings.tickers if name not in tracked and name != ALL]
            status.problems += [
                f"{name} is in TICKERS but not collected: {report.errors.get(name, 'see the log of the worker')}"
                for name in status.not_collected
            ]
            status.rejects = await rejects.count(db)
        except DatabaseError as error:
            status.database = f"{status.database_at} is unavailable: {error}"
    return status


def print_status(status: Status, outbox_most: int, console: Console) -> None:
    """Prints a few lines and a table."""
    console.print(f"Tickgraph at {times.iso(status.at)}", highlight=False)
    _line(
        console,
        "PostgreSQL",
        f"ok: {status.database_at}" if status.database == "ok" else status.database,
        bad=status.database != "ok",
    )
    _line(console, "Redis", status.redis, bad=status.redis != "ok")
    _print_servers(status, outbox_most, console)
    _print_peers(status.peers, console)
    if status.tickers:
        console.print(_table(status.tickers))
    for ticker in status.tickers:
        if ticker.last_error:
            console.print(
                f"  last error of {ticker.ticker}: {ticker.last_error}", highlight=False, markup=False, soft_wrap=True
            )


def _print_peers(found: Sequence[PeerStatus], console: Console) -> None:
    for peer in found:
        text = (
            f"{peer.peer} on {peer.day}: {peer.shared:,} minutes at both, {peer.only_here:,} only here, {peer.only_there:,} "
            f"only there, prices at most {peer.max_bps:.2f} basis points apart"
        )
        _line(console, "peer", text, bad=peer.only_there > 0)


def _print_servers(status: Status, outbox_most: int, console: Console) -> None:
    if status.workers is not None:
        _line(console, "workers", f"on {status.workers} host{'' if status.workers == 1 else 's'}", bad=status.workers == 0)
    if status.outbox is not None:
        _line(console, "outbox", f"{status.outbox:,} of {outbox_most:,} prices queued", bad=status.outbox > outbox_most // 10)
    if status.outbox_ticks:
        _line(console, "outbox", f"{status.outbox_ticks:,} minutes of ticks queued", bad=True)
    for stream in status.streams:
        connected = "connected" if stream.connected else "not connected"
        last_tick = "-" if stream.last_tick_at is None else _age(max(0, status.at - int(stream.last_tick_at))) + " ago"
        text = f"{connected}, {len(stream.subscribed):,} tickers, last tick {last_tick}"
        _line(console, "stream", text, bad=not stream.connected)
    if status.rejects:
        _line(console, "rejects", f"{status.rejects:,} rejected prices: run `python -m ingest rejects`", bad=True)
    if status.clock_skew_s is not None:
        side = "ahead of" if status.clock_skew_s > 0 else "behind"
        _line(console, "clock", f"{abs(status.clock_skew_s):.3f} s {side} Deribit's", bad=abs(status.clock_skew_s) >= 1)
    if status.database_clock_skew_s is not None and abs(status.database_clock_skew_s) >= 1:
        side = "ahead of" if status.database_clock_skew_s > 0 else "behind"
        _line(console, "clock", f"this host's is {abs(status.database_clock_skew_s):.3f} s {side} the database's", bad=True)
    if status.writer is not None:
        _line(console, "writer", status.writer, bad=True)
    for problem in status.problems:
        _line(console, "problem", problem, bad=True)


def _line(console: Console, name: str, text: str, *, bad: bool) -> None:
    console.print(Text(f"  {name:<11} ").append(text, style="red" if bad else ""), soft_wrap=True)


def _table(found: list[TickerStatus]) -> Table:
    table = Table(box=None, pad_edge=True, header_style="bold")
    for name, justify in (("ticker", "left"), ("last minute", "left"), ("age", "right"), ("open gaps", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # literals, through a tuple
    table.add_column("given up", justify="right", no_wrap=True)
    for ticker in found:
        age = "-" if ticker.age_s is None else _age(ticker.age_s)
        table.add_row(
            ticker.ticker if ticker.tracked else f"{ticker.ticker} (not tracked)",
            "-" if ticker.last_minute is None else times.iso(ticker.last_minute),
            f"[red]{age} stale[/red]" if ticker.stale else age,
            f"[yellow]{ticker.gaps_open:,}[/yellow]" if ticker.gaps_open else "0",
            f"{ticker.gaps_given_up:,}",
        )
    return table


def _age(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


async def _tickers(db: Database, now: int, stale_after_s: int, errors: dict[str, str]) -> list[TickerStatus]:
    counts = await gaps.counts(db)
    watermarks = await gaps.watermarks(db)
    found = []
    for record in await tickers.list_tickers(db, now):
        name = record["name"]
        counted = counts.get(name)
        found.append(
            TickerStatus(
                ticker=name,
                tracked=record["tracked"],
                last_minute=record["ts"],
                age_s=None if record["ts"] is None else max(0, now - record["ts"]),
                stale=tickers.is_stale(record, now, stale_after_s),
                gaps_open=0 if counted is None else counted["open"],
                gaps_given_up=0 if counted is None else counted["given_up"],
                checked_until=watermarks.get(name),
                last_error=errors.get(name),
            )
        )
    return found


def _disagreements(workers: dict[str, list[str]]) -> list[str]:
    lists = {worker: frozenset(names) for worker, names in workers.items()}
    if len(set(lists.values())) <= 1:
        return []
    shown = "; ".join(f"{worker} has {', '.join(sorted(names))}" for worker, names in sorted(lists.items()))
    return [f"TICKERS differ between running workers, all of them are collected: {shown}"]


def _stream_problems(streams: list[StreamState], now: int) -> list[str]:
    if not streams:
        return ["no stream process runs, so no minute is watched: start `python -m ingest stream`, or set STREAM=false"]
    last_tick_at = max((stream.last_tick_at or 0.0 for stream in streams), default=0.0)
    problems = []
    if not any(stream.connected for stream in streams):
        problems.append("no stream process is connected to the exchange: see its log")
    elif now - last_tick_at > STREAM_STALE_AFTER_S:
        problems.append(f"the newest tick is of {times.iso(int(last_tick_at))}" if last_tick_at else "no tick has arrived yet")
    subscribed = {name for stream in streams for name in stream.subscribed}
    refused = sorted({name for stream in streams for name in stream.refused} - subscribed)
    return problems + ([f"the exchange has no stream of {', '.join(refused)}: only their prices are stored"] if refused else [])


def _redis_problems(*urls: str) -> list[str]:
    found = []
    for url in dict.fromkeys(urls):
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            redis_state.require_writable(client)
            found += [f"Redis at {mask_password(url)}: {problem}" for problem in redis_state.list_problems(client)]
    return found


async def _peers(db: Database, urls: Sequence[str]) -> list[PeerStatus]:
    return [
        PeerStatus(
            peer,
            times.iso(min(one.day for one in found))[:10],
            sum(one.shared for one in found),
            sum(one.only_here for one in found),
            sum(one.only_there for one in found),
            max(float(one.max_bps or 0) for one in found),
        )
        for peer, found in (await peers.newest_by_peer(db, urls)).items()
        if found
    ]


def _peer_problems(status: Status, urls: Sequence[str]) -> list[str]:
    compared = {found.peer for found in status.peers if times.parse(found.day) >= status.at - MAX_COMPARISON_AGE_S}
    return [
        f"{found.peer} has {times.format_minutes(found.only_there)} since {found.day} that are missing here: run "
        f"`python -m ingest compare --peer {found.peer} --from {found.day} --repair`"
        for found in status.peers
        if found.only_there
    ] + [
        f"{url} has not been compared for all tickers in the last four days: see the log of the worker"
        for url in urls
        if url not in compared
    ]


async def _writer(db: Database) -> str | None:
    holder = await write_lock.lock_holder(db)
    if holder is None or holder["held_s"] < MIN_SHOWN_LOCK_S:
        return None
    return (
        f"{holder['application']} (process {holder['pid']} of PostgreSQL, from {holder['address']}) has held the writer lock "
        f"for {holder['held_s']:.0f} s and is {holder['state']}"
    )
