"""The revisions of the schema, read from the files of the migrations. Alembic, which runs them, takes 20 MB of memory."""

import re
from functools import cache
from pathlib import Path
from typing import Final

VERSIONS: Final = Path(__file__).parent.parent / "alembic" / "versions"
_REVISION: Final = re.compile(r'^revision\b[^=\n]*= "(\w+)"$', re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r'^down_revision\b[^=\n]*= "(\w+)"$', re.MULTILINE)


@cache
def head() -> str:
    """Returns the newest revision of this release."""
    texts = [file.read_text(encoding="utf-8") for file in VERSIONS.glob("*.py")]
    previous = {name for text in texts for name in _DOWN_REVISION.findall(text)}
    (newest,) = known() - previous
    return newest


@cache
def known() -> frozenset[str]:
    """Returns the revisions of this release."""
    return frozenset(name for file in VERSIONS.glob("*.py") for name in _REVISION.findall(file.read_text(encoding="utf-8")))


def is_compatible(revision: str | None) -> bool:
    """Whether this release can use a database at the revision: its newest revision, or an unknown one.

    Revisions have no inherent order. An unknown revision belongs to a later release that is being rolled out.
    """
    return revision is not None and (revision == head() or revision not in known())
