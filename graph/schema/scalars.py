"""Scalars: the JSON form of times and numbers."""

from decimal import Decimal as PythonDecimal
from typing import NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

from db import times

UnixTime = NewType("UnixTime", int)
DateTime = NewType("DateTime", int)
"""UNIX microseconds in Python, text in JSON."""


def _format_date_time(microsecond: int) -> str:
    return times.iso(microsecond // 10**6) if microsecond % 10**6 == 0 else times.iso_us(microsecond)


def _parse_date_time(value: object) -> int:
    return times.parse(value) * 10**6


def _format_decimal(price: PythonDecimal) -> str:
    return f"{price:f}"


def _parse_decimal(value: object) -> PythonDecimal:
    try:
        number = PythonDecimal(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ArithmeticError:
        number = None
    if number is None or not number.is_finite():
        raise ValueError(f"{str(value)[:40]!r} is not a number; send a string like '68241.5'")
    return number


SCALARS: dict[object, ScalarDefinition] = {
    UnixTime: strawberry.scalar(
        name="UnixTime",
        description="An instant in UNIX seconds, as an integer. Input is such an integer or ISO 8601 "
        "(`2024-01-15T11:40:00Z`; UTC if it has no offset; fractions of a second are truncated). Output is always the "
        "integer. Years 1970 to 2200.",
        parse_value=times.parse,
    ),
    DateTime: strawberry.scalar(
        name="DateTime",
        description="An instant as ISO 8601 in UTC with `Z`, in seconds or microseconds: "
        "`2024-01-15T11:40:00Z`, `2024-01-15T11:40:00.123456Z`.",
        specified_by_url="https://scalars.graphql.org/andimarek/date-time",
        serialize=_format_date_time,
        parse_value=_parse_date_time,
    ),
    PythonDecimal: strawberry.scalar(
        name="Decimal",
        description="A number as a string in plain notation: no exponent, no trailing zeros. Prices have all other "
        "digits as received. `68241.5`.",
        serialize=_format_decimal,
        parse_value=_parse_decimal,
    ),
}
