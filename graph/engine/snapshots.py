"""Opens a snapshot for a query `asOf` an earlier data version."""

import re

from db import times
from db.pool import Executor
from db.queries import snapshots
from db.queries.snapshots import Snapshot
from graph.errors import AsOfTooOldError, BadInputError, HistoryChangedError


def parse_version(text: str, name: str = "asOf") -> int:
    """Returns the data version. Raises BadInputError."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        shown = text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004  enough to recognize it
        raise BadInputError(f"{name}: {shown!r} is not a data version; send one that `dataVersion` returned")
    return int(text)


async def open_snapshot(db: Executor, version: int, ticker: str, low: int, name: str = "asOf") -> Snapshot:
    """Returns the snapshot of a data version, for a window of the ticker that begins at `low`.

    Raises BadInputError if the version is not committed yet, HistoryChangedError if it belongs to a lost history, and
    AsOfTooOldError if minutes of the window that the snapshot had are deleted.
    """
    state = await snapshots.read_state(db, version, ticker)
    if version > state.newest:
        raise BadInputError(f"{name} ({version}) is newer than the newest data version, {state.newest}")
    if state.fork is not None:
        raise HistoryChangedError(
            f"{name} ({version})", state.fork, f"Send a data version of at most {state.fork}, or a new one"
        )
    snapshot = state.snapshot(version)
    if low < snapshot.horizon:
        require_retained(snapshot, ticker, name)
    return snapshot


def require_retained(snapshot: Snapshot | None, ticker: str, name: str = "asOf") -> None:
    """Raises AsOfTooOldError if minutes of the ticker that the snapshot had are deleted."""
    if snapshot is not None and not snapshot.is_retained:
        raise AsOfTooOldError(name, snapshot.id, ticker, times.iso(snapshot.horizon), snapshot.horizon_id)
