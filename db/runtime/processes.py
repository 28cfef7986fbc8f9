"""Child processes that end when this process ends, even if it is killed."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Container, Iterator, Mapping, Sequence

STOP_TIMEOUT_S = 8.0


def strip_separator(words: Sequence[str]) -> Sequence[str]:
    """Returns the command after `--` on a command line."""
    return words[1:] if words[:1] == ["--"] else words


def start(
    command: Sequence[str],
    *,
    parent_death_signal: str = "TERM",
    own_session: bool = False,
    prefix: Sequence[str] = (),
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a command that receives `parent_death_signal` when this process ends, even by kill -9.

    With `own_session` the terminal's Ctrl-C does not reach it. `prefix` precedes the whole command. It may change the
    user; the kernel clears the parent-death signal on a user change, so the change must happen first.
    """
    return subprocess.Popen(  # noqa: S603  commands of this product
        [*prefix, "setpriv", "--pdeathsig", parent_death_signal, "--", *command],
        start_new_session=own_session,
        stdout=stdout,
        stderr=None if stdout is None else subprocess.STDOUT,
    )


def stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Sends `stop_signal` to a process, and kills it if it does not exit within `timeout_s`."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: Sequence[str], servers: Mapping[str, subprocess.Popen[bytes]]) -> int:
    """Runs a command while the servers run, forwards SIGTERM and SIGINT to it, and returns its exit status.

    If a server exits, the command is stopped, because it could only fail without the server.
    """
    with _piped_output() as stdout:
        child = start(command, stdout=stdout)
        with _forward_signals(child):
            while child.poll() is None:
                _wait_for_exit({child.pid, *(server.pid for server in servers.values())})
                ended = [name for name, server in servers.items() if server.poll() is not None]
                if ended and child.poll() is None:
                    sys.stderr.write(f"{' and '.join(ended)} exited unexpectedly; stopping everything\n")
                    stop(child, signal.SIGTERM)
                    folders = [name.lower().replace("postgresql", "postgres") for name in ended]
                    logs = " and ".join(f"{folder}/{folder}.log" for folder in folders)
                    sys.stderr.write(
                        f"stopped: {' and '.join(ended)} exited. See {logs} in {os.environ.get('DATA_DIR', 'DATA_DIR')} "
                        "and start again. The worker backfills the missed minutes\n"
                    )
                    return 1
        return child.returncode


def _wait_for_exit(known_pids: Container[int]) -> None:
    """Returns when a child has exited. As PID 1 of a container this process also reaps orphaned processes."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_pid not in known_pids:
        os.waitpid(ended.si_pid, 0)


@contextlib.contextmanager
def _forward_signals(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, _frame: object) -> None:
        # The terminal itself sends Ctrl-C to the child.
        if number == signal.SIGTERM or not sys.stdin.isatty():
            child.send_signal(number)

    previous_handlers = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _piped_output() -> Iterator[int | None]:
    """Provides a pipe to standard output, unless standard output is a terminal or a pipe.

    supervisord opens /dev/fd/1 for each program. If that is a file, the programs would overwrite each other's lines.
    """
    mode = os.fstat(sys.stdout.fileno()).st_mode
    if sys.stdout.isatty() or stat.S_ISFIFO(mode):
        yield None
        return
    read_fd, write_fd = os.pipe()
    copier = threading.Thread(target=_copy, args=(read_fd, sys.stdout.fileno()))
    copier.start()
    try:
        yield write_fd
    finally:
        os.close(write_fd)
        copier.join()
        os.close(read_fd)


def _copy(read_fd: int, write_fd: int) -> None:
    while chunk := os.read(read_fd, 1 << 16):
        os.write(write_fd, chunk)
