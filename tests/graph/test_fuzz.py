"""Sends random requests: none causes an internal error, leaks a concurrency slot, or leaks memory.

`make fuzz` runs this test for 15 minutes.
"""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema
from hypothesis_graphql.nodes import String

from db.pool import Database
from tests.conftest import ROOT
from tests.graph.api_server import ApiProcess, run_api_process, send_probe
from tests.graph.probes import INIT, JSON_TYPE, PROBES, HttpProbe, Probe, RawProbe, SocketProbe
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
EXAMPLES_PER_ROUND = 150
ACTIVE_STATEMENTS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tickgraph api' AND state <> 'idle'"

SCHEMA = (ROOT / "graph" / "schema.graphql").read_text()
SCALARS = {
    "UnixTime": st.one_of(st.integers(-(2**40), 2**40).map(str), st.text(max_size=30)).map(lambda text: String(value=text))
}
TOKENS = [
    *"{}()[]!$@:=|&",
    "...",
    "query",
    "on",
    "a",
    "latest",
    "ticker",
    "range",
    "from",
    "to",
    '"btc_usd"',
    '"""',
    "1",
    "-1.5e9",
]
TOKENS += ["true", "null", "__typename", "fragment", "@skip", "if", "#", "\n"]


def _known_documents() -> Iterator[str]:
    for probe in PROBES.values():
        if isinstance(probe, HttpProbe) and probe.body and probe.body.startswith(b'{"query": "{') and len(probe.body) < 5_000:
            with contextlib.suppress(ValueError):
                yield str(json.loads(probe.body)["query"])


DOCUMENTS = st.one_of(
    from_schema(SCHEMA, custom_scalars={**SCALARS, "Decimal": SCALARS["UnixTime"], "DateTime": SCALARS["UnixTime"]}),
    st.sampled_from(list(_known_documents())),
    st.text(max_size=200),
    st.lists(st.sampled_from(TOKENS), max_size=80).map(" ".join),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.just("btc_usd"),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)
HEADER_NAMES = [
    "Accept",
    "Accept-Encoding",
    "Content-Type",
    "Content-Encoding",
    "If-None-Match",
    "Origin",
    "X-Request-ID",
    "Authorization",
]
HEADER_NAMES += ["X-API-Key", "Range", "X-Forwarded-For", "Cookie", "X-Anything"]
HEADER_VALUES = ["application/json", "application/graphql-response+json;q=0.3", "*/*", "gzip", "deflate", '"a", W/"b"', "null"]
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.sampled_from(HEADER_VALUES),
    max_size=4,
)

PATHS = ["/graphql", "/prices", "/prices/last", "/prices/range", "/prices/filter", "/prices/by-date", "/v1/prices", "/health"]
PATHS += ["/docs", "/openapi.json", "/static/", "/"]
PARAMETERS = [
    "query",
    "variables",
    "extensions",
    "operationName",
    "ticker",
    "limit",
    "offset",
    "from_ts",
    "to_ts",
    "date",
    "start_date",
]


@st.composite
def _damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Draws a text, sometimes with a part of it removed, doubled or replaced."""
    text: str = draw(texts)
    if draw(st.booleans()) or not text:
        return text
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 20)))
    return (
        text[:start]
        + draw(st.sampled_from(["", text[start:end] * 2, "\0", "\ufeff", "{" * 50, '"', "\u202e", "9" * 30]))
        + text[end:]
    )


@st.composite
def _body(draw: st.DrawFn) -> bytes:
    whole = st.fixed_dictionaries({"query": _damaged(DOCUMENTS)}, optional={
        "variables": st.dictionaries(st.sampled_from(["t", "a", "from", "n"]), VALUES, max_size=3) | VALUES,
        "operationName": st.text(max_size=10) | VALUES,
        "extensions": st.just({"cost": True}) | VALUES | st.fixed_dictionaries({"persistedQuery": VALUES}),
    })  # fmt: skip
    kind = draw(st.sampled_from(["whole", "whole", "whole", "value", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=300))
    text = json.dumps(draw(whole if kind == "whole" else VALUES), ensure_ascii=draw(st.booleans()))
    payload = text if draw(st.integers(0, 5)) else draw(_damaged(st.just(text)))
    return payload.encode("utf-8", "surrogatepass")


@st.composite
def _post(draw: st.DrawFn) -> HttpProbe:
    return HttpProbe("", draw(_body()), headers=JSON_TYPE | (draw(HEADERS) if draw(st.booleans()) else {}))


@st.composite
def _get(draw: st.DrawFn) -> HttpProbe:
    path = draw(st.sampled_from(PATHS) | st.text(max_size=20).map(lambda text: f"/{_percent_encode(text)}"))
    values = (
        _damaged(DOCUMENTS)
        | VALUES.map(json.dumps)
        | st.integers(-10, 2**40).map(str)
        | st.sampled_from(["btc_usd", "2024-01-15"])
    )
    parameters = draw(st.lists(st.tuples(st.sampled_from(PARAMETERS), values), max_size=4))
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE"]))
    return HttpProbe(
        "", None, method, f"{path}?" + "&".join(f"{name}={_percent_encode(value)}" for name, value in parameters), draw(HEADERS)
    )


def _percent_encode(text: str) -> str:
    return quote(text, errors="surrogatepass")


MESSAGES = st.one_of(
    st.builds(lambda body: f'{{"type": "subscribe", "id": "1", "payload": {body.decode(errors="replace")}}}', _body()),
    st.fixed_dictionaries({"type": st.sampled_from(["ping", "pong", "complete", "subscribe", "connection_init", "next", "x"])},
                          optional={"id": VALUES, "payload": VALUES}).map(json.dumps),
    VALUES.map(json.dumps),
    st.text(max_size=50).map(lambda text: text.encode(errors="replace").decode()),
    st.binary(max_size=50),
)  # fmt: skip
PING = '{"type": "ping"}'
SOCKETS = st.builds(
    lambda messages, sends_init: SocketProbe("", (*messages, INIT, PING), sends_init),
    st.lists(MESSAGES, max_size=5),
    st.booleans(),
)
REQUEST_HEADS = [
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
    b"POST /graphql HTTP/1.1\r\nConnection: close\r\n",
    b"",
]
RAW_REQUESTS = st.builds(
    lambda head, rest: RawProbe("", (head, rest, b"\r\n\r\n"), sends_eof=True),
    st.sampled_from(REQUEST_HEADS),
    st.binary(max_size=200),
)
REQUEST_STRATEGIES: list[st.SearchStrategy[Probe]] = [*[_post()] * 6, *[_get()] * 6, *[SOCKETS] * 4, RAW_REQUESTS]
REQUESTS: st.SearchStrategy[Probe] = st.one_of(REQUEST_STRATEGIES)


async def test_random_requests_cause_no_internal_error(dsn: str, db: Database, redis_url: str, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(100)])
    loop = asyncio.get_running_loop()
    outcomes: Counter[str] = Counter()
    # With only two slots per client, a slot that is not released makes the next requests fail.
    process = run_api_process(dsn, tmp_path, REDIS_URL=redis_url, REQUEST_TIMEOUT_S="2", MAX_IN_FLIGHT_PER_CLIENT="2")
    async with process as server:

        def check_probe(probe: Probe) -> None:
            actual = asyncio.run_coroutine_threadsafe(_send_with_timeout(server, probe), loop).result(30)
            assert "showing" not in actual, f"{probe}: {actual}"
            assert actual not in ("500", "503", "INTERNAL_SERVER_ERROR", "UNAVAILABLE"), f"{probe}: {actual}"
            assert server.log.read_text() == "", f"{probe}"
            outcomes[actual.partition(":")[0][:40]] += 1

        def run_rounds() -> list[int]:
            started_at, memory, number = time.monotonic(), [], SEED
            while number == SEED or time.monotonic() - started_at < 60 * MINUTES:
                _run_round(check_probe, number)
                number += 1
                memory.append(server.process.memory_info().rss >> 20)
                if MINUTES and len(memory) % 10 == 0:
                    print(
                        f"{time.monotonic() - started_at:5.0f} s {outcomes.total():>8,} requests, "
                        f"{memory[-1]} MB, {outcomes.most_common(4)}"
                    )
            return memory

        memory = await asyncio.to_thread(run_rounds)
        assert max(memory) < 200

        async def is_idle() -> bool:
            return not await db.fetchval(ACTIVE_STATEMENTS) and len(server.process.net_connections()) <= 1 + 10 + 1

        await wait_until(is_idle)
        print(f"{outcomes.total():,} requests, {memory[0]} to {memory[-1]} MB, {len(outcomes)} outcomes: {dict(outcomes)}")
    assert outcomes["data"] > 0
    assert len(outcomes) > 10


async def _send_with_timeout(server: ApiProcess, probe: Probe) -> str:
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        return await send_probe(server, probe)


def _run_round(check_probe: Callable[[Probe], None], number: int) -> None:
    @seed(number)
    @settings(
        max_examples=EXAMPLES_PER_ROUND,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(REQUESTS)
    def run(probe: Probe) -> None:
        check_probe(probe)

    run()
