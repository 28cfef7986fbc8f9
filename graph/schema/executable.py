"""The schema that runs, and what clients are told of errors."""

import logging
from collections.abc import Iterator

import strawberry
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.extensions import ParserCache, SchemaExtension, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from db.errors import DatabaseUnavailableError, StatementTimeoutError
from graph.errors import ApiError, TimedOutError, UnavailableError
from graph.schema.query import Query
from graph.schema.scalars import SCALARS

log = logging.getLogger(__name__)


class CodedErrors(SchemaExtension):
    """Gives every error its `extensions.code`, and keeps the inside of unexpected ones inside."""

    def on_operation(self) -> Iterator[None]:
        yield
        result = self.execution_context.result
        errors = getattr(result, "errors", None)
        if errors:
            result.errors = [_coded(error) for error in errors]  # type: ignore[union-attr]  # it has errors


class Schema(strawberry.Schema):
    """A schema that leaves logging of errors to CodedErrors: a client's mistake is nothing to log."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        pass


def _coded(error: GraphQLError) -> GraphQLError:
    cause = error.original_error
    match cause:
        case ApiError():
            return error
        case DatabaseUnavailableError():
            return _told(error, UnavailableError("The database is away; try again in a moment."))
        case StatementTimeoutError():
            return _told(error, TimedOutError("The query took too long; ask for less."))
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


def _told(error: GraphQLError, told: ApiError) -> GraphQLError:
    return GraphQLError(str(told), nodes=error.nodes, path=error.path, extensions=told.extensions)


def _with_code(error: GraphQLError, code: str) -> GraphQLError:
    error.extensions = {**(error.extensions or {}), "code": code}
    return error


def build() -> Schema:
    """The schema of the contract."""
    return Schema(
        query=Query,
        config=StrawberryConfig(scalar_map=SCALARS),
        extensions=[CodedErrors, ParserCache, ValidationCache],
    )
