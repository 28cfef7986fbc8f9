"""Pydantic models of the REST parameters and responses. They validate requests and define the OpenAPI document."""

import dataclasses
import datetime as dt
import re
import time
from typing import Annotated, Any, TypeVar, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.datastructures import QueryParams

from db import times
from db.queries.prices import JSON_COLUMNS
from db.queries.shapes import Shape
from db.rows import NAME_PATTERN, Source
from graph.engine.limits import MAX_RANGE_MINUTES, MAX_TICKERS
from graph.errors import BadInputError
from graph.http.problems import format_validation_error

MAX_PAGE_SIZE = 10_000
MAX_OFFSET = 10_000_000


_DATE = r"(19[7-9]\d|2[01]\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
YEARS = r"(19[7-9]\d|2[01]\d\d|2200)"


def _parse_instant(value: object) -> object:
    if isinstance(value, str):
        # A plus sign that was not percent-encoded arrives as a space.
        value = re.sub(r"(T\S*) (\d\d:?\d\d)$", r"\1+\2", value)
        # `times.parse` reads a text of digits as UNIX seconds only if it has nine or more, because eight can be a date.
        if re.fullmatch(r"-?\d{1,7}", value) or (re.fullmatch(r"\d{8}", value) and not re.fullmatch(_DATE, value)):
            value = int(value)
    return times.parse(value)


Instant = Annotated[
    int,
    BeforeValidator(_parse_instant),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": times.FIRST, "maximum": times.END - 1},
                {"type": "string", "format": "date-time", "pattern": f"^{YEARS}-"},
            ],
            "description": "UNIX seconds or ISO 8601 (UTC without an offset; a date alone means its midnight)",
        }
    ),
]


def _normalize_name(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


TickerName = Annotated[
    str,
    BeforeValidator(_normalize_name),
    Field(pattern=NAME_PATTERN),
    WithJsonSchema({"type": "string", "pattern": r"^\s*" + NAME_PATTERN.strip("^$").replace("a-z", "A-Za-z") + r"\s*$"}),
]


class Query(BaseModel):
    """Parameters of a query string. Unknown parameters are rejected."""

    model_config = ConfigDict(frozen=True)


Q = TypeVar("Q", bound=Query)

EXAMPLE_START = times.minute_of(time.time()) - 3_600
"""Start of the example windows: an hour before the start of the process, because a fresh installation has no older prices."""
EXAMPLE_END = EXAMPLE_START + 86_400


AsOf = Annotated[
    str | None,
    Field(
        pattern=r"^\d{1,18}$",
        description="data version to read, from GraphQL's `dataVersion`: the response is then the same at any time; "
        "default: the newest",
    ),
]


class TickerQuery(Query):
    """Selects one ticker."""

    ticker: TickerName = Field(description="Deribit index name", examples=["btc_usd"])
    as_of: AsOf = None


class PageQuery(TickerQuery):
    """Selects a page of prices, newest first."""

    limit: int = Field(1000, ge=1, le=MAX_PAGE_SIZE, description="maximum number of rows", examples=[100])
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="number of newest rows to skip", examples=[0])
    start_date: Instant | None = Field(
        None, description="only rows at or before this time, UNIX seconds or ISO 8601; default: now", examples=[EXAMPLE_END]
    )


class FilterQuery(TickerQuery):
    """Selects a window, both ends inclusive."""

    date_from: Instant | None = Field(
        None, description="start, inclusive; UNIX seconds or ISO 8601", examples=[times.iso(EXAMPLE_START)]
    )
    date_to: Instant | None = Field(
        None, description="end, inclusive; UNIX seconds or ISO 8601", examples=[times.iso(EXAMPLE_END)]
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_RANGE_MINUTES,
        description="maximum number of rows; default: all rows",
        examples=[1000],
    )


class RangeQuery(TickerQuery):
    """Selects a window, both ends inclusive."""

    from_ts: Instant | None = Field(None, description="start, inclusive; UNIX seconds or ISO 8601", examples=[EXAMPLE_START])
    to_ts: Instant | None = Field(None, description="end, inclusive; UNIX seconds or ISO 8601", examples=[EXAMPLE_END])
    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_RANGE_MINUTES,
        description="maximum number of rows; default: all rows, streamed",
        examples=[1000],
    )


class MinuteQuery(TickerQuery):
    """Selects a minute."""

    date: Instant = Field(description="any time within the minute, UNIX seconds or ISO 8601", examples=[1705318800])


def _parse_day(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("is not a valid day: use YYYY-MM-DD, for example 2024-01-15")
    try:
        day = dt.date.fromisoformat(value)
    except ValueError:
        raise ValueError("does not exist in the calendar: use an existing day, for example 2024-01-15") from None
    times.parse(value)
    return day


class DayQuery(TickerQuery):
    """Selects a day (UTC)."""

    date: Annotated[dt.date, BeforeValidator(_parse_day)] = Field(
        description="a day in UTC, YYYY-MM-DD", examples=["2024-01-15"], json_schema_extra={"pattern": f"^{YEARS}-"}
    )


class FetchQuery(Query):
    """Parameters of a fetch request."""

    ticker: list[TickerName] = Field(
        default_factory=list, max_length=MAX_TICKERS, description="tracked index names; none: all", examples=[["btc_usd"]]
    )


class Row(BaseModel):
    """The price of a minute."""

    model_config = ConfigDict(title="Price")

    id: int = Field(description="increases with every commit", examples=[42])
    ticker: str = Field(examples=["btc_usd"])
    price: str = Field(description="all digits as received, in plain notation", examples=["68241.5"])
    ts: int = Field(description="the minute, UNIX seconds", examples=[1705318800])
    created_at: str = Field(description="the minute, ISO 8601", json_schema_extra={"format": "date-time"})
    observed_at: str | None = Field(
        description="time of the exchange, ISO 8601; null if only the minute is known",
        examples=["2024-01-15T11:40:01.250000Z"],
    )
    source: Source = Field(examples=["LIVE"])


class Receipt(BaseModel):
    """The result of a fetch request."""

    ts: int = Field(description="the requested minute, UNIX seconds", examples=[1705318800])
    queued: bool = Field(description="false if the same fetch was requested before in this minute", examples=[True])
    tickers: list[str] = Field(description="the requested tickers; empty: all tracked tickers", examples=[["btc_usd"]])


class Freshness(BaseModel):
    """The age of a ticker's newest price."""

    ticker: str = Field(examples=["btc_usd"])
    tracked: bool = Field(examples=[True])
    ts: int | None = Field(description="its newest minute, UNIX seconds", examples=[1705318800])
    age_s: int | None = Field(description="seconds since that minute began", examples=[17])
    stale: bool = Field(examples=[False])


class Health(BaseModel):
    """The state of the API and its tickers."""

    status: str = Field(description="`ok`, `degraded` (see `warnings`) or `unavailable`", examples=["ok"])
    database: str = Field(description="`ok`, or the reason why it is unavailable", examples=["ok"])
    warnings: list[str] = Field(default_factory=list, description="problems that an operator must fix", examples=[[]])
    tickers: list[Freshness] = Field(default_factory=list)


class Problem(BaseModel):
    """An error in the format of RFC 9457; `detail` is the message for people."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["limit: 0 should be greater than or equal to 1"])
    code: str = Field(description="the error code, the same as `extensions.code` in GraphQL", examples=["BAD_USER_INPUT"])


ROW_SHAPE = Shape(
    (
        ("id", dataclasses.replace(JSON_COLUMNS["id"], quote="")),
        ("ticker", JSON_COLUMNS["ticker"]),
        ("price", JSON_COLUMNS["price"]),
        ("ts", JSON_COLUMNS["ts"]),
        ("created_at", JSON_COLUMNS["time"]),
        ("observed_at", JSON_COLUMNS["observed_us"]),
        ("source", JSON_COLUMNS["source"]),
    )
)
"""The columns with which PostgreSQL encodes a Row as JSON."""


def parse_query(model: type[Q], params: QueryParams) -> Q:
    """Validates a query string against a model. Raises BadInputError."""
    values: dict[str, Any] = {}
    fields = {field_info.alias or field: field_info for field, field_info in model.model_fields.items()}
    for name in params:
        if name not in fields:
            raise BadInputError(f"{name[:40]}: unknown parameter. Available parameters: {', '.join(fields)}")
    for name, field_info in fields.items():
        raw_values = params.getlist(name)
        is_list = get_origin(field_info.annotation) is list
        if len(raw_values) > 1 and not is_list:
            raise BadInputError(f"{name}: sent {len(raw_values)} times. Send it once.")
        if raw_values:
            values[name] = raw_values if is_list else raw_values[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadInputError(format_validation_error(error)) from error
