"""Where a stored price came from."""

from enum import Enum

import strawberry


@strawberry.enum(description="Where a stored price came from.")
class Source(Enum):
    """Where a stored price came from."""

    LIVE = strawberry.enum_value("LIVE", description="Asked for in its own minute.")
    BACKFILL = strawberry.enum_value(
        "BACKFILL", description="Missed at first, filled later from Deribit's own chart: an average over some seconds."
    )
    IMPORT = strawberry.enum_value("IMPORT", description="Brought in from a file or another database.")
