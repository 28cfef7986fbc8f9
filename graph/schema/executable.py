"""The schema that runs, and what clients are told of errors."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
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
from structlog.contextvars import get_contextvars

from db import tracing
from graph import metrics
from graph.engine import documents, limits
from graph.engine.documents import Document, Documents, InvalidError
from graph.engine.fair_lane import FairLane
from graph.engine.splicing import Executor
from graph.engine.topics import Event
from graph.engine.translation import told
from graph.errors import ApiError, InternalError, TooComplexError
from graph.schema.context import Context
from graph.schema.mutation import Mutation
from graph.schema.query import Query
from graph.schema.scalars import SCALARS
from graph.schema.subscription import Subscription

log = logging.getLogger(__name__)

BIG_FROM: Final = 20_000
"""Cost of an answer from which on it is big: a range of a week, say."""
BIG_AT_ONCE: Final = 3
ERRORS_MOST: Final = 5
"""Of one document: validation ends there."""
INVALID: Final = "GRAPHQL_VALIDATION_FAILED"


@dataclass(frozen=True)
class Prepared:
    """A request of which is known what it asks, and that it may."""

    document: Document
    variables: dict[str, Any]
    operation_name: str | None
    operation: OperationDefinitionNode
    cost: int

    @property
    def name(self) -> str | None:
        """The operation's, where it has one."""
        return self.operation.name.value if self.operation.name else None

    @property
    def is_subscription(self) -> bool:
        """Whether it has many answers."""
        return self.operation.operation is OperationType.SUBSCRIPTION


@dataclass(frozen=True)
class Subscribed:
    """The answers to a subscription: `begin`, the text of each event, and `END` are the JSON of one."""

    begin: str
    events: AsyncGenerator[Event, None]


END: Final = "}}"


class RefusedError(Exception):
    """Raised when a request was refused before anything of it was executed."""

    def __init__(self, *errors: GraphQLError | ApiError, code: str = INVALID) -> None:
        """`code` is for those that have none."""
        super().__init__(str(errors[0]))
        self.errors = [coded(error if isinstance(error, GraphQLError) else _of(error), code) for error in errors]
        _count(self.errors)
        self.code = _code(self.errors[0])


class Schema(strawberry.Schema):
    """The schema of the contract, whose errors have their `extensions.code`, and keep the inside of unexpected ones inside."""

    def __init__(self, *, introspection: bool = True) -> None:
        """Where it may not be asked for, nothing suggests its names."""
        super().__init__(
            query=Query,
            mutation=Mutation,
            subscription=Subscription,
            config=StrawberryConfig(scalar_map=SCALARS),
        )
        self._suggests = introspection
        rules = specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        self._names = metrics.Names()
        self._middleware = MiddlewareManager(_traced) if tracing.are_wanted() else None
        self._big = asyncio.Semaphore(BIG_AT_ONCE)
        self.digest = sha256(self.as_str().encode()).hexdigest()
        self._reading = FairLane()
        self.documents = Documents(lambda document: validate(self._schema, document, rules, ERRORS_MOST))

    async def prepare(self, text: str, variables: dict[str, Any], operation_name: str | None, context: Context) -> Prepared:
        """What is asked, and what it costs. Raises RefusedError where it is not to be answered.

        A document that is not known yet is charged for reading and validating it, before that is done, and waits for its turn.
        """
        with self._refusing():
            document = self.documents.get(text)
            if document is not None:
                prepared = self._prepared(document, variables, operation_name)
            else:
                prepared = await self._read(text, variables, operation_name, context)
        metrics.cost.observe(prepared.cost)
        return prepared

    async def _read(self, text: str, variables: dict[str, Any], operation_name: str | None, context: Context) -> Prepared:
        documents.require_short(text)
        context.spend(documents.cost_of_reading(text), paid=0)
        async with self._reading.turn(context.caller):
            document = self.documents.get(text)  # whoever had the turn before may have sent the same
            if document is not None:
                return self._prepared(document, variables, operation_name)
            document = Document(text)
            prepared = self._prepared(document, variables, operation_name)
            context.spend(document.cost, paid=0)
            self.documents.require_valid(document)
            return prepared

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (GraphQLError, TooComplexError) as error:
            raise self._refused(error) from error
        except InvalidError as invalid:
            raise self._refused(*invalid.errors) from invalid

    def _prepared(self, document: Document, variables: dict[str, Any], operation_name: str | None) -> Prepared:
        operation = document.operation(operation_name)
        cost = limits.cost_of(document.selections, operation, variables)
        limits.require_cheap(cost)
        return Prepared(document, variables, operation_name, operation, cost)

    async def answer(self, asked: Prepared, context: Context) -> ExecutionResult:
        """Answers a query or a mutation. Raises RefusedError where nothing was executed.

        Big answers wait for one another, so that small ones need not wait for them, and memory holds few of them.
        """
        if asked.cost < BIG_FROM:
            return await self._executed(asked, context)
        async with self._big:
            return await self._executed(asked, context)

    async def begin(self, asked: Prepared, context: Context) -> Subscribed:
        """Begins a subscription. Raises RefusedError where it cannot; its events raise ApiError or LeavingError."""
        executor = Executor.build(
            self._schema,
            asked.document.node,
            context_value=context,
            raw_variable_values=asked.variables,
            operation_name=asked.operation_name,
        )
        if isinstance(executor, list):
            raise self._refused(*executor, code="BAD_USER_INPUT")  # variables that do not fit
        begun: Any = create_source_event_stream(executor)
        stream = await begun if isawaitable(begun) else begun
        outcome = "error" if isinstance(stream, ExecutionResult) else "subscribed"
        metrics.operations.labels(self._names.of(asked.name), outcome).inc()
        if isinstance(stream, ExecutionResult):
            raise RefusedError(*(stream.errors or ()))
        field = asked.document.selections.fields(asked.operation.selection_set)[0]  # the only one, in a valid document
        return Subscribed(f'{{"data":{{"{(field.alias or field.name).value}":', stream)

    async def _executed(self, asked: Prepared, context: Context) -> ExecutionResult:
        began, name = time.perf_counter(), self._names.of(asked.name)
        # Without the hooks of Strawberry's extensions, of which we have none: they cost as much as a small query.
        answered = execute(
            self._schema,
            asked.document.node,
            variable_values=asked.variables,
            operation_name=asked.operation_name,
            context_value=context,
            executor_class=Executor,
            middleware=self._middleware,
        )
        result = await answered if isawaitable(answered) else answered
        if result.errors:
            if result.data is None and not any(error.path for error in result.errors):
                raise self._refused(*result.errors, code="BAD_USER_INPUT")  # variables that do not fit
            result.errors = [coded(error) for error in result.errors]
            _count(result.errors)
        metrics.operations.labels(name, "error" if result.errors else "ok").inc()
        metrics.operation_seconds.labels(name).observe(time.perf_counter() - began)
        return result

    def _refused(self, *errors: GraphQLError | ApiError, code: str = INVALID) -> RefusedError:
        for error in errors:
            if isinstance(error, GraphQLError):
                error.message = self._helped(error.message)
        return RefusedError(*errors, code=code)

    def _helped(self, message: str) -> str:
        """With the values of the enum that was missed; where the schema may not be asked for, without any name of it."""
        if not self._suggests:
            return re.sub(r" Did you mean .*", "", message, flags=re.DOTALL)
        named = re.search(r"Enum '(\w+)' cannot represent|does not exist in '(\w+)' enum", message)
        found = self._schema.get_type(named[1] or named[2]) if named else None
        return f"{message} Its values are {', '.join(found.values)}." if isinstance(found, GraphQLEnumType) else message


def _traced(resolve: Callable[..., Any], source: Any, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
    """A field that takes its time gets a span."""
    result = resolve(source, info, **arguments)
    if not isawaitable(result):
        return result

    async def resolved() -> Any:
        with tracing.span(f"{info.parent_type.name}.{info.field_name}"):
            return await result

    return resolved()


def _of(error: ApiError) -> GraphQLError:
    return GraphQLError(str(error), extensions=error.extensions)


def coded(error: GraphQLError, before: str = INVALID) -> GraphQLError:
    """The error with its code, and nothing of the inside; `before` is the code of what was wrong before anything ran."""
    if error.extensions and "code" in error.extensions:
        return error
    cause = error.original_error
    known = told(cause)
    if known is not None:
        return GraphQLError(str(known), nodes=error.nodes, path=error.path, extensions=known.extensions)
    if isinstance(error, GraphQLSyntaxError):
        return _with_code(error, "GRAPHQL_PARSE_FAILED")
    if error.path is not None and (cause is None or isinstance(cause, GraphQLError)):
        # What graphql-core refuses while it runs: a null for a directive's condition.
        return _with_code(error, "BAD_USER_INPUT")
    if error.path is None:
        # A scalar's own refusal is a value that cannot be, wherever it stands.
        return _with_code(error, "BAD_USER_INPUT" if isinstance(cause, ValueError) else before)
    log.error("unexpected error at %s", ".".join(map(str, error.path)), exc_info=cause or error)
    ours = InternalError(str(get_contextvars().get("request_id")))
    return GraphQLError(str(ours), nodes=error.nodes, path=error.path, extensions=ours.extensions)


def _code(error: GraphQLError) -> Any:
    return (error.extensions or {}).get("code")


def _count(told_of: Iterable[GraphQLError]) -> None:
    for error in told_of:
        metrics.refusals.labels(_code(error)).inc()


def _with_code(error: GraphQLError, code: str) -> GraphQLError:
    error.extensions = {**(error.extensions or {}), "code": code}
    return error
