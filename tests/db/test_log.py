"""Log lines: readable or JSON, to a file too, and never with a password."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAM = """
import logging
from db import log
from db.settings import Settings

settings = Settings.read()
log.configure(settings, "test")
log.configure(settings, "again")
logging.getLogger("db.something").info("connected to %s", "postgresql://ann:secret@db/x", extra={"attempts": 3})
logging.getLogger("db.something").debug("details")
logging.getLogger("db.something").warning("they sent %s", "\\x1b[31mred\\u202e")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("db.something").exception("failed at redis://:secret@db")
"""


def _run(program: str = PROGRAM, **env: str) -> str:
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_lines_for_people_are_short_and_hold_no_password() -> None:
    said = _run()
    first = said.splitlines()[0]
    assert "[info     ] connected to postgresql://ann:***@db/x [db.something] attempts=3 process=test" in first
    assert "ZeroDivisionError" in said
    assert "secret" not in said
    assert "details" not in said


def test_lines_for_machines_are_json_and_go_to_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "tickgraph.log"
    said = _run(LOG_FORMAT="json", LOG_LEVEL="debug", LOG_FILE=str(file))
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["event"] for line in lines][:2] == ["connected to postgresql://ann:***@db/x", "details"]
    assert (lines[0]["level"], lines[0]["logger"], lines[0]["attempts"], lines[0]["process"]) == (
        "info",
        "db.something",
        3,
        "test",
    )
    assert "ZeroDivisionError" in lines[-1]["exception"]
    assert "secret" not in said
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == [line["event"] for line in lines]


def test_debug_means_its_log_level() -> None:
    assert "details" in _run(DEBUG="true")


def test_a_terminal_obeys_nothing_that_strangers_sent() -> None:
    assert "they sent \\u001b[31mred\\u202e" in _run()
    assert "\x1b" not in _run()


RAISING = """
import logging, sys
from db import log
from db.settings import Settings

log.configure(Settings.read(), "test")
try:
    raise ValueError("cannot reach postgresql://ann:secret@db/x \\x1b[31mred\\u202e")
except ValueError:
    logging.getLogger("db.something").exception("failed")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_password_and_sends_a_terminal_nothing(form: str) -> None:
    said = _run(RAISING.replace("\\\\", "\\"), LOG_FORMAT=form)
    assert "ValueError: cannot reach postgresql://ann:***@db/x" in said
    assert "secret" not in said
    assert "\x1b" not in said
    assert "\u202e" not in said


WRITING = """
import logging, sys
from db import log
from db.settings import Settings

log.MAX_FILE_BYTES, log.MAX_ROTATED_FILES = 40_000, 50
log.configure(Settings.read(), "test")
sys.stderr = open("/dev/null", "w")
for number in range(400):
    logging.getLogger("db.something").info("line %s of %s", number, sys.argv[1])
"""


def test_several_processes_that_rotate_one_file_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "tickgraph.log"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LOG_FILE": str(file), "LOG_FORMAT": "json"}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITING, str(number)], env=env, stderr=subprocess.DEVNULL)  # noqa: S603  ours
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    rotated = [one for one in tmp_path.iterdir() if one.name.startswith("tickgraph.log")]
    assert len(rotated) > 2, "it was rotated"
    lines = [json.loads(line)["event"] for one in rotated for line in one.read_text().splitlines()]
    assert sorted(lines) == sorted(f"line {line} of {number}" for number in range(4) for line in range(400))
