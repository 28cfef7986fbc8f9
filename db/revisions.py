"""The revisions of the schema, read from the files of the migrations. Alembic, which runs them, takes 20 MB of memory."""

import re
from functools import cache
from pathlib import Path
from typing import Final

VERSIONS: Final = Path(__file__).parent.parent / "alembic" / "versions"
_REVISION: Final = re.compile(r'^revision\b[^=\n]*= "(\w+)"$', re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r'^down_revision\b[^=\n]*= "(\w+)"$', re.MULTILINE)


@cache
def _names(pattern: re.Pattern[str]) -> frozenset[str]:
    return frozenset(name for text in _texts() for name in pattern.findall(text))


@cache
def _texts() -> tuple[str, ...]:
    return tuple(file.read_text(encoding="utf-8") for file in VERSIONS.glob("*.py"))


def known() -> frozenset[str]:
    """Returns the revisions of this release."""
    return _names(_REVISION)


def head() -> str:
    """Returns the newest revision of this release."""
    (newest,) = known() - _names(_DOWN_REVISION)
    return newest


def is_compatible(revision: str | None) -> bool:
    """Whether this release can use a database at the revision: its newest revision, or an unknown one.

    Revisions have no inherent order. An unknown revision belongs to a later release that is being rolled out.
    """
    return revision is not None and (revision == head() or revision not in known())
