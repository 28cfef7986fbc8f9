"""Alerts: rules whose webhooks the workers deliver."""

from decimal import Decimal
from enum import Enum
from typing import Annotated, Self

import strawberry
from strawberry import UNSET

from db import alert_rules
from db.pool import Record
from db.queries import alerts
from db.rows import AlertDirection as Direction
from db.rows import AlertFormat as Format
from db.rows import AlertKind as Kind
from graph.engine import limits
from graph.engine.field_rules import FieldRules, always, declare
from graph.errors import BadInputError
from graph.schema.arguments import parse_ticker, unset_to_none
from graph.schema.context import Info
from graph.schema.scalars import UnixTime

MAX_DELIVERIES = 100


@strawberry.enum(description="What an alert watches.")
class AlertKind(Enum):
    """What an alert watches."""

    CROSSES = strawberry.enum_value("CROSSES", description="The price of a minute crosses `level`.")
    MOVES = strawberry.enum_value("MOVES", description="The price moves by `percent` within `minutes`.")
    STALE = strawberry.enum_value("STALE", description="A tracked ticker has no newer price for `minutes`.")
    GAP = strawberry.enum_value("GAP", description="At least `minutes` minutes are missing.")
    STREAM_SILENT = strawberry.enum_value("STREAM_SILENT", description="A tracked ticker has no newer ticks for `minutes`.")
    DELIVERY_DIFFERS = strawberry.enum_value(
        "DELIVERY_DIFFERS", description="A delivery price differs from the mean of our own data by `percent`."
    )


@strawberry.enum(description="In which direction a price crosses a level.")
class AlertDirection(Enum):
    """In which direction a price crosses a level."""

    UP = strawberry.enum_value("UP", description="From below.")
    DOWN = strawberry.enum_value("DOWN", description="From above.")
    EITHER = strawberry.enum_value("EITHER", description="From either side.")


@strawberry.enum(description="The body of a webhook.")
class AlertFormat(Enum):
    """The body of a webhook."""

    STANDARD = strawberry.enum_value("STANDARD", description="An event of Standard Webhooks.")
    SLACK = strawberry.enum_value("SLACK", description="A message for an incoming webhook of Slack.")
    DISCORD = strawberry.enum_value("DISCORD", description="A message for a webhook of Discord.")
    NTFY = strawberry.enum_value("NTFY", description="The text alone, for a topic of ntfy.")


@strawberry.input(description="A rule, and where its webhook goes.")
class AlertInput:
    """A rule, and where its webhook goes."""

    kind: AlertKind = strawberry.field(description="What the alert watches. It decides which of the other fields are required.")
    ticker: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    url: str = strawberry.field(description="URL that receives the webhook by POST.")
    format: AlertFormat = strawberry.field(description="The body of the webhook.", default=AlertFormat.STANDARD)
    level: Decimal | None = strawberry.field(description="The price to cross.", default=UNSET)
    hysteresis: Decimal = strawberry.field(
        description="Distance from the level that the price must have, before it can cross the level again.",
        default_factory=lambda: Decimal(0),
    )
    direction: AlertDirection = strawberry.field(description="From which side.", default=AlertDirection.EITHER)
    percent: Decimal | None = strawberry.field(description="Smallest change in percent.", default=UNSET)
    minutes: int | None = strawberry.field(description="Number of minutes, 1 to 10,080.", default=UNSET)

    def to_rule(self) -> alert_rules.AlertRule:
        """Returns the rule. Raises BadInputError."""
        try:
            return alert_rules.AlertRule(
                kind=Kind(self.kind.name),
                ticker=parse_ticker(self.ticker),
                url=self.url,
                format=Format(self.format.name),
                level=unset_to_none(self.level),
                hysteresis=self.hysteresis,
                direction=Direction(self.direction.name),
                percent=unset_to_none(self.percent),
                minutes=unset_to_none(self.minutes),
            )
        except ValueError as error:
            raise BadInputError(str(error)) from None


@strawberry.type(description="A webhook that was delivered, or is to be delivered.")
class AlertDelivery:
    """A webhook that was delivered, or is to be delivered."""

    id: strawberry.ID = strawberry.field(description="The header `webhook-id`: the same for each attempt.")
    ts: UnixTime = strawberry.field(description="The minute of what happened.")
    text: str = strawberry.field(description="What happened.")
    created_at: UnixTime = strawberry.field(description="When it was decided.")
    attempts: int = strawberry.field(description="Number of attempts.")
    delivered_at: UnixTime | None = strawberry.field(description="When the receiver accepted it.")
    failed_at: UnixTime | None = strawberry.field(description="When the last attempt of about a day failed. Nothing follows.")
    error: str | None = strawberry.field(description="Why the last attempt failed.")

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Builds a delivery from a record of `db.queries.alerts`."""
        event = alerts.event_of(record)
        return cls(
            id=strawberry.ID(record["id"]),
            ts=UnixTime(event["ts"]),
            text=event["text"],
            created_at=UnixTime(record["created_at"]),
            attempts=record["attempts"],
            delivered_at=record["delivered_at"],
            failed_at=record["failed_at"],
            error=record["error"],
        )


@strawberry.type(description="A rule, and where its webhook goes. It fires once each time that it begins to hold.")
class Alert:
    """A rule, and where its webhook goes."""

    id: strawberry.ID = strawberry.field(description="Number of the alert.")
    kind: AlertKind = strawberry.field(description="What it watches.")
    ticker: str = strawberry.field(description="Deribit index name.")
    url: str = strawberry.field(description="URL of the webhook. It may contain a secret.")
    format: AlertFormat = strawberry.field(description="The body of the webhook.")
    level: Decimal | None = strawberry.field(description="The price to cross.")
    hysteresis: Decimal = strawberry.field(description="Distance from the level before it can be crossed again.")
    direction: AlertDirection = strawberry.field(description="From which side.")
    percent: Decimal | None = strawberry.field(description="Smallest change in percent.")
    minutes: int | None = strawberry.field(description="Number of minutes.")
    muted: bool = strawberry.field(description="Whether it delivers nothing.")
    created_at: UnixTime = strawberry.field(description="When it was created.")

    @strawberry.field(
        description="Its newest webhooks, the newest first.", metadata=declare(FieldRules(cost=limits.cost_of_first))
    )
    async def deliveries(
        self, info: Info, first: Annotated[int, strawberry.argument(description="Number of webhooks, 1 to 100.")] = 20
    ) -> list[AlertDelivery]:
        if not 1 <= first <= MAX_DELIVERIES:
            raise BadInputError(f"first ({first}) must be from 1 to {MAX_DELIVERIES}")
        found = await info.context.alert_deliveries(first).load(int(self.id))
        return [AlertDelivery.from_record(record) for record in found]

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Builds an alert from a record of `db.queries.alerts`."""
        return cls(
            id=strawberry.ID(str(record["id"])),
            kind=AlertKind[record["kind"]],
            ticker=record["ticker"],
            url=record["url"],
            format=AlertFormat[record["format"]],
            level=record["level"],
            hysteresis=record["hysteresis"],
            direction=AlertDirection[record["direction"]],
            percent=record["percent"],
            minutes=record["minutes"],
            muted=record["muted"],
            created_at=UnixTime(record["created_at"]),
        )


ALERT_LIST = declare(FieldRules(cost=limits.cost_of_alerts, changes_with_clock=always, is_secret=True))


def parse_alert_id(text: str) -> int:
    """Returns the number of an alert. Raises BadInputError."""
    if not (text.isascii() and text.isdigit() and len(text) < len("1" + "0" * 18)):
        raise BadInputError(f"id: {text[:40]!r} is not the id of an alert")
    return int(text)
