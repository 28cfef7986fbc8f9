"""Rows as JSON text, made by PostgreSQL: only what was asked for, under the names it was asked for.

Python would need many times as long to make objects of the rows and text of the objects. The text is joined from the columns'
own text and constants; the constants are bound like any parameter, so a statement depends on the columns alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson


@dataclass(frozen=True)
class Column:
    """SQL that gives the text of a value, never null, and what stands around it in JSON."""

    sql: str
    quote: str = ""


@dataclass(frozen=True)
class Constant:
    """A member that is the same in every row."""

    text: str


@dataclass(frozen=True)
class Shape:
    """A JSON object's members in their order."""

    members: tuple[tuple[str, Column | Constant], ...]

    def parts(self) -> tuple[list[str], list[str]]:
        """SQL of the columns, and the constants before, between and after them: one more."""
        expressions, constants, pending = [], [], "{"
        for number, (key, value) in enumerate(self.members):
            pending += f"{',' if number else ''}{orjson.dumps(key).decode()}:"
            if isinstance(value, Constant):
                pending += orjson.dumps(value.text).decode()
            else:
                constants.append(pending + value.quote)
                expressions.append(value.sql)
                pending = value.quote
        return expressions, [*constants, pending + "}"]

    def writer(self) -> Callable[[Mapping[str, str]], str]:
        """Writes the object of a row that was read already, where the columns' SQL is names of the row's texts."""
        names, constants = self.parts()

        def write(row: Mapping[str, str]) -> str:
            return constants[0] + "".join([row[name] + after for name, after in zip(names, constants[1:], strict=True)])

        return write


@dataclass(frozen=True)
class Statement:
    """SQL with the constants that it is to be given after its other parameters."""

    sql: str
    constants: list[str]


def rows(shape: Shape, first: int, around: Callable[[str], str]) -> Statement:
    """A statement whose `around` is given an expression: the JSON list of the rows it stands over, `[]` where there are none.

    Its constants are the parameters from `$first` on.
    """
    expressions, constants = shape.parts()
    begin, *between, end = constants if len(constants) > 1 else [constants[0], ""]
    # What ends a row and begins the next stands between two rows anyway, so it costs a row nothing.
    bound = ["[" + begin, f"{end},{begin}", end + "]", *between]
    text = "''"
    if expressions:
        text = expressions[0]
        for number, expression in enumerate(expressions[1:]):
            text += f" || ${first + 3 + number}::text || {expression}"
    joined = f"coalesce(${first}::text || string_agg({text}, ${first + 1}::text) || ${first + 2}::text, '[]')"
    return Statement(around(joined), bound)


def one(shape: Shape, first: int, around: Callable[[str], str]) -> Statement:
    """The same for the JSON object of a single row."""
    expressions, constants = shape.parts()
    text = f"${first}::text"
    for number, expression in enumerate(expressions):
        text += f" || {expression} || ${first + 1 + number}::text"
    return Statement(around(text), constants)


def instant(second: str) -> str:
    """SQL that gives `2024-01-15T11:40:00` of an expression of UNIX seconds, without its `Z`."""
    return f"to_char(to_timestamp({second}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')"
