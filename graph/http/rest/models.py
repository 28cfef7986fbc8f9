"""Parameters and answers as pydantic models: they validate, and the OpenAPI document is made from them."""

import dataclasses
import datetime as dt
import re
from typing import Annotated, Any, TypeVar, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.datastructures import QueryParams

from db import times
from db.queries.prices import AS_TEXT
from db.queries.shapes import Shape
from db.tables import NAME, Source
from graph.engine.limits import RANGE_MOST, TICKERS_MOST
from graph.errors import BadInputError
from graph.http.problems import complaint

PAGE_MOST = 10_000
OFFSET_MOST = 10_000_000


YEARS = r"(19[7-9]\d|2[01]\d\d|2200)"


def _instant(value: object) -> object:
    if isinstance(value, str):
        # A plus sign that was not percent-encoded arrives as a space.
        value = re.sub(r"(T\S*) (\d\d:?\d\d)$", r"\1+\2", value)
        if re.fullmatch(r"-?\d{1,7}", value):
            value = int(value)
    return times.parse(value)


Instant = Annotated[
    int,
    BeforeValidator(_instant),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": times.FIRST, "maximum": times.END - 1},
                {"type": "string", "format": "date-time", "pattern": f"^{YEARS}-"},
            ],
            "description": "UNIX seconds or ISO 8601 (UTC where it has no offset; a bare date is its midnight)",
        }
    ),
]


def _canonical(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Name = Annotated[
    str,
    BeforeValidator(_canonical),
    Field(pattern=NAME),
    WithJsonSchema({"type": "string", "pattern": r"^\s*" + NAME.strip("^$").replace("a-z", "A-Za-z") + r"\s*$"}),
]


class Query(BaseModel):
    """Parameters of a query string; others are refused."""

    model_config = ConfigDict(frozen=True)


Q = TypeVar("Q", bound=Query)


class TickerQuery(Query):
    """One ticker."""

    ticker: Name = Field(description="Deribit index name", examples=["btc_usd"])


class PageQuery(TickerQuery):
    """A page of the newest prices."""

    limit: int = Field(1000, ge=1, le=PAGE_MOST, description="most rows to answer", examples=[100])
    offset: int = Field(0, ge=0, le=OFFSET_MOST, description="newest rows to leave out", examples=[0])
    start_date: Instant | None = Field(
        None, description="rows at or before it, UNIX seconds or ISO 8601; default now", examples=[1705318800]
    )


class FilterQuery(TickerQuery):
    """A window, both ends in it."""

    date_from: Instant | None = Field(
        None, description="first instant, itself in; UNIX seconds or ISO 8601", examples=["2024-01-15T11:40:00Z"]
    )
    date_to: Instant | None = Field(
        None, description="last instant, itself in; UNIX seconds or ISO 8601", examples=["2024-01-15T12:40:00Z"]
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=RANGE_MOST,
        description="most rows to answer; without it all there are, sent as they are read",
        examples=[1000],
    )


class RangeQuery(TickerQuery):
    """A window, both ends in it."""

    from_ts: Instant | None = Field(
        None, description="first second, itself in; UNIX seconds or ISO 8601", examples=[1705318800]
    )
    to_ts: Instant | None = Field(None, description="last second, itself in; UNIX seconds or ISO 8601", examples=[1705322400])
    limit: int | None = Field(
        None,
        ge=1,
        le=RANGE_MOST,
        description="most rows to answer; without it all there are, sent as they are read",
        examples=[1000],
    )


class MomentQuery(TickerQuery):
    """A minute."""

    date: Instant = Field(description="an instant of the minute, UNIX seconds or ISO 8601", examples=[1705318800])


def _day(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("write a day like 2024-01-15")
    try:
        day = dt.date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such day; write one like 2024-01-15") from None
    times.parse(value)
    return day


class DayQuery(TickerQuery):
    """A day."""

    date: Annotated[dt.date, BeforeValidator(_day)] = Field(
        description="a day in UTC, YYYY-MM-DD", examples=["2024-01-15"], json_schema_extra={"pattern": f"^{YEARS}-"}
    )


class FetchQuery(Query):
    """What to ask the workers for."""

    ticker: list[Name] = Field(
        default_factory=list, max_length=TICKERS_MOST, description="tracked index names; none: all", examples=[["btc_usd"]]
    )


class Row(BaseModel):
    """A price of a minute."""

    model_config = ConfigDict(title="Price")

    id: int = Field(description="grows with every commit", examples=[42])
    ticker: str = Field(examples=["btc_usd"])
    price: str = Field(description="every digit as received, plain notation", examples=["68241.5"])
    ts: int = Field(description="the minute, UNIX seconds", examples=[1705318800])
    created_at: str = Field(
        description="the minute, ISO 8601", json_schema_extra={"format": "date-time"}, examples=["2024-01-15T11:40:00Z"]
    )
    observed_at: str | None = Field(
        description="when the exchange said it; null where only the minute is known",
        examples=["2024-01-15T11:40:01.250000Z"],
    )
    source: Source = Field(examples=["LIVE"])


class Receipt(BaseModel):
    """What became of a wish for prices."""

    ts: int = Field(description="the minute asked for, UNIX seconds", examples=[1705318800])
    queued: bool = Field(description="false where the same was asked for in this minute", examples=[True])
    tickers: list[str] = Field(description="those asked for; empty: all that are tracked", examples=[["btc_usd"]])


class Freshness(BaseModel):
    """How fresh a ticker is."""

    ticker: str = Field(examples=["btc_usd"])
    tracked: bool = Field(examples=[True])
    ts: int | None = Field(description="its newest minute, UNIX seconds", examples=[1705318800])
    age_s: int | None = Field(description="seconds since that minute began", examples=[17])
    stale: bool = Field(examples=[False])


class Health(BaseModel):
    """Whether the API can answer."""

    status: str = Field(description="`ok`, `degraded` (see `warnings`) or `unavailable`", examples=["ok"])
    database: str = Field(description="`ok`, or what is wrong with it", examples=["ok"])
    warnings: list[str] = Field(default_factory=list, description="what an operator should see to", examples=[[]])
    tickers: list[Freshness] = Field(default_factory=list)


class Problem(BaseModel):
    """What was wrong, as RFC 9457 has it; `detail` is what a person reads."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["limit: 0 should be greater than or equal to 1"])
    code: str = Field(description="the same as GraphQL's extensions.code", examples=["BAD_USER_INPUT"])


SHAPE = Shape(
    (
        ("id", dataclasses.replace(AS_TEXT["id"], quote="")),
        ("ticker", AS_TEXT["ticker"]),
        ("price", AS_TEXT["price"]),
        ("ts", AS_TEXT["ts"]),
        ("created_at", AS_TEXT["time"]),
        ("observed_at", AS_TEXT["observed_us"]),
        ("source", AS_TEXT["source"]),
    )
)
"""A Row as PostgreSQL writes it."""


def validated(model: type[Q], sent: QueryParams) -> Q:
    """The parameters of a query string as the model has them. Raises BadInputError."""
    values: dict[str, Any] = {}
    fields = {field_info.alias or field: field_info for field, field_info in model.model_fields.items()}
    for name in sent:
        if name not in fields:
            raise BadInputError(f"{name[:40]}: is no parameter here; known are {', '.join(fields)}")
    for name, field_info in fields.items():
        given = sent.getlist(name)
        many = get_origin(field_info.annotation) is list
        if len(given) > 1 and not many:
            raise BadInputError(f"{name}: came {len(given)} times; send it once")
        if given:
            values[name] = given if many else given[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadInputError(complaint(error)) from error
