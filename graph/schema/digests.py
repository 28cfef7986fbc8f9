"""The type DayDigest: the digest of a ticker's day, and its place in the hash chain."""

from typing import Self

import strawberry

from db.queries import digests
from db.queries.digests import DigestEntry
from graph.schema.scalars import UnixTime


@strawberry.type(
    description="The digest of a ticker's UTC day. It is the SHA-256 of the CSV file of the day with all columns, as of a data "
    "version. If a minute of the day is stored later, the day gets a new digest."
)
class DayDigest:
    """The digest of a ticker's UTC day."""

    day: UnixTime = strawberry.field(description="The first second of the day.")
    sha256: str = strawberry.field(description="SHA-256 of the day's file, in hex.")
    minutes: int = strawberry.field(description="Number of stored minutes.")
    complete: bool = strawberry.field(description="Whether every minute of the day is stored.")
    as_of: strawberry.ID = strawberry.field(
        description="Data version of the digest. `GET /export?as_of=…` returns the same file."
    )
    number: int = strawberry.field(description="Position of the digest in the hash chain of all digests, from 1.")
    chain: str = strawberry.field(description="Value of the chain with this digest, in hex. It fixes all digests before.")

    @classmethod
    def from_entry(cls, entry: DigestEntry) -> Self:
        """Builds the type from an entry of `db.queries.digests`."""
        return cls(
            day=UnixTime(entry.day),
            sha256=entry.digest.sha256.hex(),
            minutes=entry.digest.minutes,
            complete=entry.digest.minutes == digests.MINUTES_PER_DAY,
            as_of=strawberry.ID(str(entry.as_of)),
            number=entry.number,
            chain=entry.chain.hex(),
        )
