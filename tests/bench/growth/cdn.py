"""The share of requests that an HTTP cache in front of the API serves: a real nginx, then a model of it for whole days.

python -m tests.bench.growth.cdn                       # ten minutes; needs nginx
python -m tests.bench.growth.cdn --seconds 90 --rate 20

The time is not compressed, because the maximum ages are real: requests arrive at random for `--seconds`, and the prices of each
minute are stored in that minute. First the API serves all requests itself, for a third of the time, then nginx is in front of
it. A model of the cache (RFC 9111) with the headers that the API sends serves the same minutes, for comparison, and then whole
days at several rates. Each request is new to its client: no browser cache is counted. The mix is `MIX`; the tickers follow
Zipf's law.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import aiohttp
import asyncpg
import psutil

from db import migrate
from db.pool import open_database
from db.runtime import embedded
from db.times import DAY
from tests.bench.growth.__main__ import CANDLES
from tests.graph.api_server import ApiProcess, run_api_process
from tests.sample_data import row, store
from tests.wait import wait_until

TICKERS = [f"t{number:02}_usd" for number in range(50)]
WEIGHTS = [1 / (rank + 1) for rank in range(len(TICKERS))]
HISTORY_DAYS = 62
DAY_RATES = (0.5, 5, 50)
"""Requests per second of the modeled days."""
COMMIT_SECOND = 2
"""Second of the minute in which its prices are stored."""
FRESH, REVALIDATED, MISS, UNCACHEABLE = "fresh", "304", "miss", "not cacheable"
OUTCOMES = {"HIT": FRESH, "REVALIDATED": REVALIDATED, "MISS": MISS, "EXPIRED": MISS}
"""nginx's $upstream_cache_status. Requests that waited for an identical one are HIT."""

FILL = """
INSERT INTO price (ticker, ts, price, source)
SELECT name, ts, trim_scale(round((60000 + 1000 * random())::numeric, 2)), 'LIVE'
  FROM generate_series($1::bigint, $2::bigint - 60, 60) AS ts CROSS JOIN ticker
"""

NGINX = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi; proxy_temp_path {folder}/proxy;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=api:50m max_size=2g inactive=25h use_temp_path=off;
  upstream api {{ server {api}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_cache api; proxy_cache_revalidate on; proxy_cache_lock on;
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
}}
"""


def _graphql(query: str) -> str:
    return f"/graphql?query={quote(query)}"


@dataclass(frozen=True)
class Kind:
    """A kind of request: its share in percent, and its path for a ticker at a time in UNIX seconds."""

    name: str
    share: int
    path: Callable[[str, int], str]


def _window(field_name: str, arguments: str, fields: str, low: int, high: int) -> str:
    return _graphql(f"{{ {field_name}({arguments}, from: {low}, to: {high}) {{ {fields} }} }}")


def _group(ticker: str) -> str:
    start = TICKERS.index(ticker) // 10 * 10
    return ", ".join(f'"{name}"' for name in TICKERS[start : start + 10])


def _month_before(now: int) -> tuple[int, int]:
    end = now // DAY * DAY
    return end - 30 * DAY, end


MIX = [
    Kind("latest, polled by a display", 50, lambda t, _: _graphql(f'{{ latest(ticker: "{t}") {{ ts price }} }}')),
    Kind(
        "latest of ten tickers", 8, lambda t, _: _graphql(f"{{ latestPrices(tickers: [{_group(t)}]) {{ ticker ts price }} }}")
    ),
    Kind("last 100", 15, lambda t, _: _graphql(f'{{ prices(ticker: "{t}", first: 100) {{ nodes {{ ts price }} }} }}')),
    Kind(
        "range of yesterday",
        6,
        lambda t, now: _window("range", f'ticker: "{t}"', "ts price", now // DAY * DAY - DAY, now // DAY * DAY),
    ),
    Kind(
        "range of the last 24 hours",
        4,
        lambda t, now: _window("range", f'ticker: "{t}"', "ts price", now // 60 * 60 - DAY, now // 60 * 60),
    ),
    Kind(
        "candles 1h of 30 days",
        6,
        lambda t, now: _window(
            "candles",
            f'ticker: "{t}", interval: ONE_HOUR',
            "ts open high low close",
            now // 3600 * 3600 - 30 * DAY,
            now // 3600 * 3600,
        ),
    ),
    Kind(
        "candles 1d of a year",
        4,
        lambda t, now: _window(
            "candles",
            f'ticker: "{t}", interval: ONE_DAY',
            "ts open high low close",
            now // DAY * DAY - 365 * DAY,
            now // DAY * DAY,
        ),
    ),
    Kind(
        "summary of 30 days",
        2,
        lambda t, now: _window("summary", f'ticker: "{t}"', "count high { price }", *_month_before(now)),
    ),
    Kind("REST, latest", 3, lambda t, _: f"/prices/latest?ticker={t}"),
    Kind(
        "REST, yesterday",
        1,
        lambda t, now: f"/prices/range?ticker={t}&from_ts={now // DAY * DAY - DAY}&to_ts={now // DAY * DAY - 1}",
    ),
    Kind("export of a month", 1, lambda t, now: "/export?ticker={}&from={}&to={}".format(t, *_month_before(now))),
]


@dataclass(frozen=True)
class Policy:
    """How long a response of a kind is fresh, and whether it can be validated: from the headers of the API."""

    max_age_s: int | None
    """None: it is not stored."""
    has_etag: bool
    changes_with_commits: bool
    """Whether a commit changes its ETag."""


@dataclass
class Outcomes:
    """Counts of outcomes by kind, and what the replay measured."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {kind.name: Counter() for kind in MIX})
    statuses: Counter[int] = field(default_factory=Counter)
    max_staleness_s: float = 0.0
    cpu: str = ""

    def total(self) -> Counter[str]:
        """Returns the counts over all kinds."""
        return sum(self.counts.values(), Counter())


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=420, help="duration with the cache (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="requests per second (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        Path(folder).chmod(0o755)
        migrate.upgrade(server.url)
        asyncio.run(_run(server, Path(folder), options.seconds, options.rate))


async def _run(postgres: embedded.Server, folder: Path, seconds: int, rate: float) -> None:
    url, server = postgres.url, psutil.Process(postgres.process.pid)
    await _fill(url)
    async with run_api_process(url, folder) as api, _run_writer(url) as commits, _run_nginx(folder, api) as cache_url:
        policies = await _read_policies(api)
        direct = await _replay(api.url, api, server, commits, seconds // 3, rate)
        started_at = int(time.time())
        cached = await _replay(cache_url, api, server, commits, seconds, rate)
    print(f"\nwithout the cache: {direct.cpu}\nwith the cache: {cached.cpu}")
    print(f"statuses {dict(cached.statuses)}; the oldest latest price was {cached.max_staleness_s:.1f} s behind the commit\n")
    _print_table(f"nginx, {seconds} s at {rate:g}/s", cached)
    model = simulate(policies, started_at, seconds, rate)
    _print_total("model of the same minutes", model)
    for day_rate in DAY_RATES:
        day = simulate(policies, started_at // DAY * DAY, DAY, day_rate)
        _print_table(f"model of a day at {day_rate:g}/s", day)


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    now = int(time.time()) // 60 * 60
    start = now // DAY * DAY - HISTORY_DAYS * DAY
    await connection.executemany("INSERT INTO ticker (name) VALUES ($1)", [(name,) for name in TICKERS])
    await connection.executemany("INSERT INTO tracking (ticker, since) VALUES ($1, $2)", [(name, start) for name in TICKERS])
    await connection.execute("ALTER TABLE price DISABLE TRIGGER USER")
    for low in range(start, now + 60, DAY):
        await connection.execute(FILL, low, min(low + DAY, now + 60))
        await connection.execute(CANDLES, low, min(low + DAY, now + 60))
    await connection.execute("ALTER TABLE price ENABLE TRIGGER USER")
    await connection.execute("VACUUM ANALYZE")
    await connection.execute(FILL, now + 60, int(time.time()) // 60 * 60 + 60)  # the minutes that passed meanwhile
    await connection.close()


@contextlib.asynccontextmanager
async def _run_writer(url: str) -> AsyncIterator[dict[int, float]]:
    """Stores the prices of each minute. Yields the times of the commits by minute."""
    commits: dict[int, float] = {}

    async def write() -> None:
        async with open_database(url, application_name="bench") as db:
            while True:
                await asyncio.sleep(60 - (time.time() - COMMIT_SECOND) % 60)
                ts = int(time.time()) // 60 * 60
                await store(db, [row(name, ts, str(Decimal(60_000 + ts // 60 % 1_000))) for name in TICKERS])
                commits[ts] = time.time()

    task = asyncio.create_task(write())
    yield commits
    task.cancel()


@contextlib.asynccontextmanager
async def _run_nginx(folder: Path, api: ApiProcess) -> AsyncIterator[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise SystemExit("nginx is not installed. Install Debian's package nginx")
    port = embedded.free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    address = api.url.removeprefix("http://")
    (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder, api=address, port=port))
    process = await asyncio.create_subprocess_exec(program, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log")
    url = f"http://127.0.0.1:{port}"

    async def is_ready() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with api.session.get(f"{url}/health"):
                return True
        return False

    await wait_until(is_ready)
    yield url
    process.terminate()
    await process.wait()


async def _read_policies(api: ApiProcess) -> dict[str, Policy]:
    """Reads the caching headers of each kind from the API."""
    policies = {}
    for kind in MIX:
        async with api.session.get(api.url + kind.path(TICKERS[0], int(time.time()))) as response:
            await response.read()
            assert response.status == 200, (kind.name, await response.text())
            control = response.headers.get("Cache-Control", "")
            max_age = int(control.partition("max-age=")[2]) if "max-age=" in control else None
            has_etag = "ETag" in response.headers
            policies[kind.name] = Policy(max_age, has_etag, changes_with_commits=max_age is not None and max_age < DAY)
            print(
                f"{kind.name}: {'Cache-Control: ' + control if control else 'no Cache-Control'}{', ETag' if has_etag else ''}"
            )
    return policies


def arrivals(start: float, seconds: float, rate: float) -> Iterator[tuple[float, Kind, str]]:
    """Yields the requests of a period: time, kind and ticker. The times are those of a Poisson process."""
    shares = [kind.share for kind in MIX]
    at = start
    while (at := at + random.expovariate(rate)) < start + seconds:
        yield at, random.choices(MIX, shares)[0], random.choices(TICKERS, WEIGHTS)[0]  # noqa: S311  no secret


def _cpu_s(api: psutil.Process, server: psutil.Process) -> tuple[float, float]:
    """Returns the CPU seconds of the API process, and of PostgreSQL with its sessions."""
    sessions = [server, *server.children(recursive=True)]
    return sum(api.cpu_times()[:2]), sum(sum(process.cpu_times()[:2]) for process in sessions)


async def _replay(
    url: str, api: ApiProcess, server: psutil.Process, commits: dict[int, float], seconds: int, rate: float
) -> Outcomes:
    """Sends the requests at their times, whether or not earlier ones have finished."""
    outcomes = Outcomes()
    before, started_at = _cpu_s(api.process, server), time.time()
    async with asyncio.TaskGroup() as group:
        for number, (at, kind, ticker) in enumerate(arrivals(started_at, seconds, rate)):
            await asyncio.sleep(at - time.time())
            group.create_task(_send(url, api.session, kind, ticker, commits, outcomes))
            if number % 1_000 == 0:
                print(f"{url}: {at - started_at:.0f} of {seconds} s, {number:,} requests", flush=True)
    used = [
        100 * (after - earlier) / (time.time() - started_at)
        for earlier, after in zip(before, _cpu_s(api.process, server), strict=True)
    ]
    outcomes.cpu = f"API process {used[0]:.1f} % of a core, PostgreSQL {used[1]:.1f} %"
    return outcomes


async def _send(
    url: str, session: aiohttp.ClientSession, kind: Kind, ticker: str, commits: dict[int, float], outcomes: Outcomes
) -> None:
    sent_at = time.time()
    async with session.get(url + kind.path(ticker, int(sent_at))) as response:
        body = await response.read()
        cache_status = response.headers.get("X-Cache", "")
        outcome = OUTCOMES.get(cache_status, UNCACHEABLE)
        if outcome == MISS and "max-age" not in response.headers.get("Cache-Control", ""):
            outcome = UNCACHEABLE
        outcomes.counts[kind.name][outcome] += 1
        outcomes.statuses[response.status] += 1
    if kind is MIX[0]:
        ts = int(body.partition(b'"ts":')[2].partition(b",")[0])
        missed = [at for minute, at in commits.items() if minute > ts]
        if missed:
            outcomes.max_staleness_s = max(outcomes.max_staleness_s, sent_at - min(missed))


def simulate(policies: dict[str, Policy], start: int, seconds: int, rate: float) -> Outcomes:
    """Serves the requests of a period from a model of a cache that is empty at the start."""
    outcomes = Outcomes()
    validated_at: dict[str, float] = {}
    for at, kind, ticker in arrivals(start, seconds, rate):
        policy = policies[kind.name]
        if policy.max_age_s is None:
            outcome = UNCACHEABLE
        else:
            path = kind.path(ticker, int(at))
            stored_at = validated_at.get(path)
            outcome = MISS if stored_at is None else _outcome(policy, stored_at, at)
            if outcome != FRESH:
                validated_at[path] = at
        outcomes.counts[kind.name][outcome] += 1
    return outcomes


def _outcome(policy: Policy, stored_at: float, at: float) -> str:
    if policy.max_age_s is not None and at - stored_at < policy.max_age_s:
        return FRESH
    commit = (at - COMMIT_SECOND) // 60 * 60 + COMMIT_SECOND
    is_same = policy.has_etag and not (policy.changes_with_commits and stored_at < commit)
    return REVALIDATED if is_same else MISS


def _print_table(title: str, outcomes: Outcomes) -> None:
    print(f"| {title} | requests | fresh | 304 | miss | not cacheable |\n|---|---|---|---|---|---|")
    for name, counts in [*outcomes.counts.items(), ("all", outcomes.total())]:
        total = max(1, counts.total())
        shares = " | ".join(f"{100 * counts[outcome] / total:.1f} %" for outcome in (FRESH, REVALIDATED, MISS, UNCACHEABLE))
        print(f"| {name} | {counts.total():,} | {shares} |")
    print()


def _print_total(title: str, outcomes: Outcomes) -> None:
    total = outcomes.total()
    print(f"{title}: {', '.join(f'{name} {100 * count / total.total():.1f} %' for name, count in total.most_common())}\n")


if __name__ == "__main__":
    main()
