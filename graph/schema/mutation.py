"""Mutations."""

from typing import Annotated, Self

import strawberry
from strawberry import UNSET

from db import times
from db.queries import clock
from graph.engine import fetch_requests
from graph.engine.tickers import require_tracked_tickers
from graph.schema import arguments
from graph.schema.context import Info
from graph.schema.scalars import UnixTime


@strawberry.type(description="Result of a fetch request. The prices are stored shortly after it, if the exchange responds.")
class FetchReceipt:
    """Result of a fetch request."""

    ts: UnixTime = strawberry.field(description="The minute to fetch.")
    queued: bool = strawberry.field(
        description="Whether a message was sent; false if the same request was already sent in this minute."
    )
    tickers: list[str] = strawberry.field(description="The requested tickers; empty for all tracked tickers.")

    @classmethod
    def from_receipt(cls, receipt: fetch_requests.Receipt) -> Self:
        """Builds the GraphQL type from a receipt of the engine."""
        return cls(ts=UnixTime(receipt.ts), queued=receipt.queued, tickers=receipt.tickers)


@strawberry.type(description="Mutations.")
class Mutation:
    """Mutations."""

    @strawberry.mutation(
        description="Makes the workers fetch the current minute's prices now, in addition to the regular fetch each minute. "
        "Requires the header `Authorization: Bearer …` if ADMIN_TOKEN is set."
    )
    async def fetch_prices(
        self,
        info: Info,
        tickers: Annotated[
            list[str] | None, strawberry.argument(description="Names of tracked tickers. Default: all tracked tickers.")
        ] = UNSET,
    ) -> FetchReceipt:
        info.context.require_admin_token()
        names = arguments.parse_tickers(arguments.unset_to_none(tickers) or [])
        await require_tracked_tickers(info.context.resources.primary, names)
        # The workers also compare their clocks with the database's, and skip a minute that is over.
        minute = times.minute_of(await clock.now(info.context.resources.primary))
        return FetchReceipt.from_receipt(await info.context.resources.fetch_requests.send(minute, names))
