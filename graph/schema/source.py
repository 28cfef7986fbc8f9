"""Source of a stored price."""

from enum import Enum

import strawberry


@strawberry.enum(description="Source of a stored price.")
class Source(Enum):
    """Source of a stored price."""

    LIVE = strawberry.enum_value("LIVE", description="Fetched in its own minute.")
    BACKFILL = strawberry.enum_value(
        "BACKFILL", description="Backfilled later from Deribit's chart: an average over some seconds."
    )
    PEER = strawberry.enum_value(
        "PEER", description="Filled later with the live price of a peer: another Tickgraph, which fetched it in its own minute."
    )
    IMPORT = strawberry.enum_value("IMPORT", description="Imported from a file or another database.")
