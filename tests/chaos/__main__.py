"""The fault run: `make chaos`, or `python -m tests.chaos --short --seed 7`.

Virtual minutes, one after another as fast as they settle: each fault alone, then pairs that overlap; then real minutes with
the real scheduler. At the end every minute of every ticker is accounted for. Exits with 1 when one is not.
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
from db.tables import Reason
from ingest.simulator.server import Simulator, serve
from tests.chaos import faults
from tests.chaos.faults import Fault
from tests.chaos.stand import TICKERS, Stand, standing
from tests.chaos.verdict import Account, Expectation, Row, Verdict

CALM = "no fault"
CALM_PATIENCE_S = 20.0
CALM_MOST = 5
FAULT_PATIENCE_S = 4.0
END_PATIENCE_S = 120.0
VIRTUAL = {"HTTP_MAX_RETRIES": "0", "HTTP_TIMEOUT_SECONDS": "2.5", "DERIBIT_BURST": "1000", "DERIBIT_RATE_PER_SECOND": "1000"}
"""A virtual minute is over in a second: no time to try again in."""
RETENTION = {"RETENTION_DAYS": "30"}
"""Far longer than a run: whatever is forgotten is lost by a wrong clock."""
DISK_BYTES = 400 << 20


def main() -> int:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog="example:\n  python -m tests.chaos --short --seed 7",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="draws the faults (drawn itself, and printed)")
    parser.add_argument("--short", action="store_true", help="two minutes instead of a quarter of an hour")
    parser.add_argument("--only", default="", help="only single faults whose name has this in it")
    parser.add_argument("--pairs", type=int, help="overlapping pairs (36; short: 6)")
    parser.add_argument("--real-minutes", type=int, help="minutes with the real scheduler (10; short: 0)")
    options = parser.parse_args()
    if options.only:
        options.pairs = options.real_minutes = 0
    pairs = options.pairs if options.pairs is not None else 6 if options.short else 36
    real = options.real_minutes if options.real_minutes is not None else 0 if options.short else 10
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(f"seed {options.seed}", highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the blocks that end what was started
    begun = time.monotonic()
    run = Run(random.Random(options.seed), console)  # noqa: S311  a game that can be played again
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with _small_disk(folder / "postgres") as disk:
            if not disk:
                console.print("a full disk is left out: only root can make a small one")
            verdict = asyncio.run(run.run(folder, 1 if options.short else 2, pairs, real, only=options.only, disk=disk))
        if not verdict.clean:
            _keep_logs(folder, console)
    _show(verdict, run.episodes, console)
    console.print(f"seed {options.seed}, {time.monotonic() - begun:.0f} s", highlight=False)
    return 0 if verdict.clean else 1


class Run:
    """One run: the minutes so far, and what may have become of them."""

    def __init__(self, draw: random.Random, console: Console) -> None:
        self.draw = draw
        self.console = console
        self.expected: dict[int, Expectation] = {}
        self.episodes: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.minute = 0

    async def run(self, folder: Path, rounds: int, pairs: int, real: int, *, only: str, disk: bool) -> Verdict:
        """Everything, to the verdict."""
        simulator = Simulator()
        ways = [4, len(faults.REASON_OF)][:rounds]  # the long run has Deribit fail in all of them
        singles = [[fault] for number in ways for fault in faults.every(self.draw, disk=disk, ways=number)]
        singles = [[fault] for [fault] in singles if only in fault.name]
        drawn = [list(faults.pair(self.draw, disk=disk)) for _ in range(pairs)]
        episodes = singles + drawn
        minutes = sum(1 + max(fault.minutes for fault in episode) for episode in episodes)
        # The virtual past ends about now.
        self.minute = times.minute_of(time.time()) - times.MINUTE * (minutes + 2 * len(episodes) + 3)
        simulator.clock.set(at=self.minute + 2)
        async with serve(simulator) as rpc_url, standing(folder, simulator, rpc_url, VIRTUAL | RETENTION, self.draw) as stand:
            await stand.stack.start_worker()
            await self._settle_in(stand)
            for number, episode in enumerate(episodes, start=1):
                await self._episode(stand, episode, f"{number}/{len(episodes)}")
            while real and self.minute < times.minute_of(time.time()):
                await self._virtual_minute(stand, [])
            if real:
                await self._real(stand, real, disk=disk)
            await self._until_explained(stand)
            return await self._judge(stand)

    async def _settle_in(self, stand: Stand) -> None:
        """The first minute; tracking begins with it."""
        for _ in range(2):
            await self._virtual_minute(stand, [])

    async def _episode(self, stand: Stand, episode: Sequence[Fault], number: str) -> None:
        """The faults overlapping for as long as the longest lasts, then a minute of calm."""
        begun = time.monotonic()
        self.episodes[_named(episode)] += 1
        lasting: list[tuple[Fault, AsyncExitStack]] = []
        async with AsyncExitStack() as all_of_them:
            self._set_clock(stand)
            for fault in episode:
                block = await all_of_them.enter_async_context(AsyncExitStack())
                await block.enter_async_context(fault.block(stand, self.minute))
                lasting.append((fault, block))
            for passed in range(1, 1 + max(fault.minutes for fault in episode)):
                await self._virtual_minute(stand, [fault for fault, _ in lasting])
                if [fault.touches for fault in episode] == ["database"] and not await stand.stack.waiting():
                    stand.toothless.append(f"{_named(episode)}: nothing had to wait in the outbox")
                for fault, block in [one for one in lasting if one[0].minutes == passed]:
                    await block.aclose()
                    lasting.remove((fault, block))
        if len(episode) == 1:  # of two, one may have been in the way of the other
            self.complaints += stand.toothless
        stand.toothless.clear()
        last = self.minute
        for _ in range(CALM_MOST):  # until the last of it is explained: the next one may wipe the evidence
            await self._virtual_minute(stand, [])
            if await stand.walked() >= last:
                break
        self.console.print(f"  {number:>7}  {_named(episode)}  {time.monotonic() - begun:.1f} s", highlight=False)

    def _set_clock(self, stand: Stand) -> None:
        stand.simulator.clock.set(at=self.minute + 2 + stand.clock_offset_s)

    async def _virtual_minute(self, stand: Stand, episode: Sequence[Fault]) -> None:
        self.expected[self.minute] = _expected(_named(episode), episode)
        self._set_clock(stand)
        await stand.stack.forget(self.minute)
        if stand.schedulers_run:
            for stack in list(stand.stacks):
                await stack.publish(self.minute)
        patience_s = FAULT_PATIENCE_S if episode else CALM_PATIENCE_S
        settled = await stand.stack.until(lambda: stand.settled(self.minute), patience_s if stand.schedulers_run else 0.3)
        if not settled and not episode:
            self.console.print(f"  the calm minute {times.iso(self.minute)} did not settle in {patience_s:.0f} s")
        self.minute += times.MINUTE

    async def _real(self, stand: Stand, minutes: int, *, disk: bool) -> None:
        """Minutes by the clock on the wall, sent by the real scheduler, tried until their budget ends."""
        stand.simulator.clock.set(offset_s=0.0)
        for name in VIRTUAL:
            stand.stack.settings.pop(name)
        await stand.stack.stop_worker()
        await stand.stack.start_worker()
        stand.stack.start_scheduler()
        await asyncio.sleep(max(0.0, self.minute - time.time()))
        for number in range(minutes):
            now = times.minute_of(time.time()) + times.MINUTE
            while self.minute < now:  # the one in which it began
                self.expected.setdefault(
                    self.minute, Expectation("the real minutes begin", dict.fromkeys(TICKERS, frozenset(Reason)))
                )
                self.minute += times.MINUTE
            episode = [] if number % 3 == 2 else self._drawn_for_real(number, disk=disk)
            await self._real_minute(stand, episode)
        await stand.stack.end_schedulers()

    def _drawn_for_real(self, number: int, *, disk: bool) -> list[Fault]:
        if number % 2:
            return list(faults.pair(self.draw, disk=disk))
        return [self.draw.choice(faults.every(self.draw, disk=disk))]

    async def _real_minute(self, stand: Stand, episode: Sequence[Fault]) -> None:
        minute, held_s = self.minute, self.draw.uniform(8, 45)
        named = f"real: {_named(episode)}"
        self.episodes[named] += 1
        self.expected[minute] = _expected(named, episode)
        self.minute += times.MINUTE
        await asyncio.sleep(max(0.0, minute - 2 - time.time()))
        async with AsyncExitStack() as blocks:
            for fault in episode:
                await blocks.enter_async_context(fault.block(stand, minute))
            await asyncio.sleep(max(0.0, minute + held_s - time.time()))
        if any(scheduler.poll() is not None for scheduler in stand.stack.schedulers):
            self.complaints.append(f"{named}: a scheduler ended by itself")
            await stand.stack.end_schedulers()
            stand.stack.start_scheduler()
        await stand.stack.start_worker()
        await asyncio.sleep(max(0.0, minute + 55 - time.time()))
        self.console.print(f"  {times.iso(minute)}  {named}, held for {held_s:.0f} s", highlight=False)

    async def _until_explained(self, stand: Stand) -> None:
        """Calm until the watermark of each ticker has passed the last minute."""
        end = self.minute
        await stand.postgres.start()
        await stand.stack.valkey.start()
        await stand.stack.start_worker()
        deadline = time.monotonic() + END_PATIENCE_S
        while time.monotonic() < deadline:
            stand.simulator.clock.set(at=self.minute + 2)
            await stand.stack.publish(self.minute)
            await asyncio.sleep(1)
            async with stand.sql() as connection:
                passed = await connection.fetchval("SELECT min(checked_until) >= $1 FROM ticker", end)
                missing = await connection.fetchval("SELECT count(*) FROM gap WHERE filled_at IS NULL AND ts < $1", end)
            if passed and not missing and not await stand.stack.waiting():
                return
            self.minute += times.MINUTE
        self.complaints.append(f"the books could not be closed in {END_PATIENCE_S:.0f} s")

    async def _judge(self, stand: Stand) -> Verdict:
        early = [times.minute_of(at) for at in stand.stack.started_at]
        async with stand.sql() as connection:
            account = Account(
                await connection.fetch("SELECT * FROM price"),
                await connection.fetch("SELECT * FROM gap"),
                stand.simulator.served,
            )
            last = max(self.expected)
            # What was sent to close the books is no part of them.
            account.prices = {minute: price for minute, price in account.prices.items() if minute[1] <= last}
            account.gaps = {minute: gap for minute, gap in account.gaps.items() if minute[1] <= last}
            verdict = account.judge(self.expected, frozenset(early))
            for question, complaint in (
                ("SELECT count(*) FROM reject", "entries set aside"),
                ("SELECT count(*) - count(DISTINCT (ticker, ts)) FROM price", "prices stored twice"),
                ("SELECT count(*) FROM price WHERE ts > extract(epoch FROM now()) + 600", "prices of the future"),
                ("SELECT count(*) FROM ticker WHERE horizon > extract(epoch FROM now())", "horizons of the future"),
                ("SELECT count(*) FROM tracking WHERE until IS NOT NULL", "periods ended, though every ticker was wanted"),
            ):
                found = await connection.fetchval(question)
                if found:
                    verdict.complaints.append(f"{found} {complaint}")
            for ticker in TICKERS:
                for span, ts in await candles.find_differences(connection, ticker, times.FIRST):
                    verdict.complaints.append(f"{ticker} {ts}: the candle of {span} s is not what its minutes make")
        verdict.complaints += self.complaints
        for waiting in sorted(await stand.stack.waiting()):
            verdict.complaints.append(f"{waiting} still waits in the outbox")
        return verdict


def _expected(named: str, episode: Sequence[Fault]) -> Expectation:
    return Expectation(named, {ticker: faults.reasons(episode, ticker) for ticker in TICKERS})


def _named(episode: Sequence[Fault]) -> str:
    return " + ".join(fault.name for fault in episode) or CALM


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own for PostgreSQL, where one can be made."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(folder)]
    if not faults.can_fill_a_disk() or subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603  our own
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607  what was mounted above


def _keep_logs(folder: Path, console: Console) -> None:
    kept = Path(tempfile.mkdtemp(prefix="chaos-"))
    for log in folder.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    console.print(f"the workers' logs are in {kept}", highlight=False)


def _show(verdict: Verdict, episodes: Counter[str], console: Console) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("faults", no_wrap=True)
    for name in ("episodes", "minutes", "live", "backfilled", "gaps", "lost", "twice", "wrong", "unkept"):
        table.add_column(name, justify="right")
    total = Row()
    for name, row in _grouped(verdict.rows, episodes).items():
        table.add_row(name, *(f"{value:,}" for value in vars(row).values()))
        if name != CALM:
            _add(total, row)
    table.add_section()
    table.add_row("under faults", *(f"{value:,}" for value in vars(total).values()))
    console.print(table)
    for complaint in verdict.complaints[:40]:
        console.print(complaint, highlight=False, style="red", soft_wrap=True)
    if len(verdict.complaints) > 40:
        console.print(f"… and {len(verdict.complaints) - 40} more", style="red")
    console.print(f"{len(TICKERS)} tickers; " + ("all minutes are accounted for" if verdict.clean else "NOT CLEAN"))


def _grouped(rows: Mapping[str, Row], episodes: Mapping[str, int]) -> dict[str, Row]:
    """A line for each fault alone, one for all pairs, one for the real minutes, and the calm ones last."""
    grouped: dict[str, Row] = {}
    for name, row in sorted(rows.items()):
        group = "in real minutes" if "real" in name else "two of them at once" if " + " in name else name
        row.episodes = episodes.get(name, 0)
        _add(grouped.setdefault(group, Row()), row)
    last = ("two of them at once", "in real minutes", CALM)
    order = sorted(grouped, key=lambda name: (last.index(name) + 1 if name in last else 0, name.lower()))
    return {name: grouped[name] for name in order}


def _add(total: Row, row: Row) -> None:
    for key, value in vars(row).items():
        setattr(total, key, getattr(total, key) + value)


if __name__ == "__main__":
    sys.exit(main())
