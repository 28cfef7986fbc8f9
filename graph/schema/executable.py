"""The schema that runs, and what clients are told of errors."""

import logging
import re
from collections.abc import Iterator
from typing import Any

import strawberry
from graphql import GraphQLError, GraphQLSyntaxError, OperationType
from strawberry.extensions import DisableIntrospection, SchemaExtension, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext, ExecutionResult

from graph.engine import documents, limits
from graph.engine.translation import told
from graph.errors import ApiError, MethodError, TooComplexError
from graph.schema.context import Context
from graph.schema.mutation import Mutation
from graph.schema.query import Query
from graph.schema.scalars import SCALARS

log = logging.getLogger(__name__)


class Parsed(SchemaExtension):
    """Takes the document from where it was parsed before."""

    def on_parse(self) -> Iterator[None]:
        """Before Strawberry would parse it."""
        text = self.execution_context.query
        if text:
            self.execution_context.graphql_document = documents.parsed(text)
        yield


class Schema(strawberry.Schema):
    """A schema whose errors have their `extensions.code`, and keep the inside of unexpected ones inside."""

    suggests = True
    """Whether errors may name what could have been meant."""

    async def answer(
        self, text: str, variables: dict[str, Any], operation_name: str | None, context: Context, *, only_queries: bool = False
    ) -> tuple[ExecutionResult, int]:
        """Answers a query or a mutation, and tells its cost. Raises RefusedError where nothing was executed."""
        try:
            document = documents.parsed(text)
            operation = documents.operation_of(document, operation_name)
            cost = limits.cost_of(document, operation, variables)
            limits.require_cheap(cost)
        except (GraphQLError, TooComplexError) as error:
            raise RefusedError([coded(error if isinstance(error, GraphQLError) else _of(error))]) from error
        if only_queries and operation.operation is not OperationType.QUERY:
            raise MethodError("By GET only queries are answered: send a mutation by POST", {"Allow": "POST"})
        if operation.operation is OperationType.SUBSCRIPTION:
            raise RefusedError([coded(GraphQLError("There is nothing to subscribe to"))])
        result = await self.execute(text, variable_values=variables, operation_name=operation_name, context_value=context)
        if result.data is None and result.errors and not any(error.path for error in result.errors):
            raise RefusedError(result.errors)
        return result, cost

    async def execute(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        result = await super().execute(*args, **kwargs)
        if result.errors:
            result.errors = [coded(error) for error in result.errors]
            if not self.suggests:
                for error in result.errors:
                    error.message = re.sub(r" Did you mean .*", "", error.message)
        return result

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        pass  # a client's mistake is nothing to log; `coded` logs ours


class RefusedError(Exception):
    """Raised when a request was refused before anything of it was executed."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


def _of(error: ApiError) -> GraphQLError:
    return GraphQLError(str(error), extensions=error.extensions)


def coded(error: GraphQLError) -> GraphQLError:
    """The error with its code, and nothing of the inside."""
    if error.extensions and "code" in error.extensions:
        return error
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


def build(*, introspection: bool = True) -> Schema:
    """The schema of the contract; where it may not be asked for, nothing suggests its names."""
    schema = Schema(
        query=Query,
        mutation=Mutation,
        config=StrawberryConfig(scalar_map=SCALARS),
        extensions=[Parsed, *([] if introspection else [DisableIntrospection]), ValidationCache],
    )
    schema.suggests = introspection
    return schema
