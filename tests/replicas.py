"""A real streaming replica of an embedded PostgreSQL."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from db import embedded
from db.embedded import Server


def copied(primary: Server, folder: Path) -> None:
    """Makes a replica's data in `folder`/replica of the server whose data are in `folder`/primary."""
    (folder / "replica").mkdir()
    shutil.copy2(folder / "primary" / "password", folder / "replica" / "password")
    program = embedded.postgres_program("pg_basebackup")
    command = [str(program), "-D", str(folder / "replica" / "data"), "-d", primary.url, "-R", "-X", "stream", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  our own command


@contextlib.contextmanager
def following(folder: Path, port: int | None = None) -> Iterator[Server]:
    """The replica in `folder`, running."""
    with embedded.postgres(folder / "replica", durable=False, port=port) as server:
        yield server
