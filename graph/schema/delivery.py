"""The type DeliveryPrice: the exchange's delivery price of a day, and a mean to compare it with."""

from decimal import Decimal
from enum import Enum
from typing import Self

import strawberry

from db.pool import Record
from graph.schema.scalars import UnixTime


@strawberry.enum(description="What the mean before a delivery was computed from.")
class DeliveryBasis(Enum):
    """What the mean before a delivery was computed from."""

    RANGE = strawberry.enum_value("RANGE", description="The ticks of 30 minutes that were watched completely.")
    CHART = strawberry.enum_value(
        "CHART", description="Deribit's chart, with points at most a minute apart. It checks nothing that is stored."
    )


@strawberry.type(
    description="Deribit's delivery price of a day: the mean of the index over the 30 minutes before 08:00 UTC. With `basis: "
    "RANGE`, the mean of Tickgraph's own ticks over the same minutes is a daily check of what is stored."
)
class DeliveryPrice:
    """The exchange's delivery price of a day, and a mean to compare it with."""

    ticker: str = strawberry.field(description="Deribit index name, like `btc_usd`.")
    ts: UnixTime = strawberry.field(description="The delivery: 08:00 UTC of the day.")
    price: Decimal = strawberry.field(description="As Deribit published it.")
    mean: Decimal | None = strawberry.field(
        description="Mean over the same 30 minutes, to 12 decimal places: of Tickgraph's ticks or of Deribit's chart; null if "
        "neither covers them."
    )
    basis: DeliveryBasis | None = strawberry.field(description="What the mean was computed from; null without a mean.")
    difference_bps: float | None = strawberry.field(
        description="`mean` minus `price`, in basis points of `price`; null without a mean."
    )

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Builds the type from a record of `db.queries.delivery_prices`."""
        return cls(
            ticker=record["ticker"],
            ts=UnixTime(record["ts"]),
            price=record["price"],
            mean=record["mean"],
            basis=None if record["basis"] is None else DeliveryBasis[record["basis"]],
            difference_bps=record["difference_bps"],
        )
