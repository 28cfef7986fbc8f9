"""What clients rely on stays: nothing goes, or changes its meaning, that was not deprecated in the last release.

`released.graphql` is the schema of the last release; a release copies `graph/schema.graphql` there.
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
NOW = (ROOT / "graph" / "schema.graphql").read_text()


class _WithoutDeprecated(Visitor):
    def enter(self, node: Any, *_: Any) -> Any:
        deprecated = any(one.name.value == "deprecated" for one in getattr(node, "directives", None) or ())
        return REMOVE if deprecated else None


def kept(released: str) -> GraphQLSchema:
    """A schema without what was deprecated in it."""
    return build_ast_schema(visit(parse(released), _WithoutDeprecated()))


def test_nothing_is_broken_that_was_released() -> None:
    assert [one.description for one in find_breaking_changes(kept(RELEASED), build_schema(NOW))] == []


def test_only_what_was_deprecated_may_go() -> None:
    now = build_schema("type Query { b: Int }")
    assert find_breaking_changes(kept('type Query { a: Int @deprecated(reason: "b") b: Int }'), now) == []
    (broken,) = find_breaking_changes(kept("type Query { a: Int b: Int }"), now)
    assert "a was removed" in broken.description
