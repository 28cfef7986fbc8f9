"""Mutations."""

from typing import Annotated, Final, Self

import strawberry
from strawberry import UNSET

from db import times
from db.queries import alerts, clock
from graph.engine import fetch_requests
from graph.engine.tickers import require_known_tickers, require_tracked_tickers
from graph.errors import BadInputError
from graph.schema import arguments
from graph.schema.alerts import Alert, AlertInput, parse_alert_id
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


ALERTS: Final = "Requires the header `Authorization: Bearer …` with ADMIN_TOKEN."
AlertId = Annotated[strawberry.ID, strawberry.argument(description="The alert's `id`.")]


@strawberry.type(description="Mutations.")
class Mutation:
    """Mutations."""

    @strawberry.mutation(description=f"Creates an alert. What is stored already does not fire it. {ALERTS}")
    async def create_alert(
        self, info: Info, alert: Annotated[AlertInput, strawberry.argument(description="The rule and its webhook.")]
    ) -> Alert:
        info.context.require_admin_token(even_if_unset=True)
        primary = info.context.resources.primary
        rule = alert.to_rule()
        await require_known_tickers(primary, [rule.ticker])
        async with primary.transaction() as connection:
            return Alert.from_record(await alerts.create(connection, rule, int(await clock.now(connection))))

    @strawberry.mutation(
        description=f"Deletes an alert, with the webhooks that are not delivered yet. Returns whether it existed. {ALERTS}"
    )
    async def delete_alert(self, info: Info, id: AlertId) -> bool:  # noqa: A002  the name of the argument
        info.context.require_admin_token(even_if_unset=True)
        return await alerts.delete(info.context.resources.primary, parse_alert_id(id))

    @strawberry.mutation(description=f"Mutes an alert, so that it delivers nothing, or unmutes it. {ALERTS}")
    async def mute_alert(
        self,
        info: Info,
        id: AlertId,  # noqa: A002  the name of the argument
        muted: Annotated[bool, strawberry.argument(description="Whether it is to be mute.")] = True,
    ) -> Alert:
        info.context.require_admin_token(even_if_unset=True)
        record = await alerts.set_muted(info.context.resources.primary, parse_alert_id(id), muted=muted)
        if record is None:
            raise BadInputError(f"id: there is no alert {id}")
        return Alert.from_record(record)

    @strawberry.mutation(
        description=f"Delivers a test webhook for an alert within a minute. Returns the id of the webhook. {ALERTS}"
    )
    async def test_alert(self, info: Info, id: AlertId) -> strawberry.ID:  # noqa: A002  the name of the argument
        info.context.require_admin_token(even_if_unset=True)
        delivery_id = await alerts.add_test(info.context.resources.primary, parse_alert_id(id))
        if delivery_id is None:
            raise BadInputError(f"id: there is no alert {id}")
        return strawberry.ID(delivery_id)

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
