"""Log lines are text or JSON, also go to a file, and never contain a password."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAM = """
import logging
from db.runtime import log
from db.settings import Settings

settings = Settings.read()
log.configure(settings, "test")
log.configure(settings, "ignored")
logging.getLogger("db.something").info("connected to %s", "postgresql://ann:secret@db/x", extra={"attempts": 3})
logging.getLogger("db.something").debug("details")
logging.getLogger("db.something").warning("they sent %s", "\\x1b[31mred\\u202e")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("db.something").exception("failed at redis://:secret@db")
"""


def _run(program: str = PROGRAM, **env: str) -> str:
    result = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stderr


def test_text_lines_are_short_and_contain_no_password() -> None:
    output = _run()
    first = output.splitlines()[0]
    assert "[info     ] connected to postgresql://ann:***@db/x [db.something] attempts=3 process=test" in first
    assert "ZeroDivisionError" in output
    assert "secret" not in output
    assert "details" not in output


def test_json_lines_also_go_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "tickgraph.log"
    output = _run(LOG_FORMAT="json", LOG_LEVEL="debug", LOG_FILE=str(file))
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["event"] for line in lines][:2] == ["connected to postgresql://ann:***@db/x", "details"]
    assert (lines[0]["level"], lines[0]["logger"], lines[0]["attempts"], lines[0]["process"]) == (
        "info",
        "db.something",
        3,
        "test",
    )
    assert "ZeroDivisionError" in lines[-1]["exception"]
    assert "secret" not in output
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == [line["event"] for line in lines]


def test_uvicorn_writes_no_line_about_a_websocket_but_warnings() -> None:
    program = (
        PROGRAM
        + """
from uvicorn.protocols.websockets import websockets_sansio_impl as module
for level in ("info", "warning"):
    exec(compile(f"logging.getLogger('uvicorn.error').{level}('{level} of a websocket')", module.__file__, "exec"))
logging.getLogger("uvicorn.error").info("Application startup complete.")
"""
    )
    output = _run(program)
    assert "info of a websocket" not in output
    assert "warning of a websocket" in output
    assert "Application startup complete." in output


def test_debug_sets_the_log_level() -> None:
    assert "details" in _run(DEBUG="true")


def test_control_characters_sent_by_clients_are_escaped() -> None:
    assert "they sent \\u001b[31mred\\u202e" in _run()
    assert "\x1b" not in _run()


EXCEPTION_PROGRAM = """
import logging, sys
from db.runtime import log
from db.settings import Settings

log.configure(Settings.read(), "test")
try:
    raise ValueError("cannot reach postgresql://ann:secret@db/x \\x1b[31mred\\u202e")
except ValueError:
    logging.getLogger("db.something").exception("failed")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_contains_no_password_and_no_control_characters(log_format: str) -> None:
    output = _run(EXCEPTION_PROGRAM.replace("\\\\", "\\"), LOG_FORMAT=log_format)
    assert "ValueError: cannot reach postgresql://ann:***@db/x" in output
    assert "secret" not in output
    assert "\x1b" not in output
    assert "\u202e" not in output


ROTATION_PROGRAM = """
import logging, sys
from db.runtime import log
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
        subprocess.Popen([sys.executable, "-c", ROTATION_PROGRAM, str(number)], env=env, stderr=subprocess.DEVNULL)  # noqa: S603  ours
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    rotated = [path for path in tmp_path.iterdir() if path.name.startswith("tickgraph.log")]
    assert len(rotated) > 2, "the file was rotated"
    lines = [json.loads(line)["event"] for path in rotated for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f"line {line} of {number}" for number in range(4) for line in range(400))
