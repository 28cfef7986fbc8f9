"""The documents are correct: their examples return data on a fresh installation, and their tables match the code."""

import asyncio
import http.server
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from starlette.routing import Route

from db import settings as db_settings
from db.pool import Database
from db.queries import bulk_import, delivery_prices, write_lock
from db.queries.ticks import notify_ticks
from graph import errors
from graph import settings as graph_settings
from graph.http.application import application
from graph.settings import Settings
from ingest import settings as ingest_settings
from tests.conftest import ROOT
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import open_event_stream
from tests.sample_data import row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

FIELDS = db_settings.Settings.model_fields | ingest_settings.Settings.model_fields | graph_settings.Settings.model_fields
README = (ROOT / "README.md").read_text()
DOCS = {page.stem: page.read_text() for page in (ROOT / "docs").glob("*.md")}
PAGES = ("getting-started", "graphql", "notebooks", "rest", "subscriptions")
"""The pages whose examples run as written. A block `shell` installs or starts something and is not run."""
LONG_RUNNING_PROGRAMS = {"copy_prices.py", "follow_changes.mts"}
CLIENTS = ROOT / "tests" / "clients"
CLIENT_PYTHON = CLIENTS / "python" / ".venv" / "bin" / "python"


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _program(name: str) -> str:
    """Returns the program of the pages whose first line names this file."""
    (found,) = [
        block
        for page in PAGES
        for block in _blocks(DOCS[page], "python") + _blocks(DOCS[page], "typescript")
        if re.match(rf"(#|//) {re.escape(name)}\b", block)
    ]
    return found


DELIVERY = int(time.time()) // 86_400 * 86_400 - 86_400 + delivery_prices.DELIVERY_SECOND
"""The delivery of yesterday."""


@pytest.fixture
async def new_installation(dsn: str, db: Database) -> AsyncIterator[Api]:
    """The API of an installation that is five minutes old."""
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", "eth_usd", since=now - 240)
    for ticker in ("btc_usd", "eth_usd"):
        await store(db, [row(ticker, now - 60 * number, f"6824{number}.5", at_s=1.25) for number in range(5)])
    async with write_lock.write_transaction(db) as connection:
        await delivery_prices.store(connection, "btc_usd", {DELIVERY: Decimal("68200.5")}, {})
    async with run_api(Settings(database_url=dsn)) as api:
        yield api


async def test_the_example_queries_return_data(new_installation: Api) -> None:
    now = int(time.time())
    queries = [block for page in PAGES for block in _blocks(DOCS[page], "graphql")]
    queries = [query for query in queries if not query.startswith(("subscription", "mutation"))]
    assert len(queries) >= 8
    newest = (await new_installation.data("{ dataVersion }"))["dataVersion"]
    for query in queries:
        variables = {
            name: value
            for name, value in (("from", now - 3600), ("at", now), ("date", DELIVERY), ("version", newest))
            if f"${name}" in query
        }
        data = await new_installation.data(query, **variables)
        assert all(data.values()), query


async def test_the_example_mutation_is_accepted(dsn: str, db: Database, redis_url: str) -> None:
    await track(db, "btc_usd")
    (mutation,) = [block for block in _blocks(DOCS["graphql"], "graphql") if block.startswith("mutation")]
    async with run_api(Settings(database_url=dsn, redis_url=redis_url)) as api:
        assert (await api.data(mutation))["fetchPrices"]["queued"] is True


async def test_the_example_subscriptions_deliver_stored_prices(dsn: str, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", "eth_usd", since=now)
    subscriptions = [block for block in _blocks(DOCS["subscriptions"], "graphql") if block.startswith("subscription")]
    assert len(subscriptions) == 4
    async with run_api(Settings(database_url=dsn)) as api:
        for number, query in enumerate(subscriptions):
            async with open_event_stream(api, query) as stream:
                await stream.response.content.readline()
                await store(db, [row("btc_usd", now - 60 * number)])
                await notify_ticks(db, {"btc_usd": (1_000 * now, Decimal(1))})
                assert all(json.loads((await stream.event())["data"])["data"].values()), query


async def test_the_readme_query_returns_the_documented_members(new_installation: Api) -> None:
    (block,) = [block for block in _blocks(README, "sh") if "/graphql" in block]
    arguments = shlex.split(block.replace("\\\n", " "))
    data = await new_installation.data(json.loads(arguments[arguments.index("-d") + 1])["query"])
    (documented,) = [json.loads(block) for block in _blocks(README, "json")]
    assert data["latest"].keys() == documented["data"]["latest"].keys()


async def test_the_rest_example_returns_the_documented_members(new_installation: Api, tmp_path: Path) -> None:
    (block,) = [block for block in _blocks(DOCS["rest"], "sh") if "/prices/range" in block]
    status, out, err = await _run(["bash", "-c", block], tmp_path, new_installation)
    assert status == 0, err
    (found,), (documented,) = json.loads(out), json.loads(_blocks(DOCS["rest"], "json")[0])
    assert found.keys() == documented.keys()
    assert (found["ticker"], found["source"]) == (documented["ticker"], documented["source"])


async def _run(command: list[str], folder: Path, api: Api | None, **env: str) -> tuple[int | None, str, str]:
    """Runs a command against the API. Returns its exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | ({"TICKGRAPH": api.url} if api else {}) | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 10 * WAIT_TIMEOUT_S)
    return process.returncode, out.decode(), err.decode()


async def _command(language: str, block: str, folder: Path) -> list[str]:
    """Writes an example into the folder, and returns the command that runs it."""
    if language == "sh":
        return ["bash", "-c", block]
    name = re.match(r"(?:#|//) ([\w.]+)", block)
    assert name is not None, "the first line of a program names its file"
    file = folder / name[1]
    file.write_text(block)
    if language == "python":
        if not re.search(r"^import (pandas|polars|duckdb)", block, re.MULTILINE):
            return [sys.executable, str(file)]
        if not CLIENT_PYTHON.exists():
            pytest.skip("the clients of Python are not installed")
        return [str(CLIENT_PYTHON), str(file)]
    if not (CLIENTS / "node_modules").exists():
        pytest.skip("the clients of Node.js are not installed")
    (folder / "node_modules").symlink_to(CLIENTS / "node_modules")
    compiler = str(CLIENTS / "node_modules" / ".bin" / "tsc")
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.asynciterable"]
    status, out, _ = await _run([compiler, *options, "--skipLibCheck", "--types", "node", str(file)], folder, None)
    assert status == 0, out
    return ["node", str(file.with_suffix(".mjs"))]


def _marks(language: str, block: str) -> tuple[pytest.MarkDecorator, ...]:
    """Marks an example that compiles TypeScript or loads a library of data frames as slow."""
    is_slow = language == "typescript" or re.search(r"^import (pandas|polars|duckdb)", block, re.MULTILINE)
    return (pytest.mark.slow,) if is_slow else ()


EXAMPLES = [
    pytest.param(language, block, marks=_marks(language, block), id=f"{page}-{language}-{number}")
    for page in PAGES
    for language in ("sh", "python", "typescript")
    for number, block in enumerate(_blocks(DOCS[page], language), 1)
    if not any(name in block.partition("\n")[0] for name in LONG_RUNNING_PROGRAMS)
]


@pytest.mark.parametrize(("language", "block"), EXAMPLES)
async def test_the_examples_run_as_written(language: str, block: str, new_installation: Api, tmp_path: Path) -> None:
    status, out, err = await _run(await _command(language, block, tmp_path), tmp_path, new_installation)
    assert status == 0, err
    assert "5" in out or "-o " in block, f"no data: {out}"


REPORTS = {
    "notebook_pandas.py": """
import json
print("REPORT", json.dumps({
    "types": [str(prices.index.dtype), *map(str, prices.dtypes)],
    "rows": [[int(ts.timestamp()), *map(str, row)] for ts, row in zip(prices.index, prices.itertuples(index=False))],
}))
""",
    "notebook_polars.py": """
import json
wide = prices.pivot("ticker", index="time", values="price").sort("time")
print("REPORT", json.dumps({
    "types": [str(kind) for kind in wide.dtypes],
    "rows": [[int(ts.timestamp()), *map(str, row)] for ts, *row in wide.iter_rows()],
}))
""",
    "notebook_duckdb.py": """
import json
wide = duckdb.sql("SELECT time, max(price) FILTER (ticker = 'btc_usd') AS btc, max(price) FILTER (ticker = 'eth_usd') AS eth "
                  "FROM prices GROUP BY time ORDER BY time")
print("REPORT", json.dumps({
    "types": [str(kind) for kind in wide.types],
    "rows": [[int(ts.timestamp()), *map(str, row)] for ts, *row in wide.fetchall()],
}))
""",
}
"""Code that prints the types and the values of the frame of each program of docs/notebooks.md."""
TYPES = {
    "notebook_pandas.py": ["timestamp[us, tz=UTC][pyarrow]", *["decimal128(38, 18)[pyarrow]"] * 2],
    "notebook_polars.py": ["Datetime(time_unit='us', time_zone='UTC')", *["Decimal(precision=38, scale=18)"] * 2],
    "notebook_duckdb.py": ["TIMESTAMP WITH TIME ZONE", *["DECIMAL(38,18)"] * 2],
}
FOLDER_READERS = """
import json
import duckdb, pandas, polars
frames = [
    pandas.read_parquet("archive", dtype_backend="pyarrow").sort_values(["ticker", "time"])["price"],
    polars.scan_parquet("archive", hive_partitioning=True).sort("ticker", "time").collect()["price"],
    [row[0] for row in duckdb.sql(
        "SELECT price FROM read_parquet('archive/**/*.parquet', hive_partitioning = true) ORDER BY ticker, time").fetchall()],
]
print("REPORT", json.dumps([[str(price) for price in frame] for frame in frames]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not CLIENT_PYTHON.exists(), reason="the clients of Python are not installed")
async def test_notebooks_read_the_same_types_and_values(new_installation: Api, dsn: str, db: Database, tmp_path: Path) -> None:
    await store(db, [row("btc_usd", 1_600_000_020, "123456789.123456789012345678")])
    stored = await db.fetch("SELECT ticker, ts, price FROM price ORDER BY ticker, ts")
    digits = Decimal("1." + "0" * 18)
    found = {(one["ticker"], one["ts"]): str(one["price"].quantize(digits, context=Context(prec=50))) for one in stored}
    minutes = sorted({ts for _, ts in found})

    async def report(file: Path) -> Any:
        status, out, err = await _run([str(CLIENT_PYTHON), str(file)], tmp_path, new_installation)
        assert status == 0, err
        return json.loads(out.partition("REPORT ")[2])

    for name, code in REPORTS.items():
        (tmp_path / name).write_text(_program(name) + code)
        result = await report(tmp_path / name)
        assert result["types"] == TYPES[name]
        values = [[ts, *(value if value not in ("None", "<NA>") else None for value in row)] for ts, *row in result["rows"]]
        assert values == [[ts, found.get(("btc_usd", ts)), found.get(("eth_usd", ts))] for ts in minutes], name
    (command,) = [block for block in _blocks(DOCS["notebooks"], "shell") if "--partition" in block]
    arguments = [sys.executable, *shlex.split(command)[1:]]
    status, _, err = await _run(arguments, tmp_path, None, DATABASE_URL=dsn, PYTHONPATH=str(ROOT))
    assert status == 0, err
    (tmp_path / "folder.py").write_text(FOLDER_READERS)
    assert await report(tmp_path / "folder.py") == [[found[one["ticker"], one["ts"]] for one in stored]] * 3


async def test_the_recipe_of_a_typed_client_is_the_tested_one() -> None:
    (recipe,) = _blocks(DOCS["notebooks"], "toml")
    assert recipe in (CLIENTS / "python" / "ariadne.toml").read_text()


async def test_the_copy_of_the_guide_equals_the_export(new_installation: Api, db: Database, tmp_path: Path) -> None:
    """Covers a large import, live prices, and an import while the program does not run."""
    command = await _command("python", _program("copy_prices.py"), tmp_path)
    first = int(time.time()) // 86_400 * 86_400 - 10 * 86_400

    async def equals_export() -> bool:
        async with new_installation.session.get(f"{new_installation.url}/export?ticker=btc_usd") as response:
            exported = [line.split(",")[1:3] for line in (await response.text()).splitlines()[1:]]
        with sqlite3.connect(tmp_path / "prices.db") as copy:
            try:
                copied = copy.execute("SELECT ts, price FROM price WHERE ticker = 'btc_usd' ORDER BY ts").fetchall()
            except sqlite3.OperationalError:  # not created yet
                return False
        return exported == [[str(ts), price] for ts, price in copied]

    async with _run_in_background(command, tmp_path, new_installation):
        await wait_until(equals_export)
        await _import(db, first, 5_000)
        await store(db, [row("btc_usd", first - 86_400)])
        await wait_until(equals_export)
    await _import(db, first - 5 * 86_400, 2_000)
    async with _run_in_background(command, tmp_path, new_installation):
        await wait_until(equals_export)


async def _import(db: Database, first: int, count: int) -> None:
    async with write_lock.write_transaction(db) as connection:
        await bulk_import.merge(connection, "btc_usd", [(first + 60 * n, "1.5", None, None, None) for n in range(count)])


@asynccontextmanager
async def _run_in_background(command: list[str], folder: Path, api: Api) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=os.environ | {"TICKGRAPH": api.url})
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


class _FailingServer(http.server.BaseHTTPRequestHandler):
    """Responds to every request with the status of its class."""

    status: ClassVar[int]
    requests: ClassVar[list[float]]

    def do_POST(self) -> None:
        self.requests.append(time.monotonic())
        body = json.dumps({"title": "no", "detail": "no", "status": self.status, "code": "UNAUTHENTICATED"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body) if self.status < 500 else 0))
        self.end_headers()
        if self.status < 500:
            self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        """Prints nothing."""


@contextmanager
def _failing_server(status: int) -> Iterator[tuple[str, list[float]]]:
    """Runs a server that responds to every request with `status`. Yields its URL and the times of the requests."""
    requests: list[float] = []
    handler = type("_Handler", (_FailingServer,), {"status": status, "requests": requests})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG_RUNNING_PROGRAMS))
async def test_the_programs_of_the_guide_end_at_a_permanent_error(name: str, tmp_path: Path) -> None:
    command = await _command("python" if name.endswith(".py") else "typescript", _program(name), tmp_path)
    with _failing_server(401) as (url, requests):
        status, _, err = await _run(command, tmp_path, None, TICKGRAPH=url)
    assert (status, len(requests)) == (1, 1), err


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG_RUNNING_PROGRAMS))
async def test_the_programs_of_the_guide_back_off_at_a_temporary_error(name: str, tmp_path: Path) -> None:
    command = await _command("python" if name.endswith(".py") else "typescript", _program(name), tmp_path)
    with _failing_server(503) as (url, requests):
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=os.environ | {"TICKGRAPH": url}, stderr=asyncio.subprocess.DEVNULL
        )
        await wait_until(lambda: len(requests) >= 3)
        process.terminate()
        await process.wait()
    assert requests[1] - requests[0] >= 0.9
    assert requests[2] - requests[1] >= 1.9, "the second pause is longer"


def test_the_settings_table_matches_the_settings_classes() -> None:
    def format_default(value: object) -> str:
        if value in (None, (), ""):
            return ""
        if isinstance(value, bool):
            return f"`{str(value).lower()}`"
        return f"`{','.join(value)}`" if isinstance(value, tuple) else f"`{value}`"

    expected = [
        f"| `{name.upper()}` | {format_default(field.default)} | {field.description} |" for name, field in FIELDS.items()
    ]
    section = DOCS["configuration"].partition("## Settings")[2].partition("\n## ")[0]
    table = [re.sub(r" +", " ", line) for line in section.splitlines() if re.match(r"\| `[A-Z_]+` \|", line)]
    assert table == [re.sub(r" +", " ", line) for line in expected]


def test_env_example_names_every_setting_with_its_default() -> None:
    example = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == {name.upper() for name in FIELDS}
    for name, field in FIELDS.items():
        if field.default not in (None, ()):
            default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
            assert example[name.upper()].lower() == default.lower(), name


def test_the_error_codes_match_the_code() -> None:
    def subclasses(base: type[errors.ApiError]) -> list[type[errors.ApiError]]:
        return [found for child in base.__subclasses__() for found in (child, *subclasses(child))]

    section = DOCS["graphql"].partition("## Errors")[2].partition("\n## ")[0]
    table = {code: status.strip() for code, status in re.findall(r"^\| `([A-Z_]+)` \|([^|]*)\|", section, re.MULTILINE)}
    codes = {error.code: str(error.status) for error in subclasses(errors.ApiError) if hasattr(error, "code")}
    assert table.keys() - {"GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED"} == codes.keys()
    for code, status in table.items():
        assert not status or status == codes[code], code


def _migration_table(section: str) -> list[tuple[str, str]]:
    """Returns the rows of a table of docs/moving.md as (old, new)."""
    text = DOCS["moving"].partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    rows = [(old, new) for old, new in cells[1:]]
    assert len(rows) > 2
    return rows


def test_paths_of_older_trackers_are_served() -> None:
    app = application(Settings(database_url="postgresql://127.0.0.1:1/none"))
    served = {route.path for route in app.routes if isinstance(route, Route)}
    for old, new in _migration_table("Addresses"):
        paths = set(re.findall(r"`(/[a-z/-]+)`", new if not new.startswith("the same") else f"{old} {new}")) - {"/v1"}
        assert paths <= served, old


def test_settings_of_older_trackers_are_read_or_reported() -> None:
    aliases = {"CLIENT_BASE_URL", "BASE_URL", "TIMEOUT", "CELERY_BROKER_URL"}
    for old, new in _migration_table("Settings"):
        for name in re.findall(r"`([A-Z][A-Z_]+)`", old):
            if new.startswith("nothing") or name == "REDIS_CELERY_BROKER_DB":
                assert name in db_settings.IGNORED_SETTINGS, name
            else:
                assert name.lower() in FIELDS or name in aliases, name


def test_commands_of_older_trackers_have_an_equivalent() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for old, new in _migration_table("Commands"):
        both = f"{old} {new}" if new.startswith("the same") else new
        assert set(re.findall(r"`make ([a-z-]+)", both)) <= _make_verbs(), old
        for service in re.findall(r"docker compose (?:logs -f|run --rm) (\w+)", both):
            assert re.search(rf"^  {service}:", compose, re.MULTILINE), service
        for package, verb in re.findall(r"`python -m (\w+) (\w+)`", both):
            help_text = subprocess.run(  # noqa: S603  our own command
                [sys.executable, "-m", package, verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert help_text.returncode == 0, help_text.stderr
        for folder in re.findall(r"tests/(?:db|ingest|graph)", new):
            assert (ROOT / folder).is_dir()


def _make_verbs() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_verb_is_listed_and_exists() -> None:
    listed = set(re.findall(r"^\| `make ([a-z-]+)", DOCS["cli"], re.MULTILINE))
    assert listed == set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in (README, *DOCS.values()):
        assert set(re.findall(r"[`\n]make ([a-z-]+)", text)) <= _make_verbs()


@pytest.mark.parametrize("package", ["db", "ingest", "graph"])
def test_every_verb_is_listed(package: str) -> None:
    help_output = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", package, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    verbs = set(re.findall(r"\{([a-z,-]+)\}", help_output)[0].split(","))
    assert verbs == set(re.findall(rf"^\| `python -m {package} ([a-z-]+)", DOCS["cli"], re.MULTILINE))


@pytest.mark.parametrize("package", ["db", "ingest", "graph"])
def test_the_architecture_names_every_module(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert file.name == "__init__.py" or re.search(rf"\b{file.stem}\b", DOCS["architecture"]), file


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def _anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_have_a_target(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link
