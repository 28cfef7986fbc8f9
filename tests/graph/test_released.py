"""The schema is backward compatible: only parts that the last release deprecated may be removed or changed.

`released.graphql` is the schema of the last release. Each release copies `graph/schema.graphql` there.
"""

from pathlib import Path
from typing import Any

from graphql import (
    REMOVE,
    GraphQLSchema,
    Visitor,
    build_ast_schema,
    build_schema,
    find_breaking_changes,
    parse,
    visit,
)

from tests.conftest import ROOT

RELEASED = (Path(__file__).parent / "released.graphql").read_text()
CURRENT = (ROOT / "graph" / "schema.graphql").read_text()


class _DeprecatedRemover(Visitor):
    def enter(self, node: Any, *_: Any) -> Any:
        deprecated = any(one.name.value == "deprecated" for one in getattr(node, "directives", None) or ())
        return REMOVE if deprecated else None


def without_deprecated(released: str) -> GraphQLSchema:
    """Returns the schema without its deprecated parts."""
    return build_ast_schema(visit(parse(released), _DeprecatedRemover()))


def test_the_schema_breaks_nothing_that_was_released() -> None:
    assert [one.description for one in find_breaking_changes(without_deprecated(RELEASED), build_schema(CURRENT))] == []


def test_only_deprecated_fields_may_be_removed() -> None:
    current = build_schema("type Query { b: Int }")
    assert find_breaking_changes(without_deprecated('type Query { a: Int @deprecated(reason: "b") b: Int }'), current) == []
    (breaking_change,) = find_breaking_changes(without_deprecated("type Query { a: Int b: Int }"), current)
    assert "a was removed" in breaking_change.description
