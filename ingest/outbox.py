"""Where a price waits, in Redis, from the moment it was fetched until PostgreSQL has committed it.

One hash holds the prices, one entry for each ticker and minute, first come stays; another holds why a minute has none; a third
what workers last said of themselves. Every method raises OutboxError where Redis does not do it.
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio
from pydantic import ValidationError
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from db import times
from db.queries.gaps import Minute
from db.tables import NAME, PriceRow, Reason
from ingest.errors import OutboxError, OutboxFullError

PRICES = "tickgraph:outbox"
FAILURES = "tickgraph:failures"
REPORT = "tickgraph:report"
HEARTBEATS = "tickgraph:worker:"
"""Each worker process has a key of its own: this, its host, a colon, its process id. The value is its TICKERS as JSON."""
PATIENCE_S = 2.0

# Only what was read: another worker may have removed it meanwhile, and a new price taken its name.
REMOVE = """
for place = 1, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[place]) == ARGV[place + 1] then
        redis.call('HDEL', KEYS[1], ARGV[place])
    end
end
"""


@dataclass(frozen=True)
class Unreadable:
    """An entry that is no price: what it is, and why it cannot be stored."""

    entry: str
    reason: str
    ticker: str | None = None
    ts: int | None = None


@dataclass
class Waiting:
    """Entries of the outbox."""

    entries: dict[bytes, bytes] = field(default_factory=dict)
    """As they are there."""
    rows: list[PriceRow] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What workers last said."""

    clock_skew_s: float | None = None
    """Local clock minus the exchange's."""
    errors: dict[str, str] = field(default_factory=dict)
    """By ticker, the last failure and its minute."""
    jobs: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By job, since when it fails (UNIX seconds), and why."""


class Outbox:
    """The outbox of one Redis, which holds at most `most` prices."""

    def __init__(self, client: redis.asyncio.Redis, most: int) -> None:
        self._client = client
        self.most = most
        self._unsaid: dict[Minute, Reason] = {}
        self._remove = client.register_script(REMOVE)

    async def put(self, rows: Sequence[PriceRow]) -> None:
        """Takes prices in; one that waits already stays as it is. OutboxFullError: none was taken."""
        with _own_errors():
            if await self._client.hlen(PRICES) + len(rows) > self.most:
                raise OutboxFullError(f"the outbox is full: {self.most} prices wait for PostgreSQL")
            async with self._client.pipeline(transaction=True) as pipe:
                for row in rows:
                    pipe.hsetnx(PRICES, _field(row.ticker, row.ts), row.model_dump_json())
                await pipe.execute()

    async def depth(self) -> int:
        """How many prices wait."""
        with _own_errors():
            return int(await self._client.hlen(PRICES))

    async def fields(self) -> list[bytes]:
        """What every entry is called, the oldest minute first."""
        with _own_errors():
            names = await self._client.hkeys(PRICES)
        return sorted(map(_bytes, names), key=lambda name: name.rpartition(b"|")[2])

    async def minutes(self) -> set[Minute]:
        """The minutes whose prices wait."""
        return {minute for name in await self.fields() if (minute := _minute(_text(name))) is not None}

    async def waits(self, tickers: Iterable[str], ts: int) -> set[str]:
        """Those of the tickers whose price of the minute waits."""
        asked = list(tickers)
        if not asked:
            return set()
        with _own_errors():
            values = await self._client.hmget(PRICES, [_field(ticker, ts) for ticker in asked])
        return {ticker for ticker, value in zip(asked, values, strict=True) if value is not None}

    async def read(self, fields: Sequence[bytes]) -> Waiting:
        """The entries, as far as they are still there."""
        with _own_errors():
            values = await self._client.hmget(PRICES, list(fields))
        waiting = Waiting()
        for name, value in zip(fields, values, strict=True):
            if value is not None:
                waiting.entries[name] = _bytes(value)
                _sort_in(waiting, _text(name), _text(value))
        return waiting

    async def remove(self, entries: Mapping[bytes, bytes]) -> None:
        """Forgets entries that are committed or set aside, as far as they are still those."""
        if entries:
            with _own_errors():
                await self._remove(keys=[PRICES], args=[part for entry in entries.items() for part in entry])

    async def note(self, failures: Mapping[Minute, Reason]) -> None:
        """Leaves evidence of why minutes have no price, for whoever looks for gaps."""
        noted = self._unsaid | dict(failures)
        if not noted:
            return
        with _own_errors():
            if await self._client.hlen(FAILURES) + len(noted) > self.most:
                raise OutboxFullError(f"there is room for no more than {self.most} reasons")
            await self._client.hset(FAILURES, mapping={_field(*minute): reason.value for minute, reason in noted.items()})
        for minute in noted:
            self._unsaid.pop(minute, None)

    def remember(self, failures: Mapping[Minute, Reason]) -> None:
        """Keeps evidence in memory that neither Redis nor PostgreSQL took, until the next `note`."""
        self._unsaid.update(failures)

    async def failures(self) -> dict[Minute, Reason]:
        """The evidence."""
        with _own_errors():
            noted = await self._client.hgetall(FAILURES)
        found = {}
        for name, reason in noted.items():
            minute = _minute(_text(name))
            if minute is not None and _text(reason) in set(Reason):
                found[minute] = Reason(_text(reason))
        return found

    async def forget(self, minutes: Iterable[Minute]) -> None:
        """Removes evidence that has become a gap, or that nobody needs."""
        names = [_field(*minute) for minute in minutes]
        if names:
            with _own_errors():
                await self._client.hdel(FAILURES, *names)

    async def say(self, report: Report) -> None:
        """Leaves the report for whoever asks how things are."""
        said: dict[Any, str] = {} if report.clock_skew_s is None else {"clock": f"{report.clock_skew_s:.3f}"}
        said |= {f"error|{ticker}": message for ticker, message in report.errors.items()}
        said |= {f"job|{name}": f"{since} {why}" for name, (since, why) in report.jobs.items()}
        if said:
            with _own_errors():
                await self._client.hset(REPORT, mapping=said)

    async def said(self) -> Report:
        """What workers last said."""
        with _own_errors():
            said = {_text(name): _text(value) for name, value in (await self._client.hgetall(REPORT)).items()}
        errors = {name.removeprefix("error|"): message for name, message in said.items() if name.startswith("error|")}
        jobs = {}
        for name, value in said.items():
            since, _, why = value.partition(" ")
            if name.startswith("job|") and since.isdecimal():
                jobs[name.removeprefix("job|")] = int(since), why
        return Report(float(said["clock"]) if "clock" in said else None, errors, jobs)

    async def write_jobs(self, failed: Mapping[str, str], done: Iterable[str], now: int) -> None:
        """Leaves which jobs failed and why, since when they do, and takes back what was said of those that were done."""
        before = (await self.said()).jobs
        jobs = {name: (before[name][0] if name in before else now, why) for name, why in failed.items()}
        await self.say(Report(jobs=jobs))
        names = [f"job|{name}" for name in done if name in before]
        if names:
            with _own_errors():
                await self._client.hdel(REPORT, *names)

    async def worker_tickers(self) -> dict[str, list[str]]:
        """The TICKERS of each worker process that said of late that it runs, by `host:pid`."""
        found = {}
        with _own_errors():
            async for key in self._client.scan_iter(f"{HEARTBEATS}*"):
                value = await self._client.get(key)
                with suppress(ValueError):
                    names = json.loads(value or "null")
                    if isinstance(names, list):
                        found[_text(key).removeprefix(HEARTBEATS)] = [str(name) for name in names]
        return found


@asynccontextmanager
async def open_outbox(redis_url: str, most: int) -> AsyncIterator[Outbox]:
    """The outbox at the address, connected to when it is first used."""
    # Without retries of its own, connections from before a restart of Redis would each fail once.
    client = redis.asyncio.Redis.from_url(
        redis_url,
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
    )
    async with client:
        yield Outbox(client, most)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise OutboxError(f"Redis does not take or give prices: {error or type(error).__name__}") from error


def _field(ticker: str, ts: int) -> str:
    return f"{ticker}|{ts}"


def _minute(name: str) -> Minute | None:
    """The ticker and minute that a name names, None where it names none."""
    ticker, _, text = name.rpartition("|")
    if not re.fullmatch(NAME, ticker) or not re.fullmatch(r"[0-9]{1,10}", text):
        return None
    ts = int(text)
    return (ticker, ts) if ts % times.MINUTE == 0 and ts < times.END else None


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def _sort_in(waiting: Waiting, name: str, value: str) -> None:
    try:
        row = PriceRow.model_validate_json(value)
    except ValidationError as error:
        waiting.unreadable.append(_unreadable(name, value, f"no price: {error.errors()[0]['msg']}"))
        return
    if _field(row.ticker, row.ts) == name:
        waiting.rows.append(row)
    else:
        waiting.unreadable.append(_unreadable(name, value, f"it waits under {name}"))


def _unreadable(name: str, value: str, why: str) -> Unreadable:
    return Unreadable(_printable(value), _printable(why), *(_minute(name) or (None, None)))


def _printable(entry: str) -> str:
    """Without what PostgreSQL's text cannot hold."""
    return entry if "\0" not in entry else json.dumps(entry)
