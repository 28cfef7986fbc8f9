"""Deribit's responses, as documented at https://docs.deribit.com. Every field of the envelope may be missing."""

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter

from db import times

Number = Annotated[Decimal, Field(gt=0, allow_inf_nan=False, strict=True)]


class RpcError(BaseModel):
    """The `error` object of a JSON-RPC response."""

    code: int
    message: str = ""
    data: Any = None


class Envelope(BaseModel):
    """A JSON-RPC response with Deribit's additional fields. Times are in UNIX microseconds."""

    model_config = ConfigDict(frozen=True)

    result: Any = None
    error: RpcError | None = None
    us_out: Annotated[int | None, Strict()] = Field(None, alias="usOut", gt=0, lt=times.END * 10**6)
    testnet: bool = False


class IndexPrice(BaseModel):
    """Result of `get_index_price`. The estimate differs only in the 30 minutes before an expiry."""

    index_price: Number
    estimated_delivery_price: Any = None
    """Not validated here, because an invalid estimate must not invalidate the price."""


class DeliveryPrice(BaseModel):
    """An element of the result of `get_delivery_prices`."""

    date: dt.date
    delivery_price: Number


ChartData = TypeAdapter(list[tuple[Annotated[int, Strict()], Number]])
"""Result of `get_index_chart_data`: [[UNIX milliseconds, average], …], ascending."""

Names = TypeAdapter(Annotated[frozenset[Annotated[str, Strict()]], Field(min_length=1)])
"""Result of `get_supported_index_names`."""
