"""The README is correct: its queries run, and its settings match the settings classes."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from starlette.routing import Route

from db import settings as db_settings
from db.pool import Database
from graph import settings as graph_settings
from graph.http.application import application
from graph.settings import Settings
from ingest import settings as ingest_settings
from tests.conftest import ROOT
from tests.graph.conftest import run_api
from tests.graph.test_live_events import open_event_stream
from tests.sample_data import MINUTE, row, store, track
from tests.wait import WAIT_TIMEOUT_S

FIELDS = db_settings.Settings.model_fields | ingest_settings.Settings.model_fields | graph_settings.Settings.model_fields
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def test_the_example_queries_return_data(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * i, f"6824{i}.5") for i in range(5)])
    async with run_api(Settings(database_url=dsn)) as api:
        queries = [block for block in _blocks("graphql") if not block.startswith("subscription")]
        assert len(queries) >= 4
        for query in queries:
            data = await api.data(query)
            assert all(data.values()), query


async def test_the_example_subscriptions_deliver_stored_prices(dsn: str, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", "eth_usd", since=now)
    subscriptions = [block for block in _blocks("graphql") if block.startswith("subscription")]
    assert len(subscriptions) == 3
    async with run_api(Settings(database_url=dsn)) as api:
        for number, query in enumerate(subscriptions):
            async with open_event_stream(api, query) as stream:
                await stream.response.content.readline()
                await store(db, [row("btc_usd", now - 60 * number)])
                assert all(json.loads((await stream.event())["data"])["data"].values()), query


async def test_the_curl_example_is_a_valid_request(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE, "68241.5")])
    line = next(block for block in _blocks("sh") if "/graphql" in block).replace("\\\n", " ")
    arguments = shlex.split(line)
    query = json.loads(arguments[arguments.index("-d") + 1])["query"]
    async with run_api(Settings(database_url=dsn)) as api:
        assert await api.data(query) == {"latest": {"price": "68241.5", "time": "2024-01-15T11:40:00Z"}}


def test_the_settings_table_matches_the_settings_classes() -> None:
    def format_default(value: object) -> str:
        if value is None or value == ():
            return ""
        if isinstance(value, bool):
            return f"`{str(value).lower()}`"
        return f"`{','.join(value)}`" if isinstance(value, tuple) else f"`{value}`"

    expected = [
        f"| `{name.upper()}` | {format_default(field.default)} | {field.description} |" for name, field in FIELDS.items()
    ]
    section = README.partition("## Settings")[2].partition("\n## ")[0]
    table = [re.sub(r" +", " ", line) for line in section.splitlines() if re.match(r"\| `[A-Z_]+` \|", line)]
    assert table == [re.sub(r" +", " ", line) for line in expected]


def test_env_example_names_every_setting_with_its_default() -> None:
    example = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == {name.upper() for name in FIELDS}
    for name, field in FIELDS.items():
        if field.default not in (None, ()):
            default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
            assert example[name.upper()].lower() == default.lower(), name


MOVING = (ROOT / "docs" / "moving.md").read_text()


def _migration_table(section: str) -> list[tuple[str, str]]:
    """Returns the rows of a table of docs/moving.md as (old, new)."""
    text = MOVING.partition(f"## {section}\n")[2].partition("\n## ")[0]
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
                assert name in db_settings.LEGACY_SETTINGS, name
            else:
                assert name.lower() in FIELDS or name in aliases, name


def test_commands_of_older_trackers_have_an_equivalent() -> None:
    makefile, compose = (ROOT / "Makefile").read_text(), (ROOT / "docker-compose.yml").read_text()
    for old, new in _migration_table("Commands"):
        both = f"{old} {new}" if new.startswith("the same") else new
        for verb in re.findall(r"`make ([a-z-]+)", both):
            assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
        for service in re.findall(r"docker compose (?:logs -f|run --rm) (\w+)", both):
            assert re.search(rf"^  {service}:", compose, re.MULTILINE), service
        for package, verb in re.findall(r"`python -m (\w+) (\w+)`", both):
            help_text = subprocess.run(  # noqa: S603  our own command
                [sys.executable, "-m", package, verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert help_text.returncode == 0, help_text.stderr
        for folder in re.findall(r"tests/(?:db|ingest|graph)", new):
            assert (ROOT / folder).is_dir()


async def test_the_rest_example_returns_the_documented_rows(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE, "68241.5", at_s=1.25)])
    line = next(block for block in _blocks("sh") if "/prices/filter" in block)
    path = shlex.split(line)[-1].removeprefix("http://127.0.0.1:8000")
    async with run_api(Settings(database_url=dsn)) as api, api.session.get(f"{api.url}{path}") as response:
        rows = await response.json()
    (shown,) = [json.loads(block) for block in _blocks("json")]
    assert [{**one, "id": 1} for one in rows] == shown


@pytest.mark.parametrize("package", ["db", "ingest", "graph"])
def test_every_verb_is_listed(package: str) -> None:
    help_output = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", package, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    verbs = set(re.findall(r"\{([a-z,-]+)\}", help_output)[0].split(","))
    assert verbs == set(re.findall(rf"^\| `python -m {package} ([a-z-]+)", README, re.MULTILINE))


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


def test_every_make_verb_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in set(re.findall(r"[`\n]make ([a-z-]+)", README)):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


GUIDE = (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize(
    ("language", "number"),
    [(language, number) for language in ("sh", "python", "typescript") for number in range(GUIDE.count(f"```{language}\n"))],
)
async def test_the_examples_of_the_guide_run(language: str, number: int, dsn: str, db: Database, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * i, f"6824{i}.5") for i in range(5)])
    block = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)[number]
    file = tmp_path / {"sh": "example.sh", "python": "example.py", "typescript": "example.ts"}[language]
    file.write_text(block)
    command = {"sh": ["bash", str(file)], "python": [sys.executable, str(file)]}.get(language)
    if command is None:
        typescript = ROOT / "tests" / "clients" / "node_modules" / ".bin" / "tsc"
        if not typescript.exists():
            pytest.skip("the clients of Node.js are not installed")
        (tmp_path / "package.json").write_text('{"type": "module"}')
        options = ["--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.asynciterable", "--skipLibCheck"]
        types = ["--typeRoots", str(typescript.parent.parent / "@types"), "--types", "node"]
        compiler = await asyncio.create_subprocess_exec(
            str(typescript), *options, *types, str(file), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await compiler.communicate()
        assert compiler.returncode == 0, output.decode()
        command = ["node", str(file.with_suffix(".js"))]
    async with run_api(Settings(database_url=dsn)) as api:
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | {"TICKGRAPH": api.url}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT_S)
    assert process.returncode == 0, err.decode()
    assert "5" in out.decode(), out
