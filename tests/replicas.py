"""A real streaming replica of an embedded PostgreSQL."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from db.runtime import embedded
from db.runtime.embedded import Server


def copy_primary(primary: Server, folder: Path) -> None:
    """Copies the primary's data, which is in `folder`/primary, to `folder`/replica with pg_basebackup."""
    (folder / "replica").mkdir()
    shutil.copy2(folder / "primary" / "password", folder / "replica" / "password")
    program = embedded.postgres_program("pg_basebackup")
    command = [str(program), "-D", str(folder / "replica" / "data"), "-d", primary.url, "-R", "-X", "stream", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  our own command


@contextlib.contextmanager
def run_replica(folder: Path, port: int | None = None) -> Iterator[Server]:
    """Runs the replica whose data is in `folder`/replica."""
    with embedded.postgres(folder / "replica", durable=False, port=port) as server:
        yield server
