"""The executable schema, and the errors that clients receive."""

import argparse
import asyncio
import logging
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from inspect import isawaitable
from typing import Any, Final

import strawberry
from graphql import (
    ExecutionResult,
    GraphQLEnumType,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLSyntaxError,
    MiddlewareManager,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    OperationType,
    create_source_event_stream,
    execute,
    specified_rules,
    validate,
)
from strawberry.schema.config import StrawberryConfig
from strawberry.types.scalar import ScalarDefinition
from structlog.contextvars import get_contextvars

from db.runtime import tracing
from graph import metrics
from graph.engine import documents, limits
from graph.engine.client_errors import to_client_error
from graph.engine.documents import NO_LITERALS, Document, DocumentCache, InvalidDocumentError, Literals
from graph.engine.fair_lock import FairLock
from graph.engine.field_rules import SchemaRules
from graph.engine.json_fragments import JsonFragmentExecutionContext
from graph.engine.plans import Planner
from graph.engine.topics import Event
from graph.engine.trusted_documents import TrustedDocuments
from graph.errors import ApiError, AsOfTooOldError, InternalError, TooComplexError
from graph.schema.context import Context
from graph.schema.mutation import Mutation
from graph.schema.query import Query
from graph.schema.scalars import SCALARS
from graph.schema.subscription import Subscription

log = logging.getLogger(__name__)

LARGE_RESPONSE_COST: Final = 20_000
"""Minimum cost of a large response, such as a range of one week."""
MAX_CONCURRENT_LARGE_RESPONSES: Final = 3
MAX_VALIDATION_ERRORS: Final = 5
"""Validation of a document stops after this many errors."""
VALIDATION_FAILED: Final = "GRAPHQL_VALIDATION_FAILED"


@dataclass(frozen=True)
class PreparedOperation:
    """A valid operation that may be executed, and its cost."""

    document: Document
    text: str
    variables: dict[str, Any]
    """The variables of the request, and those that stand for literals of the text."""
    literals: Literals
    operation_name: str | None
    operation: OperationDefinitionNode
    cost: int

    @property
    def name(self) -> str | None:
        """The name of the operation; None if it has none."""
        return self.operation.name.value if self.operation.name else None

    @property
    def is_subscription(self) -> bool:
        """Whether the operation is a subscription."""
        return self.operation.operation is OperationType.SUBSCRIPTION


@dataclass(frozen=True)
class SubscriptionStream:
    """The responses to a subscription.

    The JSON of one response is `response_prefix`, the text of an event, and RESPONSE_SUFFIX.
    """

    response_prefix: str
    events: AsyncGenerator[Event, None]


RESPONSE_SUFFIX: Final = "}}"


class RequestRejectedError(Exception):
    """Raised when a request is rejected before its execution starts."""

    def __init__(self, *errors: GraphQLError | ApiError, code: str = VALIDATION_FAILED) -> None:
        """`code` is the code of errors that have none."""
        super().__init__(str(errors[0]))
        self.errors = to_graphql_errors(*errors, code=code)
        self.code = _error_code(self.errors[0])


class Schema(strawberry.Schema):
    """The API schema. Its errors have an `extensions.code`. Unexpected errors reveal no internal details."""

    query: type = Query
    scalars: dict[object, ScalarDefinition] = SCALARS

    def __init__(self, *, introspection: bool = True, trusted: TrustedDocuments | None = None) -> None:
        """Without `introspection`, introspection queries are rejected and error messages suggest no names of the schema.

        With `trusted`, only its documents are executed.
        """
        super().__init__(
            query=self.query,
            mutation=Mutation,
            subscription=Subscription,
            config=StrawberryConfig(scalar_map=self.scalars),
        )
        self._allows_introspection = introspection
        self.trusted = trusted
        self.field_rules = SchemaRules(self._schema)
        rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        self._operation_names = metrics.OperationNames()
        self._middleware = MiddlewareManager(_trace_field) if tracing.is_enabled() else None
        self._planner = None if tracing.is_enabled() else Planner(self._schema, self.field_rules)  # spans are per field
        self._large_responses = asyncio.Semaphore(MAX_CONCURRENT_LARGE_RESPONSES)
        self.digest = sha256(self.as_str().encode()).hexdigest()
        self._parse_lock = FairLock()
        self.documents = DocumentCache(
            self._schema, lambda document: validate(self._schema, document, rules, MAX_VALIDATION_ERRORS)
        )

    async def prepare(
        self, text: str, variables: dict[str, Any], operation_name: str | None, context: Context
    ) -> PreparedOperation:
        """Returns the operation of a request and its cost. Raises RequestRejectedError or RateLimitedError if it must not run.

        A document that is not cached waits for the parser. Its parsing and its validation are charged before they start.
        Raises ForbiddenError if the document is not trusted.
        """
        try:
            documents.check_length(text)
            if self.trusted is not None:
                self.trusted.require(text)
            prepared = self._find_cached(text, variables, operation_name) or await self._parse_and_validate(
                text, variables, operation_name, context
            )
        except (GraphQLError, TooComplexError) as error:
            raise self._build_rejection(error) from error
        except InvalidDocumentError as invalid:
            raise self._build_rejection(*invalid.errors) from invalid
        metrics.cost.observe(prepared.cost)
        return prepared

    async def _parse_and_validate(
        self, text: str, variables: dict[str, Any], operation_name: str | None, context: Context
    ) -> PreparedOperation:
        context.charge(documents.parse_cost(text), already_charged=0)
        async with self._parse_lock.acquire(context.caller):
            if cached := self._find_cached(text, variables, operation_name):  # another request may have cached it meanwhile
                return cached
            document = Document(text, self.field_rules)
            prepared = self._build_operation(document, text, variables, operation_name)
            context.charge(document.cost, already_charged=0)
            self.documents.validate_and_cache(document)
            return prepared

    def _find_cached(self, text: str, variables: dict[str, Any], operation_name: str | None) -> PreparedOperation | None:
        cached = self.documents.get(text)
        if cached is None:
            return None
        document, literals = cached
        return self._build_operation(document, text, {**variables, **literals.raw}, operation_name, literals)

    def _build_operation(
        self,
        document: Document,
        text: str,
        variables: dict[str, Any],
        operation_name: str | None,
        literals: Literals = NO_LITERALS,
    ) -> PreparedOperation:
        operation = document.operation(operation_name)
        cost = limits.estimate_cost(document.selections, operation, variables)
        limits.check_cost(cost)
        return PreparedOperation(document, text, variables, literals, operation_name, operation, cost)

    async def execute_operation(self, prepared: PreparedOperation, context: Context) -> ExecutionResult:
        """Executes a query or a mutation. Raises RequestRejectedError if there is no response to return.

        Only a few large responses run at the same time, so that small ones do not wait and memory holds few large ones.
        """
        async with nullcontext() if prepared.cost < LARGE_RESPONSE_COST else self._large_responses:
            result = await self._run_operation(prepared, context)
        try:
            await context.require_snapshots_retained()
        except AsOfTooOldError as error:
            raise RequestRejectedError(error) from error
        return result

    async def start_subscription(self, prepared: PreparedOperation, context: Context) -> SubscriptionStream:
        """Starts a subscription. The event generator raises ApiError, DatabaseError or ShuttingDownError.

        Raises RequestRejectedError if the subscription cannot start.
        """
        executor = JsonFragmentExecutionContext.build(
            self._schema,
            prepared.document.node,
            context_value=context,
            raw_variable_values=prepared.variables,
            operation_name=prepared.operation_name,
        )
        if isinstance(executor, list):
            errors = prepared.document.relocate(executor, prepared.text)
            raise self._build_rejection(*errors, code="BAD_USER_INPUT")  # invalid variables
        pending: Any = create_source_event_stream(executor)
        stream = await pending if isawaitable(pending) else pending
        outcome = "error" if isinstance(stream, ExecutionResult) else "subscribed"
        self._operation_names.record(prepared.name, outcome, None)
        if isinstance(stream, ExecutionResult):
            raise RequestRejectedError(*prepared.document.relocate(stream.errors or (), prepared.text))
        field = prepared.document.selections.fields(prepared.operation.selection_set)[0]  # the only one, in a valid document
        return SubscriptionStream(f'{{"data":{{"{(field.alias or field.name).value}":', stream)

    async def _run_operation(self, prepared: PreparedOperation, context: Context) -> ExecutionResult:
        started_at = time.perf_counter()
        plan = self._planner.find(prepared.document, prepared.operation, prepared.variables) if self._planner else None
        result = await plan.run(context, prepared.variables, prepared.literals.coerced) if plan else None
        if result is None:
            # Bypasses the hooks of Strawberry's extensions, which are not used: they take as long as a small query.
            execution = execute(
                self._schema,
                prepared.document.node,
                variable_values=prepared.variables,
                operation_name=prepared.operation_name,
                context_value=context,
                executor_class=JsonFragmentExecutionContext,
                middleware=self._middleware,
            )
            result = await execution if isawaitable(execution) else execution
        if result.errors:
            result.errors = prepared.document.relocate(result.errors, prepared.text)
            if result.data is None and not any(error.path for error in result.errors):
                raise self._build_rejection(*result.errors, code="BAD_USER_INPUT")  # invalid variables
            result.errors = [with_error_code(error) for error in result.errors]
            _count_errors(result.errors)
        self._operation_names.record(prepared.name, "error" if result.errors else "ok", time.perf_counter() - started_at)
        return result

    def _build_rejection(self, *errors: GraphQLError | ApiError, code: str = VALIDATION_FAILED) -> RequestRejectedError:
        for error in errors:
            if isinstance(error, GraphQLError):
                error.message = self._edit_suggestions(error.message)
        return RequestRejectedError(*errors, code=code)

    def _edit_suggestions(self, message: str) -> str:
        """Adds the valid values to an error about an enum. Without introspection, removes suggested names instead."""
        if not self._allows_introspection:
            return re.sub(r" Did you mean .*", "", message, flags=re.DOTALL)
        named = re.search(r"Enum '(\w+)' cannot represent|does not exist in '(\w+)' enum", message)
        found = self._schema.get_type(named[1] or named[2]) if named else None
        return f"{message} Its values are {', '.join(found.values)}." if isinstance(found, GraphQLEnumType) else message


def _trace_field(resolve: Callable[..., Any], source: Any, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
    """Creates a trace span for each asynchronous field."""
    result = resolve(source, info, **arguments)
    if not isawaitable(result):
        return result

    async def resolve_in_span() -> Any:
        with tracing.span(f"{info.parent_type.name}.{info.field_name}"):
            return await result

    return resolve_in_span()


def to_graphql_errors(*errors: GraphQLError | ApiError, code: str = VALIDATION_FAILED) -> list[GraphQLError]:
    """Returns the errors as clients receive them, and counts them. `code` is the code of errors that have none."""
    found = [
        with_error_code(error, code)
        if isinstance(error, GraphQLError)
        else GraphQLError(str(error), extensions=error.extensions)
        for error in errors
    ]
    _count_errors(found)
    return found


def with_error_code(error: GraphQLError, default_code: str = VALIDATION_FAILED) -> GraphQLError:
    """Returns the error with a code and without internal details.

    `default_code` is the code of errors that occur before execution and have none.
    """
    if error.extensions and "code" in error.extensions:
        return error
    cause = error.original_error
    client_error = to_client_error(cause)
    if client_error is not None:
        return _replace_message(error, client_error)
    if isinstance(error, GraphQLSyntaxError):
        return _set_code(error, "GRAPHQL_PARSE_FAILED")
    if error.path is not None and (cause is None or isinstance(cause, GraphQLError)):
        # graphql-core rejects some values only during execution: null as the condition of a directive.
        return _set_code(error, "BAD_USER_INPUT")
    if error.path is None:
        # A scalar raises ValueError for an invalid value, in a literal and in a variable.
        return _set_code(error, "BAD_USER_INPUT" if isinstance(cause, ValueError) else default_code)
    log.error("unexpected error at %s", ".".join(map(str, error.path)), exc_info=cause or error)
    internal_error = InternalError(str(get_contextvars().get("request_id")))
    return _replace_message(error, internal_error)


def _replace_message(error: GraphQLError, replacement: ApiError) -> GraphQLError:
    return GraphQLError(
        str(replacement), source=error.source, positions=error.positions, path=error.path, extensions=replacement.extensions
    )


def _error_code(error: GraphQLError) -> Any:
    return (error.extensions or {}).get("code")


def _count_errors(errors: Iterable[GraphQLError]) -> None:
    for error in errors:
        metrics.rejected_requests.labels(_error_code(error)).inc()


def _set_code(error: GraphQLError, code: str) -> GraphQLError:
    error.extensions = {**(error.extensions or {}), "code": code}
    return error


def print_schema(_options: argparse.Namespace) -> int:
    """`schema`."""
    sys.stdout.write(f"{Schema().as_str()}\n")
    return 0
