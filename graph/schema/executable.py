"""The schema that runs, and what clients are told of errors."""

import logging
from typing import Any

import strawberry
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext, ExecutionResult

from graph.engine.translation import told
from graph.schema.mutation import Mutation
from graph.schema.query import Query
from graph.schema.scalars import SCALARS

log = logging.getLogger(__name__)


class Schema(strawberry.Schema):
    """A schema whose errors have their `extensions.code`, and keep the inside of unexpected ones inside."""

    async def execute(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        result = await super().execute(*args, **kwargs)
        if result.errors:
            result.errors = [_coded(error) for error in result.errors]
        return result

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        pass  # a client's mistake is nothing to log; `_coded` logs ours


def _coded(error: GraphQLError) -> GraphQLError:
    cause = error.original_error
    known = told(cause)
    if known is not None:
        return GraphQLError(str(known), nodes=error.nodes, path=error.path, extensions=known.extensions)
    if isinstance(error, GraphQLSyntaxError):
        return _with_code(error, "GRAPHQL_PARSE_FAILED")
    if error.path is None:
        # Before anything ran: a value that a scalar refused, a variable that does not fit, or a document that is not valid.
        bad_value = isinstance(cause, ValueError) or error.message.startswith("Variable ")
        return _with_code(error, "BAD_USER_INPUT" if bad_value else "GRAPHQL_VALIDATION_FAILED")
    log.error("unexpected error at %s", ".".join(map(str, error.path)), exc_info=cause or error)
    return GraphQLError(
        "Something went wrong on our side.",
        nodes=error.nodes,
        path=error.path,
        extensions={"code": "INTERNAL_SERVER_ERROR"},
    )


def _with_code(error: GraphQLError, code: str) -> GraphQLError:
    error.extensions = {**(error.extensions or {}), "code": code}
    return error


def build() -> Schema:
    """The schema of the contract."""
    return Schema(
        query=Query,
        mutation=Mutation,
        config=StrawberryConfig(scalar_map=SCALARS),
        extensions=[ParserCache, ValidationCache],
    )
