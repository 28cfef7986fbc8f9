"""The fault run: `make chaos`, or `python -m tests.chaos --short --seed 7`.

Runs virtual minutes as fast as they settle: each fault alone, then overlapping pairs. Then real minutes with the real
scheduler. At the end it checks every minute of every ticker, and exits with 1 if a check fails.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from db import times
from db.queries import candles
from db.rows import Reason
from ingest.simulator.server import Simulator, serve
from tests.chaos import faults, webhooks
from tests.chaos.audit import Audit, AuditResult, AuditRow, Expectation
from tests.chaos.environment import TICKERS, Environment, run_environment
from tests.chaos.faults import Fault
from tests.chaos.stream import StreamResult, StreamRun
from tests.chaos.webhooks import AlertRun

NO_FAULT = "no fault"
FAULT_FREE_TIMEOUT_S = 20.0
MAX_RECOVERY_MINUTES = 5
FAULT_TIMEOUT_S = 4.0
END_TIMEOUT_S = 120.0
VIRTUAL_SETTINGS = {
    "HTTP_MAX_RETRIES": "0",
    "HTTP_TIMEOUT_SECONDS": "2.5",
    "DERIBIT_BURST": "1000",
    "DERIBIT_RATE_PER_SECOND": "1000",
}
"""A virtual minute lasts a second, which leaves no time for retries."""
OTHER_SETTINGS = {"RETENTION_DAYS": "30"} | webhooks.SETTINGS
"""Retention is far longer than a run: rows are deleted only because of a wrong clock."""
DISK_BYTES = 400 << 20


def main() -> int:
    """Runs the faults and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog="example:\n  python -m tests.chaos --short --seed 7",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="seed of the random faults (default: random, printed)"
    )
    parser.add_argument("--short", action="store_true", help="two minutes instead of a quarter of an hour")
    parser.add_argument("--only", default="", help="run only single faults whose name contains this text")
    parser.add_argument("--pairs", type=int, help="number of pairs of overlapping faults (default: 36; with --short: 4)")
    parser.add_argument(
        "--stream-minutes", type=int, help="minutes of faults of the stream, at the same time (default: 15; with --short: 2)"
    )
    parser.add_argument("--real-minutes", type=int, help="minutes with the real scheduler (default: 10; with --short: 0)")
    options = parser.parse_args()
    if options.only:
        options.pairs = options.real_minutes = options.stream_minutes = 0
    pairs = options.pairs if options.pairs is not None else 4 if options.short else 36
    real_minutes = options.real_minutes if options.real_minutes is not None else 0 if options.short else 10
    stream_minutes = options.stream_minutes if options.stream_minutes is not None else 2 if options.short else 15
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(f"seed {options.seed}", highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exits through the blocks that stop all processes
    started_at = time.monotonic()
    run = FaultRun(random.Random(options.seed), console)  # noqa: S311  a reproducible run
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with _mount_small_disk(folder / "postgres") as disk:
            if not disk:
                console.print("skipping the full disk: only root can mount a small one")
            stream_run = StreamRun(random.Random(options.seed), console, folder)  # noqa: S311  a reproducible run

            async def run_both() -> AuditResult:
                async with asyncio.TaskGroup() as tasks:
                    if stream_minutes:
                        tasks.create_task(stream_run.run(stream_minutes))
                    rounds = 1 if options.short else 2
                    virtual = tasks.create_task(run.run(folder, rounds, pairs, real_minutes, only=options.only, disk=disk))
                return virtual.result()

            result = asyncio.run(run_both())
        result.problems += stream_run.result.problems
        if not result.is_clean:
            _copy_logs(folder, console)
    _print_stream_result(stream_run.result, console)
    _print_result(result, run.episodes, console)
    console.print(f"seed {options.seed}, {time.monotonic() - started_at:.0f} s", highlight=False)
    return 0 if result.is_clean else 1


class FaultRun:
    """One fault run: the current minute, the expectation of each minute, and the problems so far."""

    def __init__(self, rng: random.Random, console: Console) -> None:
        self.rng = rng
        self.console = console
        self.expected: dict[int, Expectation] = {}
        self.episodes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.minute = 0
        self.alerts = AlertRun(rng)

    async def run(self, folder: Path, rounds: int, pairs: int, real_minutes: int, *, only: str, disk: bool) -> AuditResult:
        """Runs all episodes and audits the result."""
        simulator = Simulator()
        failure_counts = [4, len(faults.REASON_BY_FAULT)][:rounds]  # the long run includes every failure of Deribit
        single_episodes = [
            [fault]
            for failure_count in failure_counts
            for fault in faults.all_faults(self.rng, disk=disk, failure_count=failure_count)
        ]
        single_episodes = [[fault] for [fault] in single_episodes if only in fault.name]
        pair_episodes = [list(faults.draw_pair(self.rng, disk=disk)) for _ in range(pairs)]
        episodes = single_episodes + pair_episodes
        minutes = sum(1 + max(fault.minutes for fault in episode) for episode in episodes)
        # The virtual minutes end about now.
        self.minute = times.minute_of(time.time()) - times.MINUTE * (minutes + 2 * len(episodes) + 3)
        simulator.clock.set(at=self.minute + 2)
        async with (
            serve(simulator) as rpc_url,
            self.alerts.receiver.serve(),
            run_environment(folder, simulator, rpc_url, VIRTUAL_SETTINGS | OTHER_SETTINGS, self.rng) as environment,
        ):
            await environment.stack.start_worker()
            await self._run_first_minutes(environment)
            await self.alerts.create(environment)
            for number, episode in enumerate(episodes, start=1):
                await self._run_episode(environment, episode, f"{number}/{len(episodes)}")
            while real_minutes and self.minute < times.minute_of(time.time()):
                await self._run_virtual_minute(environment, [])
            if real_minutes:
                await self._run_real_minutes(environment, real_minutes, disk=disk)
            await self._wait_until_checked(environment)
            self.problems += await self.alerts.check(environment)
            self.console.print(self.alerts.summary, highlight=False)
            return await self._audit(environment)

    async def _run_first_minutes(self, environment: Environment) -> None:
        """Runs the first minutes; tracking begins with them."""
        for _ in range(2):
            await self._run_virtual_minute(environment, [])

    async def _run_episode(self, environment: Environment, episode: Sequence[Fault], number: str) -> None:
        """Runs the overlapping faults until the longest ends, then minutes without a fault."""
        started_at = time.monotonic()
        self.episodes[_episode_name(episode)] += 1
        active: list[tuple[Fault, AsyncExitStack]] = []
        async with AsyncExitStack() as episode_blocks:
            self._set_clock(environment)
            for fault in episode:
                block = await episode_blocks.enter_async_context(AsyncExitStack())
                await block.enter_async_context(fault.block(environment, self.minute))
                active.append((fault, block))
            for elapsed_minutes in range(1, 1 + max(fault.minutes for fault in episode)):
                await self._run_virtual_minute(environment, [fault for fault, _ in active])
                if [fault.touches for fault in episode] == ["database"] and not await environment.stack.pending_entries():
                    environment.ineffective_faults.append(f"{_episode_name(episode)}: no price was queued in the outbox")
                for fault, block in [one for one in active if one[0].minutes == elapsed_minutes]:
                    await block.aclose()
                    active.remove((fault, block))
        if len(episode) == 1:  # of two faults, one may prevent the other
            self.problems += environment.ineffective_faults
        environment.ineffective_faults.clear()
        last = self.minute
        for _ in range(
            MAX_RECOVERY_MINUTES
        ):  # until the last minute is checked: the next fault may delete the recorded failures
            await self._run_virtual_minute(environment, [])
            if await environment.checked_until() >= last:
                break
        self.console.print(f"  {number:>7}  {_episode_name(episode)}  {time.monotonic() - started_at:.1f} s", highlight=False)

    def _set_clock(self, environment: Environment) -> None:
        environment.simulator.clock.set(at=self.minute + 2 + environment.clock_offset_s)

    async def _run_virtual_minute(self, environment: Environment, episode: Sequence[Fault]) -> None:
        self.expected[self.minute] = _expected(_episode_name(episode), episode)
        self._set_clock(environment)
        await environment.stack.delete_failures(self.minute)
        if environment.schedulers_are_running:
            for stack in list(environment.stacks):
                await stack.publish(self.minute)
        timeout_s = FAULT_TIMEOUT_S if episode else FAULT_FREE_TIMEOUT_S
        has_settled = await environment.stack.until(
            lambda: environment.is_settled(self.minute), timeout_s if environment.schedulers_are_running else 0.3
        )
        if not has_settled and not episode:
            self.console.print(f"  {times.iso(self.minute)}, without a fault, did not settle within {timeout_s:.0f} s")
        self.minute += times.MINUTE

    async def _run_real_minutes(self, environment: Environment, minutes: int, *, disk: bool) -> None:
        """Runs minutes of real time, which the real scheduler sends, with their full time budget."""
        environment.simulator.clock.set(offset_s=0.0)
        for name in VIRTUAL_SETTINGS:
            environment.stack.settings.pop(name)
        await environment.stack.stop_worker()
        await environment.stack.start_worker()
        environment.stack.start_scheduler()
        await asyncio.sleep(max(0.0, self.minute - time.time()))
        for number in range(minutes):
            now = times.minute_of(time.time()) + times.MINUTE
            while self.minute < now:  # the minute in which the real part begins
                self.expected.setdefault(
                    self.minute, Expectation("the real minutes begin", dict.fromkeys(TICKERS, frozenset(Reason)))
                )
                self.minute += times.MINUTE
            episode = [] if number % 3 == 2 else self._draw_real_episode(number, disk=disk)
            await self._run_real_minute(environment, episode)
        await environment.stack.kill_schedulers()

    def _draw_real_episode(self, number: int, *, disk: bool) -> list[Fault]:
        if number % 2:
            return list(faults.draw_pair(self.rng, disk=disk))
        return [self.rng.choice(faults.all_faults(self.rng, disk=disk))]

    async def _run_real_minute(self, environment: Environment, episode: Sequence[Fault]) -> None:
        minute, duration_s = self.minute, self.rng.uniform(8, 45)
        label = f"real: {_episode_name(episode)}"
        self.episodes[label] += 1
        self.expected[minute] = _expected(label, episode)
        self.minute += times.MINUTE
        await asyncio.sleep(max(0.0, minute - 2 - time.time()))
        async with AsyncExitStack() as blocks:
            for fault in episode:
                await blocks.enter_async_context(fault.block(environment, minute))
            await asyncio.sleep(max(0.0, minute + duration_s - time.time()))
        if any(scheduler.poll() is not None for scheduler in environment.stack.schedulers):
            self.problems.append(f"{label}: a scheduler ended by itself")
            await environment.stack.kill_schedulers()
            environment.stack.start_scheduler()
        await environment.stack.start_worker()
        await asyncio.sleep(max(0.0, minute + 55 - time.time()))
        self.console.print(f"  {times.iso(minute)}  {label}, held for {duration_s:.0f} s", highlight=False)

    async def _wait_until_checked(self, environment: Environment) -> None:
        """Runs minutes without a fault until the watermark of each ticker has passed the last minute."""
        end = self.minute
        await environment.postgres.start()
        await environment.stack.valkey.start()
        await environment.stack.start_worker()
        deadline = time.monotonic() + END_TIMEOUT_S
        while time.monotonic() < deadline:
            environment.simulator.clock.set(at=self.minute + 2)
            await environment.stack.publish(self.minute)
            await asyncio.sleep(1)
            async with environment.sql() as connection:
                passed = await connection.fetchval("SELECT min(checked_until) >= $1 FROM ticker", end)
                missing = await connection.fetchval("SELECT count(*) FROM gap WHERE filled_at IS NULL AND ts < $1", end)
            if passed and not missing and not await environment.stack.pending_entries():
                return
            self.minute += times.MINUTE
        self.problems.append(f"the last minute was not checked within {END_TIMEOUT_S:.0f} s")

    async def _audit(self, environment: Environment) -> AuditResult:
        worker_start_minutes = [times.minute_of(at) for at in environment.stack.started_at]
        async with environment.sql() as connection:
            audit = Audit(
                await connection.fetch("SELECT * FROM price"),
                await connection.fetch("SELECT * FROM gap"),
                environment.simulator.served,
            )
            last = max(self.expected)
            # Minutes that were sent after the last expected one are not audited.
            audit.prices = {minute: price for minute, price in audit.prices.items() if minute[1] <= last}
            audit.gaps = {minute: gap for minute, gap in audit.gaps.items() if minute[1] <= last}
            result = audit.check(self.expected, frozenset(worker_start_minutes))
            for query, problem in (
                ("SELECT count(*) FROM reject", "rejected entries"),
                ("SELECT count(*) - count(DISTINCT (ticker, ts)) FROM price", "prices stored twice"),
                ("SELECT count(*) FROM price WHERE ts > extract(epoch FROM now()) + 600", "future prices"),
                ("SELECT count(*) FROM ticker WHERE horizon > extract(epoch FROM now())", "future horizons"),
                (
                    "SELECT count(*) FROM tracking WHERE until IS NOT NULL",
                    "ended tracking periods, although every ticker is in TICKERS",
                ),
            ):
                found = await connection.fetchval(query)
                if found:
                    result.problems.append(f"{found} {problem}")
            for ticker in TICKERS:
                for span, ts in await candles.find_differences(connection, ticker, times.FIRST):
                    result.problems.append(f"{ticker} {ts}: the candle of {span} s differs from its minutes")
        result.problems += self.problems
        for entry in sorted(await environment.stack.pending_entries()):
            result.problems.append(f"{entry} is still in the outbox")
        return result


def _expected(label: str, episode: Sequence[Fault]) -> Expectation:
    return Expectation(label, {ticker: faults.allowed_reasons(episode, ticker) for ticker in TICKERS})


def _episode_name(episode: Sequence[Fault]) -> str:
    return " + ".join(fault.name for fault in episode) or NO_FAULT


@contextlib.contextmanager
def _mount_small_disk(folder: Path) -> Iterator[bool]:
    """Mounts a small disk for PostgreSQL, if that is possible. Yields whether it is."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(folder)]
    if not faults.can_mount_disk() or subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603  our own
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607  unmounts the disk from above


def _copy_logs(folder: Path, console: Console) -> None:
    target = Path(tempfile.mkdtemp(prefix="chaos-"))
    for log in folder.glob("*.log"):
        (target / log.name).write_bytes(log.read_bytes())
    console.print(f"the workers' logs are in {target}", highlight=False)


def _print_stream_result(result: StreamResult, console: Console) -> None:
    faults = ", ".join(f"{name} ({count})" for name, count in sorted(result.faults.items()))
    console.print(f"stream: {sum(result.faults.values())} faults: {faults}", highlight=False, soft_wrap=True)
    console.print(
        f"stream: {result.minutes:,} minutes with ticks: {result.watched:,} watched, {result.partly_watched:,} partly watched, "
        f"{result.unwatched:,} without a range; {result.wrong} wrong ranges, {result.falsely_watched} falsely watched, "
        f"{result.missed_extremes} watched with an extreme inside a silence of at most five seconds",
        highlight=False,
        soft_wrap=True,
    )


def _print_result(result: AuditResult, episodes: Counter[str], console: Console) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("faults", no_wrap=True)
    for name in ("episodes", "minutes", "live", "backfilled", "gaps", "lost", "duplicates", "wrong", "unjustified"):
        table.add_column(name, justify="right")
    total = AuditRow()
    for name, row in _group_rows(result.rows, episodes).items():
        table.add_row(name, *(f"{value:,}" for value in vars(row).values()))
        if name != NO_FAULT:
            _add(total, row)
    table.add_section()
    table.add_row("under faults", *(f"{value:,}" for value in vars(total).values()))
    console.print(table)
    for problem in result.problems[:40]:
        console.print(problem, highlight=False, style="red", soft_wrap=True)
    if len(result.problems) > 40:
        console.print(f"… and {len(result.problems) - 40} more", style="red")
    console.print(
        f"{len(TICKERS)} tickers; " + ("all minutes are stored or justified gaps" if result.is_clean else "PROBLEMS FOUND")
    )


def _group_rows(rows: Mapping[str, AuditRow], episodes: Mapping[str, int]) -> dict[str, AuditRow]:
    """Groups the rows: one per fault, one for all pairs, one for the real minutes, and last the minutes without a fault."""
    grouped: dict[str, AuditRow] = {}
    for name, row in sorted(rows.items()):
        group = "real minutes" if "real" in name else "two overlapping faults" if " + " in name else name
        row.episodes = episodes.get(name, 0)
        _add(grouped.setdefault(group, AuditRow()), row)
    last = ("two overlapping faults", "real minutes", NO_FAULT)
    order = sorted(grouped, key=lambda name: (last.index(name) + 1 if name in last else 0, name.lower()))
    return {name: grouped[name] for name in order}


def _add(total: AuditRow, row: AuditRow) -> None:
    for key, value in vars(row).items():
        setattr(total, key, getattr(total, key) + value)


if __name__ == "__main__":
    sys.exit(main())
