"""What a field costs, and whether its value changes with the clock. Both are declared where the field is declared.

This module knows no field by name: `SchemaRules` reads the declarations from the metadata of the schema's fields.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import GraphQLObjectType, GraphQLSchema, OperationType, get_named_type

from graph.engine.json_fragments import Rows

Arguments = Mapping[str, Any]
"""The arguments of a field by name, not validated."""
Cost = Callable[[Arguments, int, int], int]
"""Returns the cost of a field from its arguments, the cost of one row below it, and the page size of the enclosing field."""

_KEY: Final = "field_rules"


def cost_of_one_row(_arguments: Arguments, row_cost: int, _page_size: int) -> int:
    """Returns the cost of a field that is not a list."""
    return row_cost


@dataclass(frozen=True)
class FieldRules:
    """The rules of a field."""

    cost: Cost = cost_of_one_row
    changes_with_clock: Callable[[Arguments, float], bool] | None = None
    """Returns whether the value can change without a commit, from the arguments and the time in UNIX seconds. None: never."""
    rows: Rows | None = None
    """The rows that the resolver reads as JSON, if `row_selection` allows it."""
    json_fields: tuple[str, ...] = ()
    """The child fields that the resolver always reads as JSON. Only a field with `rows` or `json_fields` can have a plan."""
    reads_window: bool = False
    """Whether the value, except fields that change with the clock, depends only on prices of `ticker` from `from` to `to`."""
    is_replaceable: bool = False
    """Whether a later commit can replace the value, although prices never change."""
    is_secret: bool = False
    """Whether only those who send the admin token may see the value, so that no cache may store it."""


def declare(rules: FieldRules) -> dict[Any, Any]:
    """Returns the metadata of a Strawberry field with these rules."""
    return {_KEY: rules}


def always(_arguments: Arguments, _now: float) -> bool:
    """For fields whose value always changes with the clock."""
    return True


_DEFAULT: Final = FieldRules()


class SchemaRules:
    """The rules of all fields of a schema."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self._fields: dict[tuple[str, str], tuple[FieldRules, str]] = {}
        self._declared: set[tuple[str, str]] = set()
        for type_name, found in schema.type_map.items():
            for name, field in found.fields.items() if isinstance(found, GraphQLObjectType) else ():
                definition = field.extensions.get("strawberry-definition")
                rules = definition.metadata.get(_KEY) if definition is not None else None
                self._fields[type_name, name] = (rules or _DEFAULT, get_named_type(field.type).name)
                if rules is not None:
                    self._declared.add((type_name, name))
        roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
        self._roots = {operation: root.name for operation, root in zip(OperationType, roots, strict=True) if root is not None}

    @property
    def declared(self) -> frozenset[tuple[str, str]]:
        """The fields that declare rules, as (type, field)."""
        return frozenset(self._declared)

    def root_type(self, operation: OperationType) -> str:
        """Returns the name of the type at the root of an operation; empty if the schema has none."""
        return self._roots.get(operation, "")

    def find(self, type_name: str, field_name: str) -> tuple[FieldRules, str]:
        """Returns the rules of a field and the name of its type. An unknown field, in an invalid document, costs one row."""
        return self._fields.get((type_name, field_name), (_DEFAULT, ""))
