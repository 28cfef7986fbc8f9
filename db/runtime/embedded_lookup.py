"""Lookup of running embedded servers, so that command-line verbs find those of `make up` without settings."""

from pathlib import Path

from db.errors import CommandLineError
from db.runtime import embedded
from db.settings import Settings

API_URL_FILE = "api"
"""File in the data folder that contains the URL of the API that was started last."""
EXCHANGE_URL_FILE = "exchange"
"""File in the folder of the demo that contains the URL of its simulated exchange."""


def data_folders(settings: Settings) -> tuple[Path, Path]:
    """Returns the data folders of `make up` and of `make demo`, in the order of lookup."""
    return settings.data_dir, settings.data_dir / embedded.DEMO_FOLDER


def find_postgres_url(folder: Path) -> str | None:
    """Returns the connection URL of the PostgreSQL that runs on the data in `folder`, or None."""
    data = (folder / "data").absolute()
    if not embedded.is_postgres_running(data):
        return None
    port = (data / "postmaster.pid").read_text().splitlines()[3]
    return embedded.postgres_url(folder, int(port))


def postgres_url(settings: Settings) -> str:
    """Returns the connection URL of PostgreSQL: the configured one, or that of the embedded server of DATA_DIR or its demo.

    Raises SystemExit with instructions if there is none.
    """
    embedded_urls = (find_postgres_url(folder / "postgres") for folder in data_folders(settings))
    found = settings.dsn or next((url for url in embedded_urls if url is not None), None)
    if found is None:
        raise SystemExit(
            f"DATABASE_URL is not set, and no embedded server runs in DATA_DIR={settings.data_dir}. Set it to "
            "postgresql://user:password@host:5432/name, or start everything with `make up`"
        )
    return found


def redis_url(settings: Settings) -> str | None:
    """Returns the URL of Redis for the outbox: REDIS_URL, BROKER_URL, or that of the embedded server of DATA_DIR or its demo.

    Returns None if there is none.
    """
    embedded_urls = (_find_valkey_url(folder / "valkey") for folder in data_folders(settings))
    return settings.redis or settings.broker or next((url for url in embedded_urls if url is not None), None)


def _find_valkey_url(folder: Path) -> str | None:
    try:
        words = (folder / "valkey.conf").read_text().split()
    except OSError:
        return None
    url = embedded.valkey_url(folder, int(words[words.index("port") + 1]))
    return url if embedded.is_valkey_responding(url) else None


def demo_exchange_url(settings: Settings) -> str | None:
    """Returns the URL of the simulated exchange if only the demo runs and no database is configured, otherwise None."""
    folder, demo = data_folders(settings)
    if settings.dsn is not None or find_postgres_url(folder / "postgres") or not find_postgres_url(demo / "postgres"):
        return None
    try:
        return (demo / EXCHANGE_URL_FILE).read_text().strip() or None
    except OSError:
        return None


def api_url(settings: Settings) -> str | None:
    """Returns the URL of the API of a running `make up` or `make demo`, or None."""
    for folder in data_folders(settings):
        if (folder / API_URL_FILE).exists() and find_postgres_url(folder / "postgres"):
            return (folder / API_URL_FILE).read_text().strip()
    return None


def find_owner_pid(folder: Path) -> int | None:
    """Returns the pid of the process that locks the data folder, or None. Locks the folder for a moment to find out."""
    try:
        with embedded.lock_data_dir(folder):
            return None
    except CommandLineError:
        written = (folder / "lock").read_text().strip()
        return int(written) if written.isdecimal() else None  # the new owner may not have written its pid yet
