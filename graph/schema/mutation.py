"""What can be set in motion."""

from typing import Annotated, Self

import strawberry
from strawberry import UNSET

from db import times
from db.queries import clock
from graph.engine import collecting
from graph.engine.knowledge import require_tracked
from graph.schema import arguments
from graph.schema.context import Info
from graph.schema.scalars import UnixTime


@strawberry.type(description="What became of a wish for prices. They are stored a moment later, if the exchange answers.")
class FetchReceipt:
    """What became of a wish for prices."""

    ts: UnixTime = strawberry.field(description="The minute they are asked for.")
    queued: bool = strawberry.field(description="Whether a message was sent; false where the same was asked in this minute.")
    tickers: list[str] = strawberry.field(description="The tickers asked for; empty for all that are tracked.")

    @classmethod
    def of(cls, receipt: collecting.Receipt) -> Self:
        """From the engine's receipt."""
        return cls(ts=UnixTime(receipt.ts), queued=receipt.queued, tickers=receipt.tickers)


@strawberry.type(description="What can be set in motion.")
class Mutation:
    """What can be set in motion."""

    @strawberry.mutation(
        description="Asks the workers for the prices of the current minute, now; they would come by themselves each minute. "
        "Needs the header `Authorization: Bearer …` where an ADMIN_TOKEN is set."
    )
    async def fetch_prices(
        self,
        info: Info,
        tickers: Annotated[
            list[str] | None, strawberry.argument(description="Tracked index names; left out: all that are tracked.")
        ] = UNSET,
    ) -> FetchReceipt:
        info.context.require_fetching()
        names = arguments.tickers(arguments.given(tickers) or [])
        await require_tracked(info.context.resources.primary, names)
        # By the database's clock, like the workers' third opinion: a minute that is over would be left out.
        minute = times.minute_of(await clock.now(info.context.resources.primary))
        return FetchReceipt.of(await info.context.resources.collecting.request(minute, names))
