"""Which embedded servers run here, and where: so that a verb finds those of `make up` by itself."""

from pathlib import Path

from db import embedded
from db.errors import ServerError
from db.settings import Settings

EXCHANGE = "exchange"
"""File in the demo's folder: the address of its exchange."""


def postgres(folder: Path) -> str | None:
    """The address of the PostgreSQL that runs on the data in `folder`, None where none does."""
    data = (folder / "data").absolute()
    if not embedded.runs(data):
        return None
    port = (data / "postmaster.pid").read_text().splitlines()[3]
    return embedded.postgres_url(folder, int(port))


def dsn_of(settings: Settings) -> str:
    """PostgreSQL's address: the one that is set, or that of the embedded server that runs in DATA_DIR, or in its demo.

    Ends the process with a line that says what to set where there is none.
    """
    running = (postgres(folder / "postgres") for folder in (settings.data_dir, settings.data_dir / embedded.DEMO))
    found = settings.dsn or next((url for url in running if url is not None), None)
    if found is None:
        raise SystemExit(
            f"DATABASE_URL is not set, and no server of ours runs in DATA_DIR={settings.data_dir}: set it to "
            "postgresql://user:password@host:5432/name, or start everything with `make up`"
        )
    return found


def redis_of(settings: Settings) -> str | None:
    """Redis' address: the one that is set, or that of the embedded server that runs in DATA_DIR, or in its demo; else None."""
    running = (_valkey(folder / "valkey") for folder in (settings.data_dir, settings.data_dir / embedded.DEMO))
    return settings.redis or settings.broker or next((url for url in running if url is not None), None)


def _valkey(folder: Path) -> str | None:
    try:
        words = (folder / "valkey.conf").read_text().split()
    except OSError:
        return None
    url = embedded.valkey_url(folder, int(words[words.index("port") + 1]))
    return url if embedded.answers(url) else None


def demo_exchange(settings: Settings) -> str | None:
    """Where the demo's simulated exchange is, where it is the demo that runs here; else None."""
    folder = settings.data_dir / embedded.DEMO
    if settings.dsn is not None or postgres(settings.data_dir / "postgres") or not postgres(folder / "postgres"):
        return None
    try:
        return (folder / EXCHANGE).read_text().strip() or None
    except OSError:
        return None


def holder(folder: Path) -> int | None:
    """The process that holds the data folder, None where none does."""
    try:
        with embedded.held(folder):
            return None
    except ServerError:
        written = (folder / "lock").read_text().strip()
        return int(written) if written.isdecimal() else None  # whoever takes it now has not said yet who it is
