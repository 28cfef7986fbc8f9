"""Rows as JSON text, built by PostgreSQL with the requested members under the requested names.

This is many times faster than objects in Python that are serialized afterwards. The text is a concatenation of columns and
constants. Constants are bound as parameters, so a statement depends only on its columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter

import orjson


@dataclass(frozen=True)
class Column:
    """SQL expression for the text of a value (never null), and the quotes around it in JSON."""

    sql: str
    quote: str = ""


@dataclass(frozen=True)
class ConstantMember:
    """A member with the same value in every row."""

    text: str


@dataclass(frozen=True)
class NestedRow:
    """A member that is a row of another table as a JSON object, or null if there is none.

    Its constants, quoted, are part of the statement. A client that chooses its keys only uses up statement caches, whose size
    is bounded.
    """

    shape: "Shape"
    source: str
    """`FROM … WHERE …` of the other row. In a fetched row, the name of a column that is None if there is no other row."""

    @property
    def sql(self) -> str:
        """SQL expression for the JSON text."""
        expressions, (begin, *rest) = self.shape.parts()
        text = _quote(begin) + "".join(f" || {sql} || {_quote(end)}" for sql, end in zip(expressions, rest, strict=True))
        return f"coalesce((SELECT {text} {self.source}), 'null')"

    def writer(self) -> Callable[[Mapping[str, str]], str]:
        """Returns a function that formats the other row of a fetched row. See `Shape.writer`."""
        write = self.shape.writer()
        return lambda row: "null" if row[self.source] is None else write(row)


@dataclass(frozen=True)
class Shape:
    """The members of a JSON object, in order."""

    members: tuple[tuple[str, Column | ConstantMember | NestedRow], ...]

    def parts(self) -> tuple[list[str], list[str]]:
        """Returns the SQL expressions of the n columns, and the n + 1 constant texts before, between and after them."""
        expressions, constants, pending = [], [], "{"
        for number, (key, value) in enumerate(self.members):
            pending += f"{',' if number else ''}{orjson.dumps(key).decode()}:"
            if isinstance(value, ConstantMember):
                pending += orjson.dumps(value.text).decode()
            else:
                quote = value.quote if isinstance(value, Column) else ""
                constants.append(pending + quote)
                expressions.append(value.sql)
                pending = quote
        return expressions, [*constants, pending + "}"]

    def writer(self) -> Callable[[Mapping[str, str]], str]:
        """Returns a function that formats a fetched row as JSON. The `sql` of each column is the name of a text in the row."""
        _, constants = self.parts()
        readers = [
            itemgetter(value.sql) if isinstance(value, Column) else value.writer()
            for _, value in self.members
            if not isinstance(value, ConstantMember)
        ]

        def write(row: Mapping[str, str]) -> str:
            return constants[0] + "".join([read(row) + constant for read, constant in zip(readers, constants[1:], strict=True)])

        return write


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Statement:
    """SQL, and the constants that follow its other parameters."""

    sql: str
    constants: list[str]


def build_list_statement(shape: Shape, first: int, wrap: Callable[[str], str]) -> Statement:
    """Builds a statement that returns rows as a JSON list; `[]` if there are none.

    `wrap` receives the SQL expression of the list and returns the statement. The constants are the parameters from
    `$first` on.
    """
    expressions, constants = shape.parts()
    begin, *between, end = constants if len(constants) > 1 else [constants[0], ""]
    # The end of a row and the start of the next are part of the separator, so they need no concatenation per row.
    bound = ["[" + begin, f"{end},{begin}", end + "]", *between]
    text = "''"
    if expressions:
        text = expressions[0]
        for number, expression in enumerate(expressions[1:]):
            text += f" || ${first + 3 + number}::text || {expression}"
    joined = f"coalesce(${first}::text || string_agg({text}, ${first + 1}::text) || ${first + 2}::text, '[]')"
    return Statement(wrap(joined), bound)


def build_object_statement(shape: Shape, first: int, wrap: Callable[[str], str]) -> Statement:
    """Builds a statement that returns a single row as a JSON object. See `build_list_statement`."""
    expressions, constants = shape.parts()
    text = f"${first}::text"
    for number, expression in enumerate(expressions):
        text += f" || {expression} || ${first + 1 + number}::text"
    return Statement(wrap(text), constants)


def iso_time_sql(second: str) -> str:
    """Returns SQL that formats an expression of UNIX seconds as `2024-01-15T11:40:00`, without the `Z`."""
    return f"to_char(to_timestamp({second}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')"
