"""The code and the documents use plain technical words. `pyproject.toml` lists the words that are not used, with exceptions."""

import re
import subprocess
import tomllib

from tests.conftest import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["tickgraph"]["language"]


def test_no_unclear_word_is_used() -> None:
    files = subprocess.run(  # noqa: S603  our own arguments
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *SETTINGS["paths"]],  # noqa: S607  git is on PATH
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    words = re.compile(rf"\b({'|'.join(SETTINGS['words'])})\b", re.IGNORECASE)
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in files
        if "/vendor/" not in file and not file.endswith((".png", ".svg")) and (ROOT / file).exists()
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1)
        if words.search(line) and not any(exception in line for exception in SETTINGS["exceptions"])
    ]
    assert found == []
