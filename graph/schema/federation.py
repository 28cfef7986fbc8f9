"""The schema as an Apollo Federation 2 subgraph: a gateway joins it with other services by the name of a ticker."""

import re
from functools import cache
from typing import Annotated, Any, Final, NewType

import strawberry

from db.queries import tickers
from db.rows import NAME_PATTERN
from graph.engine.field_rules import FieldRules, always, declare
from graph.engine.limits import MAX_TICKERS, cost_of_list
from graph.errors import BadInputError
from graph.schema.context import Info
from graph.schema.executable import Schema
from graph.schema.query import Query
from graph.schema.types import Ticker

LINK: Final = 'extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key", "@shareable"])'
DIRECTIVES: Final = {"Ticker": '@key(fields: "name")', "PageInfo": "@shareable"}
"""The directives of types in the SDL for the gateway."""

Representation = NewType("Representation", object)
Entity = Annotated[Ticker, strawberry.union("_Entity")]


@cache
def build_sdl() -> str:
    """Returns the SDL from which a gateway composes its schema."""
    sdl = Schema().as_str()
    for name, directive in DIRECTIVES.items():
        sdl = sdl.replace(f"\ntype {name} {{", f"\ntype {name} {directive} {{")
    return f"{LINK}\n\n{sdl}\n"


@strawberry.type(name="_Service", description="The service, for a gateway.")
class Service:
    """The service, for a gateway."""

    sdl: str = strawberry.field(description="The schema with the directives of Federation.")


@strawberry.type(name="Query", description="Queries.")
class SubgraphQuery(Query):
    """Queries, with those of a gateway."""

    @strawberry.field(name="_service", description="The schema with the directives of Federation.")
    def service(self) -> Service:
        return Service(sdl=build_sdl())

    @strawberry.field(
        name="_entities",
        description="The tickers with the names that a gateway asks for, in their order; null for unknown ones.",
        metadata=declare(FieldRules(cost=cost_of_list("representations"), changes_with_clock=always)),
    )
    async def entities(self, info: Info, representations: list[Representation]) -> list[Entity | None]:
        if len(representations) > MAX_TICKERS:
            raise BadInputError(f"representations: {len(representations)} exceed the maximum of {MAX_TICKERS}")
        names = [_name_of(one) for one in representations]
        now, stale_after_s = info.context.now(), info.context.resources.stale_after_s
        found = {one["name"]: one for one in await tickers.get_tickers(info.context.db, names, now)}
        return [Ticker.from_record(found[name], now, stale_after_s) if name in found else None for name in names]


def _name_of(value: Any) -> str:
    """Returns the name in a representation; "" if it cannot be one of a ticker. Raises BadInputError."""
    if not isinstance(value, dict) or value.get("__typename") != "Ticker" or not isinstance(value.get("name"), str):
        raise BadInputError(f'representations: {str(value)[:80]} is not like {{__typename: "Ticker", name: "btc_usd"}}')
    name = value["name"].strip().lower()
    return name if re.fullmatch(NAME_PATTERN, name) else ""


class Subgraph(Schema):
    """The API schema with the fields that a gateway needs."""

    query = SubgraphQuery
    scalars = Schema.scalars | {
        Representation: strawberry.scalar(
            name="_Any", description="An object with `__typename` and the fields of a key.", serialize=lambda value: value
        )
    }
