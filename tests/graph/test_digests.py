"""Digests over GraphQL, and the digests of exports (RFC 9530)."""

from base64 import b64decode, b64encode
from hashlib import sha256

import orjson

from db import times
from db.pool import Database
from db.queries.history_export import DAY_COLUMNS
from ingest.jobs.digests import update_digests
from tests.graph.conftest import Api
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

DAY = START_TS // times.DAY * times.DAY
QUERY = (
    f'{{ digests(ticker: "btc_usd", from: {DAY}, to: {DAY + 2 * times.DAY}) '
    "{ day sha256 minutes complete asOf number chain } }"
)  # fmt: skip


async def _fill(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n, str(n + 1)) for n in range(5)])
    await store_ranges(db, [range_row("btc_usd", START_TS)])


async def test_the_file_of_a_digest_can_be_downloaded_later(api: Api, db: Database) -> None:
    await _fill(db)
    assert (await api.data(QUERY))["digests"] == []
    await update_digests(DAY + 2 * times.DAY, db)
    (found,) = (await api.data(QUERY))["digests"]
    assert (found["day"], found["minutes"], found["complete"], found["number"]) == (DAY, 5, False, 1)
    await store(db, [row("btc_usd", DAY + 60 * n) for n in range(100)])
    params = {
        "ticker": "btc_usd",
        "from": str(DAY),
        "to": str(DAY + times.DAY),
        "columns": ",".join(DAY_COLUMNS),
        "as_of": found["asOf"],
    }
    async with api.session.get(f"{api.url}/export", params=params) as response:
        assert sha256(await response.read()).hexdigest() == found["sha256"]
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["X-Data-Version"] == found["asOf"]
    await update_digests(DAY + 2 * times.DAY, db)
    (changed,) = (await api.data(QUERY))["digests"]
    assert (changed["minutes"], changed["number"]) == (105, 2)
    assert changed["sha256"] != found["sha256"]
    line = f"{found['chain']},2,btc_usd,2024-01-15,{changed['sha256']},105,{changed['asOf']}\n"
    assert sha256(line.encode()).hexdigest() == changed["chain"]


async def test_an_export_has_its_digest_in_a_header_and_in_a_last_line_on_request(api: Api, db: Database) -> None:
    await _fill(db)
    url = f"{api.url}/export?ticker=btc_usd"
    async with api.session.get(url) as response:
        plain = await response.read()
        assert "Repr-Digest" not in response.headers
    for headers, is_sent in (
        ({"Want-Repr-Digest": "sha-256=10, sha-512=1", "Accept-Encoding": "gzip"}, True),
        ({"Want-Repr-Digest": "sha-512=1"}, False),
        ({"Want-Repr-Digest": "sha-256=0"}, False),
        ({"Want-Repr-Digest": "SHA-256"}, False),
    ):
        async with api.session.get(url, headers=headers) as response:
            assert await response.read() == plain
            digest = response.headers.get("Repr-Digest", "")
        assert (digest == f"sha-256=:{_base64(plain)}:") == is_sent, headers
    async with api.session.head(url, headers={"Want-Repr-Digest": "sha-256=1"}) as response:
        assert b64decode(response.headers["Repr-Digest"].split(":")[1]) == sha256(plain).digest()
        assert int(response.headers["Content-Length"]) == len(plain)
    async with api.session.get(url, headers={"Want-Repr-Digest": "sha-256=1", "Range": "bytes=0-9"}) as response:
        assert (response.status, await response.read()) == (206, plain[:10])
        assert b64decode(response.headers["Repr-Digest"].split(":")[1]) == sha256(plain).digest(), "of the whole file"
    async with api.session.get(f"{url}&digest=true", headers={"Want-Repr-Digest": "sha-256=1"}) as response:
        whole = await response.read()
        lines, last = whole[: whole.rindex(b"#")], whole[whole.rindex(b"#") :].decode()
        assert lines == plain
        assert last == f"# sha256={sha256(plain).hexdigest()} data_version={response.headers['X-Data-Version']}\n"
        assert b64decode(response.headers["Repr-Digest"].split(":")[1]) == sha256(whole).digest()
    async with api.session.get(f"{url}&digest=true&format=jsonl") as response:
        *jsonl, last_line = (await response.read()).splitlines(keepends=True)
        assert orjson.loads(last_line)["sha256"] == sha256(b"".join(jsonl)).hexdigest()


def _base64(content: bytes) -> str:
    return b64encode(sha256(content).digest()).decode()
