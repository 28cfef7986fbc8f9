"""The README is true: its queries run, and its settings are those of the settings classes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from db import settings as db_settings
from db.pool import Database
from graph import settings as graph_settings
from graph.__main__ import main as graph_main
from graph.settings import Settings
from ingest import settings as ingest_settings
from tests.conftest import ROOT
from tests.graph.conftest import serving
from tests.stored import MINUTE, row, store, track

README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def test_the_first_queries_run_and_find_something(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * i, f"6824{i}.5") for i in range(5)])
    async with serving(Settings(database_url=dsn)) as api:
        assert len(_blocks("graphql")) >= 4
        for query in _blocks("graphql"):
            data = await api.data(query)
            assert all(data.values()), query


async def test_the_curl_line_is_a_request_that_is_answered(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE, "68241.5")])
    line = next(block for block in _blocks("sh") if block.startswith("curl")).replace("\\\n", " ")
    words = shlex.split(line)
    query = json.loads(words[words.index("-d") + 1])["query"]
    async with serving(Settings(database_url=dsn)) as api:
        assert await api.data(query) == {"latest": {"price": "68241.5", "time": "2024-01-15T11:40:00Z"}}


def test_the_settings_table_is_that_of_the_settings_classes() -> None:
    def shown(value: object) -> str:
        if value is None:
            return ""
        return f"`{','.join(value)}`" if isinstance(value, tuple) else f"`{value}`"

    fields = db_settings.Settings.model_fields | ingest_settings.Settings.model_fields | graph_settings.Settings.model_fields
    expected = [f"| `{name.upper()}` | {shown(field.default)} | {field.description} |" for name, field in fields.items()]
    table = [re.sub(r" +", " ", line) for line in README.splitlines() if re.match(r"\| `[A-Z_]+` \|", line)]
    assert table == [re.sub(r" +", " ", line) for line in expected]


@pytest.mark.parametrize("package", ["db", "ingest", "graph"])
def test_every_verb_is_listed(package: str) -> None:
    source = Path(ROOT / package / "__main__.py").read_text()
    verbs = set(re.findall(r'add_parser\(\s*"([a-z-]+)"', source))
    assert verbs == set(re.findall(rf"^\| `python -m {package} ([a-z-]+)", README, re.MULTILINE))


def test_every_make_verb_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_the_printed_schema_is_the_committed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert graph_main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "graph" / "schema.graphql").read_text()
