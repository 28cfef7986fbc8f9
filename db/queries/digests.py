"""Digests of days: the SHA-256 of the CSV file of a ticker's UTC day, in a hash chain.

The chain is a log. A digest that changes, because a minute was stored later, is appended again. So one published value of the
chain fixes all entries before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from db import times
from db.pool import Executor, Record, Transaction
from db.queries import history_export, retention
from db.queries.history_export import DAY_COLUMNS, ExportFormat, ExportShape
from db.queries.retention import valid_horizon_sql
from db.queries.snapshots import Snapshot
from db.queries.version import current

DAY_SHAPE: Final = ExportShape(ExportFormat.CSV, DAY_COLUMNS)
"""The format of a day file: CSV with all columns."""
MINUTES_PER_DAY: Final = times.DAY // times.MINUTE
GENESIS: Final = bytes(32)
"""The value of the chain before its first entry."""


@dataclass(frozen=True)
class DayDigest:
    """The digest of the rows of a day."""

    sha256: bytes
    minutes: int
    checks: bytes
    """A byte for each minute of the day: a part of the digest of its line; 0 without one."""

    @classmethod
    def of_file(cls, content: bytes, day: int) -> "DayDigest":
        """Returns the digest of a day file."""
        checks = bytearray(MINUTES_PER_DAY)
        lines = content.splitlines(keepends=True)[1:]
        ts_column = DAY_COLUMNS.index("ts")
        for line in lines:
            minute = (int(line.split(b",", ts_column + 1)[ts_column]) - day) // times.MINUTE
            checks[minute] = sha256(line).digest()[0] or 1
        return cls(sha256(content).digest(), len(lines), bytes(checks))

    def differing_minutes(self, other: "DayDigest", day: int) -> list[int]:
        """Returns the minutes that differ. One in 256 changes of a line has the same byte and is not found."""
        return [
            day + times.MINUTE * minute
            for minute, (ours, theirs) in enumerate(zip(self.checks, other.checks, strict=True))
            if ours != theirs
        ]


@dataclass(frozen=True)
class DigestEntry:
    """An entry of the chain."""

    number: int
    ticker: str
    day: int
    digest: DayDigest
    as_of: int
    """The data version that the digest was computed from."""
    chain: bytes

    @property
    def line(self) -> str:
        """The entry as text: number, ticker, day, SHA-256, minutes and data version."""
        day = times.iso(self.day)[:10]
        return f"{self.number},{self.ticker},{day},{self.digest.sha256.hex()},{self.digest.minutes},{self.as_of}"

    def next_chain(self, previous: bytes) -> bytes:
        """Returns the value of the chain with this entry: the SHA-256 of the previous value in hex, a comma, and the line."""
        return sha256(f"{previous.hex()},{self.line}\n".encode()).digest()

    @classmethod
    def from_record(cls, row: Record) -> "DigestEntry":
        """Builds an entry from a row of the table."""
        digest = DayDigest(row["sha256"], row["minutes"], row["checks"])
        return cls(row["number"], row["ticker"], row["day"], digest, row["as_of"], row["chain"])


@dataclass(frozen=True)
class Progress:
    """How far the digests are computed."""

    position: int
    """All changes up to this id are in the digests of the days that are over."""
    closed_until: int
    """All days before it have digests; UNIX seconds."""


LATEST_ENTRY: Final = "SELECT * FROM digest ORDER BY number DESC LIMIT 1"

ENTRY_OF_NUMBER: Final = "SELECT * FROM digest WHERE number = $1"

ENTRIES_AFTER: Final = "SELECT * FROM digest WHERE number > $1 ORDER BY number LIMIT $2"

ENTRY_OF_DAY: Final = """
SELECT * FROM digest WHERE ticker = $1 AND day = $2 ORDER BY number DESC LIMIT 1
"""

# Without the checks, which only `verify` uses: they are 1,440 bytes.
NEWEST_OF_DAYS: Final = """
SELECT DISTINCT ON (day) number, ticker, day, sha256, minutes, as_of, ''::bytea AS checks, chain
  FROM digest WHERE ticker = $1 AND day >= $2 AND day < $3 ORDER BY day, number DESC
"""

ENTRIES_OF_TICKER: Final = """
SELECT * FROM digest WHERE ticker = $1 AND (day, number) > ($2, $3) ORDER BY day, number LIMIT $4
"""

INSERT: Final = """
INSERT INTO digest (number, ticker, day, sha256, minutes, as_of, checks, chain) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

PROGRESS: Final = "SELECT position, closed_until FROM digest_progress"

SET_PROGRESS: Final = """
INSERT INTO digest_progress (id, position, closed_until) VALUES (1, $1, $2)
    ON CONFLICT (id) DO UPDATE SET position = excluded.position, closed_until = excluded.closed_until
"""

# Days before the horizon have no minutes any more; their last digest stays.
NEXT_DAY: Final = f"""
SELECT min(day.ts)
  FROM ticker
 CROSS JOIN LATERAL (
       SELECT ts FROM candle
        WHERE candle.ticker = name AND span = 86400 AND ts >= greatest($1::bigint, {valid_horizon_sql})
         ORDER BY ts LIMIT 1) AS day
"""  # noqa: S608  inserts a constant

TICKERS_WITHOUT_DIGEST: Final = f"""
SELECT name, candle.last_id IS NULL AS needs_refresh
  FROM ticker JOIN candle ON candle.ticker = name AND span = 86400 AND candle.ts = $1
 WHERE coalesce({valid_horizon_sql}, 0) <= $1 AND NOT EXISTS (SELECT FROM digest WHERE digest.ticker = name AND day = $1)
 ORDER BY name
"""  # noqa: S608  inserts a constant

DUE_PROGRESS: Final = """
SELECT coalesce((SELECT id FROM version_time WHERE at < day_ago ORDER BY id DESC LIMIT 1), 0) AS position,
       day_ago - day_ago % 86400 AS closed_until
  FROM (SELECT max(at) - 86400 AS day_ago FROM version_time) AS newest
"""

TICKERS: Final = "SELECT DISTINCT ticker FROM digest ORDER BY ticker"

COUNT_WITHOUT_DIGEST: Final = f"""
SELECT count(*)
  FROM ticker JOIN candle ON candle.ticker = name AND span = 86400
 WHERE name = $1 AND ts >= coalesce({valid_horizon_sql}, 0) AND ts < $2 AND last_id <= $3
   AND NOT EXISTS (SELECT FROM digest WHERE digest.ticker = name AND day = ts)
"""  # noqa: S608  inserts a constant

CHANGED_DAYS: Final = """
WITH page AS MATERIALIZED (
    (SELECT id, ticker, ts FROM price WHERE id > $1 ORDER BY id LIMIT $2)
     UNION ALL
    (SELECT id, ticker, ts FROM minute_range WHERE id > $1 ORDER BY id LIMIT $2)
     ORDER BY id LIMIT $2
)
SELECT changed.*, EXISTS (SELECT FROM digest WHERE digest.ticker = changed.ticker AND digest.day = changed.day) AS has_digest
  FROM (SELECT ticker, ts - ts % 86400 AS day, min(id) AS first_id, max(id) AS last_id, count(*) AS rows
          FROM page GROUP BY 1, 2) AS changed
 ORDER BY first_id
"""
CHANGED_ROWS: Final = 100_000
"""Rows that `changed_days` reads."""

REFRESH_CANDLES: Final = """
SELECT refresh_candles(array_agg(ticker), array_agg(ts)) FROM candle
 WHERE ticker = $1 AND span = 3600 AND ts >= $2 AND ts < $2 + 86400 HAVING count(*) > 0
"""


async def read_day_file(db: Executor, ticker: str, day: int, as_of: int) -> bytes:
    """Returns the file of a day as of a data version: CSV with all columns."""
    snapshot = Snapshot(as_of, times.END)
    lines = await history_export.lines(db, DAY_SHAPE, ticker, day, day + times.DAY, snapshot)
    return DAY_SHAPE.header + lines.encode()


async def append(db: Transaction, days: Sequence[tuple[str, int]]) -> list[DigestEntry]:
    """Appends an entry for each ticker and day whose digest is new or has changed. Requires a write transaction."""
    as_of, horizons = await current(db), await retention.horizons(db)
    newest = await latest_entry(db)
    number, chain = (0, GENESIS) if newest is None else (newest.number, newest.chain)
    appended = []
    for ticker, day in days:
        if day < horizons.get(ticker, times.FIRST):
            continue  # its minutes are being deleted
        digest = DayDigest.of_file(await read_day_file(db, ticker, day, as_of), day)
        known = await entry_of_day(db, ticker, day)
        if digest.minutes == 0 or (known is not None and known.digest == digest):
            continue
        entry = DigestEntry(number + 1, ticker, day, digest, as_of, b"")
        number, chain = entry.number, entry.next_chain(chain)
        await db.execute(INSERT, number, ticker, day, digest.sha256, digest.minutes, entry.as_of, digest.checks, chain)
        appended.append(entry)
    return appended


async def latest_entry(db: Executor) -> DigestEntry | None:
    """Returns the last entry of the chain, or None if it has none."""
    row = await db.fetchrow(LATEST_ENTRY)
    return None if row is None else DigestEntry.from_record(row)


async def entry_of_day(db: Executor, ticker: str, day: int) -> DigestEntry | None:
    """Returns the newest entry of a ticker's day, or None if it has none."""
    row = await db.fetchrow(ENTRY_OF_DAY, ticker, day)
    return None if row is None else DigestEntry.from_record(row)


async def entry_of_number(db: Executor, number: int) -> DigestEntry | None:
    """Returns an entry of the chain, or None if it does not exist."""
    row = await db.fetchrow(ENTRY_OF_NUMBER, number)
    return None if row is None else DigestEntry.from_record(row)


async def entries_after(db: Executor, number: int, limit: int) -> list[DigestEntry]:
    """Returns the next entries of the chain."""
    return [DigestEntry.from_record(row) for row in await db.fetch(ENTRIES_AFTER, number, limit)]


async def newest_of_days(db: Executor, ticker: str, low: int, high: int) -> list[DigestEntry]:
    """Returns the newest entry of each day that begins in [low, high) and has one, oldest day first, without its checks."""
    return [DigestEntry.from_record(row) for row in await db.fetch(NEWEST_OF_DAYS, ticker, low, high)]


async def entries_of_ticker(db: Executor, ticker: str, after: DigestEntry | None, limit: int) -> list[DigestEntry]:
    """Returns the next entries of a ticker, by day and number."""
    position = (-1, 0) if after is None else (after.day, after.number)
    return [DigestEntry.from_record(row) for row in await db.fetch(ENTRIES_OF_TICKER, ticker, *position, limit)]


async def list_tickers(db: Executor) -> list[str]:
    """Returns the tickers that have a digest."""
    return [row["ticker"] for row in await db.fetch(TICKERS)]


async def count_days_without_digest(db: Executor, ticker: str, progress: Progress) -> int:
    """Returns the number of days that should have a digest by the progress, and have none."""
    found: int = await db.fetchval(COUNT_WITHOUT_DIGEST, ticker, progress.closed_until, progress.position)
    return found


async def due_progress(db: Executor) -> Progress:
    """Returns how far the digests should be: up to the changes and days of a day before the newest commit."""
    return Progress(**(await db.fetch(DUE_PROGRESS))[0])


async def read_progress(db: Executor) -> Progress | None:
    """Returns the progress, or None if no digest was ever computed."""
    row = await db.fetchrow(PROGRESS)
    return None if row is None else Progress(**row)


async def set_progress(db: Transaction, progress: Progress) -> None:
    """Stores the progress. Requires a write transaction."""
    await db.execute(SET_PROGRESS, progress.position, progress.closed_until)


async def next_day(db: Executor, low: int) -> int | None:
    """Returns the first day from `low` on in which a ticker has minutes, or None if there is none."""
    found: int | None = await db.fetchval(NEXT_DAY, low)
    return found


async def tickers_without_digest(db: Executor, day: int) -> list[Record]:
    """Returns the tickers with minutes of the day, but without a digest of it.

    The columns are name, and needs_refresh (whether its candles lack their `last_id`).
    """
    return await db.fetch(TICKERS_WITHOUT_DIGEST, day)


@dataclass(frozen=True)
class ChangedDay:
    """A day with prices or ranges that were stored after a position."""

    ticker: str
    day: int
    first_id: int
    """The first of their ids."""
    has_digest: bool


@dataclass(frozen=True)
class ChangedDays:
    """The days with prices or ranges that were stored after a position."""

    days: Sequence[ChangedDay]
    """By their first id."""
    position: int
    """All changes up to this id are among the days."""
    is_last: bool


async def changed_days(db: Executor, position: int) -> ChangedDays:
    """Returns the days of the next CHANGED_ROWS prices and ranges with ids above the position."""
    newest = await current(db)
    rows = await db.fetch(CHANGED_DAYS, position, CHANGED_ROWS)
    is_last = sum(row["rows"] for row in rows) < CHANGED_ROWS
    # Rows that were committed after `newest` was read may be among them.
    position = max([newest, *(row["last_id"] for row in rows)]) if is_last else max(row["last_id"] for row in rows)
    days = [ChangedDay(row["ticker"], row["day"], row["first_id"], row["has_digest"]) for row in rows]
    return ChangedDays(days, position, is_last)


async def refresh_candles(db: Transaction, ticker: str, day: int) -> None:
    """Computes the candles of the day again, which sets their `last_id`. Requires a write transaction."""
    await db.execute(REFRESH_CANDLES, ticker, day)
