"""The outbox in Redis, which stores fetched prices until PostgreSQL has committed them.

One hash holds the prices, with one entry per ticker and minute; the first value stays. A second hash holds the ticks, with one
entry per ticker, minute and stream process; a third the reasons of minutes without a price, a fourth the report of the workers.
Every method raises OutboxError if Redis fails.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from pydantic import ValidationError
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from db import times
from db.queries.gaps import TickerMinute
from db.rows import NAME_PATTERN, PriceRow, Reason
from ingest.errors import OutboxError, OutboxFullError
from ingest.ticks import MinuteTicks

PRICES = "tickgraph:outbox"
TICKS = "tickgraph:ticks"
TICKS_RATIO = 50
"""The outbox holds one minute of ticks for this many prices: a fifth of the prices' memory, which must not lack room."""
STREAM = "tickgraph:stream:"
"""Prefix of the states of stream processes: prefix and process. They expire, like heartbeats."""
STREAM_STATE_TTL_S = 20
FAILURES = "tickgraph:failures"
REPORT = "tickgraph:report"
HEARTBEATS = "tickgraph:worker:"
"""Prefix of the heartbeat keys: prefix, host, colon, process id. The value is the TICKERS of the process as a JSON array."""
REDIS_TIMEOUT_S = 2.0

# Removes an entry only if its value is the one that was read: another worker may have replaced it in the meantime.
REMOVE_SCRIPT = """
for index = 1, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[index]) == ARGV[index + 1] then
        redis.call('HDEL', KEYS[1], ARGV[index])
    end
end
"""


Value = TypeVar("Value")


@dataclass(frozen=True)
class InvalidEntry:
    """An outbox entry that is not a valid price or minute of ticks, with the reason."""

    entry: str
    reason: str
    ticker: str | None = None
    ts: int | None = None


@dataclass
class OutboxBatch(Generic[Value]):
    """A batch of outbox entries and their parsed values."""

    entries: dict[bytes, bytes] = field(default_factory=dict)
    """Hash fields and their raw values."""
    values: list[Value] = field(default_factory=list)
    invalid: list[InvalidEntry] = field(default_factory=list)


class OutboxHash(Generic[Value]):
    """The entries of one hash. Their fields begin with ticker and minute."""

    def __init__(self, client: redis.asyncio.Redis, key: str, parse: Callable[[str, str], Value]) -> None:
        """`parse` returns the value of a hash field and its text. Raises ValueError if they are invalid."""
        self._key = key
        self._client = client
        self._parse = parse
        self._remove = client.register_script(REMOVE_SCRIPT)

    async def depth(self) -> int:
        """Returns the number of entries."""
        with _translate_errors():
            return int(await self._client.hlen(self._key))

    async def fields(self) -> list[bytes]:
        """Returns the hash fields of all entries, the oldest minute first."""
        with _translate_errors():
            names = await self._client.hkeys(self._key)
        return sorted(map(_bytes, names), key=lambda name: name.split(b"|")[1:2])

    async def read(self, fields: Sequence[bytes]) -> OutboxBatch[Value]:
        """Reads the entries of the fields. Skips entries that no longer exist."""
        with _translate_errors():
            values = await self._client.hmget(self._key, list(fields))
        batch = OutboxBatch[Value]()
        for name, value in zip(fields, values, strict=True):
            if value is not None:
                batch.entries[name] = _bytes(value)
                try:
                    batch.values.append(self._parse(_text(name), _text(value)))
                except ValueError as error:
                    batch.invalid.append(_invalid_entry(_text(name), _text(value), str(error)))
        return batch

    async def remove(self, entries: Mapping[bytes, bytes]) -> None:
        """Removes committed or rejected entries, unless their value has changed since they were read."""
        if entries:
            with _translate_errors():
                await self._remove(keys=[self._key], args=[part for entry in entries.items() for part in entry])


@dataclass(frozen=True)
class StreamState:
    """The state of a stream process."""

    connected: bool
    subscribed: list[str]
    """Tickers whose channel the exchange confirmed."""
    refused: list[str]
    """Tickers whose channel the exchange left out."""
    last_tick_at: float | None
    """The exchange's timestamp of the newest tick, in UNIX seconds."""


@dataclass(frozen=True)
class Report:
    """The last report of the workers."""

    clock_skew_s: float | None = None
    """Local clock minus the exchange's clock, in seconds."""
    errors: dict[str, str] = field(default_factory=dict)
    """The last failure of each ticker, with its minute."""
    jobs: dict[str, tuple[int, str]] = field(default_factory=dict)
    """For each failing job, the UNIX second of its first failure and the error."""


class Outbox:
    """The outbox in one Redis server. Holds at most `max_prices` prices."""

    def __init__(self, client: redis.asyncio.Redis, max_prices: int) -> None:
        self._client = client
        self.max_prices = max_prices
        self.prices = OutboxHash(client, PRICES, _parse_price)
        self.ticks = OutboxHash(client, TICKS, _parse_ticks)
        self._buffered_failures: dict[TickerMinute, Reason] = {}

    async def put(self, rows: Sequence[PriceRow]) -> None:
        """Adds prices. A queued price is not overwritten. Raises OutboxFullError, and adds none, if they do not all fit."""
        with _translate_errors():
            if await self._client.hlen(PRICES) + len(rows) > self.max_prices:
                raise OutboxFullError(
                    f"the outbox is full: it holds at most {self.max_prices} prices. Restore PostgreSQL, or raise OUTBOX_MOST"
                )
            async with self._client.pipeline(transaction=True) as pipe:
                for row in rows:
                    pipe.hsetnx(PRICES, _field(row.ticker, row.ts), row.model_dump_json(exclude_none=True))
                await pipe.execute()

    async def pending_minutes(self) -> set[TickerMinute]:
        """Returns the ticker and minute of each queued price."""
        return {minute for name in await self.prices.fields() if (minute := _minute(_text(name))) is not None}

    async def pending_tickers(self, tickers: Iterable[str], ts: int) -> set[str]:
        """Returns those of the tickers whose price of the minute `ts` is queued."""
        names = list(tickers)
        if not names:
            return set()
        with _translate_errors():
            values = await self._client.hmget(PRICES, [_field(ticker, ts) for ticker in names])
        return {ticker for ticker, value in zip(names, values, strict=True) if value is not None}

    async def put_ticks(self, process: str, minutes: Sequence[MinuteTicks]) -> None:
        """Adds the ticks that a process saw of each minute. Raises OutboxFullError, and adds none, if they do not all fit."""
        max_minutes = self.max_prices // TICKS_RATIO
        with _translate_errors():
            if await self._client.hlen(TICKS) + len(minutes) > max_minutes:
                raise OutboxFullError(
                    f"the outbox holds at most {max_minutes} minutes of ticks. Restore PostgreSQL, or raise OUTBOX_MOST"
                )
            entries: dict[Any, str] = {f"{_field(one.ticker, one.ts)}|{process}": one.to_json() for one in minutes}
            await self._client.hset(TICKS, mapping=entries)

    async def write_stream_state(self, process: str, state: StreamState) -> None:
        """Writes the state of a stream process, which expires after STREAM_STATE_TTL_S."""
        with _translate_errors():
            await self._client.set(STREAM + process, json.dumps(asdict(state)), ex=STREAM_STATE_TTL_S)

    async def read_stream_states(self) -> dict[str, StreamState]:
        """Returns the states of the running stream processes, by `host:pid:random`."""
        found = {}
        with _translate_errors():
            async for key in self._client.scan_iter(f"{STREAM}*"):
                with suppress(ValueError, TypeError):
                    found[_text(key).removeprefix(STREAM)] = StreamState(**json.loads(await self._client.get(key) or "null"))
        return found

    async def record_failures(self, failures: Mapping[TickerMinute, Reason]) -> None:
        """Records why minutes have no price, for the job that opens gaps."""
        reasons = self._buffered_failures | dict(failures)
        if not reasons:
            return
        with _translate_errors():
            if await self._client.hlen(FAILURES) + len(reasons) > self.max_prices:
                raise OutboxFullError(f"the outbox has no room for more than {self.max_prices} reasons")
            await self._client.hset(FAILURES, mapping={_field(*minute): reason.value for minute, reason in reasons.items()})
        for minute in reasons:
            self._buffered_failures.pop(minute, None)

    def buffer_failures(self, failures: Mapping[TickerMinute, Reason]) -> None:
        """Buffers reasons in memory that neither Redis nor PostgreSQL accepted, until the next `record_failures`."""
        self._buffered_failures.update(failures)

    async def read_failures(self) -> dict[TickerMinute, Reason]:
        """Returns the recorded reasons."""
        with _translate_errors():
            reasons = await self._client.hgetall(FAILURES)
        found = {}
        for name, reason in reasons.items():
            minute = _minute(_text(name))
            if minute is not None and _text(reason) in set(Reason):
                found[minute] = Reason(_text(reason))
        return found

    async def delete_failures(self, minutes: Iterable[TickerMinute]) -> None:
        """Deletes reasons that were written to a gap or are no longer needed."""
        names = [_field(*minute) for minute in minutes]
        if names:
            with _translate_errors():
                await self._client.hdel(FAILURES, *names)

    async def write_report(self, report: Report) -> None:
        """Merges the report into the stored one, for `python -m ingest status`."""
        values: dict[Any, str] = {} if report.clock_skew_s is None else {"clock": f"{report.clock_skew_s:.3f}"}
        values |= {f"error|{ticker}": message for ticker, message in report.errors.items()}
        values |= {f"job|{name}": f"{since} {error}" for name, (since, error) in report.jobs.items()}
        if values:
            with _translate_errors():
                await self._client.hset(REPORT, mapping=values)

    async def read_report(self) -> Report:
        """Returns the last report of the workers."""
        with _translate_errors():
            values = {_text(name): _text(value) for name, value in (await self._client.hgetall(REPORT)).items()}
        errors = {name.removeprefix("error|"): message for name, message in values.items() if name.startswith("error|")}
        jobs = {}
        for name, value in values.items():
            since, _, error = value.partition(" ")
            if name.startswith("job|") and since.isdecimal():
                jobs[name.removeprefix("job|")] = int(since), error
        return Report(float(values["clock"]) if "clock" in values else None, errors, jobs)

    async def write_job_failures(self, failed: Mapping[str, str], done: Iterable[str], now: int) -> None:
        """Records the failed jobs with their errors and first failure times, and removes the jobs that succeeded."""
        previous = (await self.read_report()).jobs
        jobs = {name: (previous[name][0] if name in previous else now, error) for name, error in failed.items()}
        await self.write_report(Report(jobs=jobs))
        names = [f"job|{name}" for name in done if name in previous]
        if names:
            with _translate_errors():
                await self._client.hdel(REPORT, *names)

    async def worker_tickers(self) -> dict[str, list[str]]:
        """Returns the TICKERS of each worker process that has a heartbeat, by `host:pid`."""
        found = {}
        with _translate_errors():
            async for key in self._client.scan_iter(f"{HEARTBEATS}*"):
                value = await self._client.get(key)
                with suppress(ValueError):
                    names = json.loads(value or "null")
                    if isinstance(names, list):
                        found[_text(key).removeprefix(HEARTBEATS)] = [str(name) for name in names]
        return found


def hosts_of(workers: Iterable[str]) -> set[str]:
    """Returns the hosts of worker processes that are named `host:pid`."""
    return {worker.rpartition(":")[0] for worker in workers}


@asynccontextmanager
async def open_outbox(redis_url: str, max_prices: int) -> AsyncIterator[Outbox]:
    """Opens the outbox at the URL. Its first command connects to Redis."""
    # Without retries, each pooled connection would fail once after a restart of Redis.
    client = redis.asyncio.Redis.from_url(
        redis_url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
    )
    async with client:
        yield Outbox(client, max_prices)


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise OutboxError(f"Redis failed: {error or type(error).__name__}") from error


def _field(ticker: str, ts: int) -> str:
    return f"{ticker}|{ts}"


def _minute(name: str) -> TickerMinute | None:
    """Parses the ticker and minute with which a hash field begins. Returns None if they are invalid."""
    ticker, text = [*name.split("|"), ""][:2]
    if not re.fullmatch(NAME_PATTERN, ticker) or not re.fullmatch(r"[0-9]{1,10}", text):
        return None
    ts = int(text)
    return (ticker, ts) if ts % times.MINUTE == 0 and ts < times.END else None


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def _parse_price(name: str, value: str) -> PriceRow:
    try:
        row = PriceRow.model_validate_json(value)
    except ValidationError as error:
        raise ValueError(f"invalid price: {error.errors()[0]['msg']}") from error
    if _field(row.ticker, row.ts) != name:
        raise ValueError(f"its hash field is {name}")
    return row


def _parse_ticks(name: str, value: str) -> MinuteTicks:
    minute = _minute(name)
    if minute is None:
        raise ValueError(f"its hash field is {name}")
    try:
        return MinuteTicks.from_json(*minute, value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"invalid ticks: {error}") from error


def _invalid_entry(name: str, value: str, reason: str) -> InvalidEntry:
    return InvalidEntry(_without_nul(value), _without_nul(reason), *(_minute(name) or (None, None)))


def _without_nul(entry: str) -> str:
    """Returns the text; as a JSON string if it contains NUL, which PostgreSQL's text cannot store."""
    return entry if "\0" not in entry else json.dumps(entry)
