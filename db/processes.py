"""Child processes that never outlive us, whatever ends us."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Container, Iterator, Mapping, Sequence

KILL_AFTER_S = 8.0


def after_dashes(words: Sequence[str]) -> Sequence[str]:
    """The command that stands behind `--` on a command line."""
    return words[1:] if words[:1] == ["--"] else words


def start(
    command: Sequence[str],
    *,
    orphaned: str = "TERM",
    own_session: bool = False,
    prefix: Sequence[str] = (),
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a command that gets the signal `orphaned` when this process ends, even by kill -9.

    With `own_session` it is out of reach of the terminal's Ctrl-C. `prefix` goes in front of all: it may change the user,
    which would make the kernel forget about `orphaned` if it came later.
    """
    return subprocess.Popen(  # noqa: S603  our own commands
        [*prefix, "setpriv", "--pdeathsig", orphaned, "--", *command],
        start_new_session=own_session,
        stdout=stdout,
        stderr=None if stdout is None else subprocess.STDOUT,
    )


def stop(process: subprocess.Popen[bytes], how: signal.Signals, *, patience_s: float = KILL_AFTER_S) -> None:
    """Asks a process to end with the signal `how`, and kills it when its time is up."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: Sequence[str], servers: Mapping[str, subprocess.Popen[bytes]]) -> int:
    """Runs a command to its end beside the servers it needs, hands SIGTERM and SIGINT on to it, and returns its status.

    When one of the servers ends, the command is ended too: better than an application that can only fail.
    """
    with _piped_output() as stdout:
        child = start(command, stdout=stdout)
        with _handing_on_signals(child):
            while child.poll() is None:
                _wait_for_any({child.pid, *(server.pid for server in servers.values())})
                ended = [name for name, server in servers.items() if server.poll() is not None]
                if ended and child.poll() is None:
                    sys.stderr.write(f"{' and '.join(ended)} ended unexpectedly, so everything stops\n")
                    stop(child, signal.SIGTERM)
                    sys.stderr.write(
                        f"stopped, because {' and '.join(ended)} ended: its log in {os.environ.get('DATA_DIR', 'DATA_DIR')} "
                        "says why. Start everything again; what was missed is filled\n"
                    )
                    return 1
        return child.returncode


def _wait_for_any(own: Container[int]) -> None:
    """Returns when a child has ended. As PID 1 of a container we get orphans as children, which nobody else would reap."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_pid not in own:
        os.waitpid(ended.si_pid, 0)


@contextlib.contextmanager
def _handing_on_signals(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def hand_on(number: int, _frame: object) -> None:
        # A terminal's Ctrl-C reaches the child by itself.
        if number == signal.SIGTERM or not sys.stdin.isatty():
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _piped_output() -> Iterator[int | None]:
    """A pipe to our standard output where that is neither a terminal nor a pipe.

    supervisord opens /dev/fd/1 anew for each program: behind a redirect into a file their lines would overwrite each other.
    """
    mode = os.fstat(sys.stdout.fileno()).st_mode
    if sys.stdout.isatty() or stat.S_ISFIFO(mode):
        yield None
        return
    reading, writing = os.pipe()
    copier = threading.Thread(target=_copy, args=(reading, sys.stdout.fileno()))
    copier.start()
    try:
        yield writing
    finally:
        os.close(writing)
        copier.join()
        os.close(reading)


def _copy(reading: int, writing: int) -> None:
    while chunk := os.read(reading, 1 << 16):
        os.write(writing, chunk)
