"""Plans: run an operation without graphql-core's executor if PostgreSQL writes the JSON of all its root fields.

A plan holds what the executor would derive from the document again in each request: fields, selected columns, constant
arguments. It calls the same resolvers, and the response has the same bytes. All other operations run in the executor.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import orjson
from graphql import (
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    VariableDefinitionNode,
    get_argument_values,
    get_named_type,
    get_variable_values,
    is_non_null_type,
    located_error,
)
from graphql.execution.values import VariableValues

from graph.engine.documents import Document
from graph.engine.field_rules import SchemaRules
from graph.engine.json_fragments import FieldSelection, JsonFragment, response_key, row_selection, selected_fields
from graph.engine.selection import find_variables, variables_of

MAX_PLANS: Final = 8
"""Maximum plans of a document: one per operation and combination of its @skip and @include variables. Others are executed."""

Arguments = dict[str, Any]


@dataclass(frozen=True)
class ResolverInfo:
    """The part of `strawberry.Info` that the resolvers of planned fields use."""

    context: Any
    _raw_info: FieldSelection


@dataclass(frozen=True)
class PlannedField:
    """A root field of a plan."""

    key: str
    definition: GraphQLField
    selection: FieldSelection
    resolve: Callable[..., Awaitable[Any]]
    argument_names: Mapping[str, str]
    """The name of each argument in the resolver."""
    constant_arguments: Arguments | None
    """None if an argument contains a variable."""
    members: tuple[tuple[bytes, str], ...] | None
    """For an object: the encoded key and the attribute of each member. Without an attribute, the bytes include the value.

    None if the value of the field is itself JSON."""

    def arguments(self, variables: VariableValues) -> Arguments:
        """Returns the arguments of the resolver. Raises GraphQLError if a variable is null where the argument is not."""
        if self.constant_arguments is not None:
            return self.constant_arguments
        values = get_argument_values(self.definition, self.selection.field_nodes[0], variables)
        return {self.argument_names[name]: value for name, value in values.items()}

    async def read(self, context: Any, arguments: Arguments) -> bytes | Exception:
        """Returns the field's value as JSON, or the error of its resolver."""
        try:
            result = await self.resolve(None, info=ResolverInfo(context, self.selection), **arguments)
            if result is None or self.members is None:
                return _encode(result)
            members = [encoded_key + (_encode(getattr(result, name)) if name else b"") for encoded_key, name in self.members]
        except Exception as error:  # noqa: BLE001  any error is the field's, as in graphql-core
            return error
        return b"{" + b",".join(members) + b"}"


@dataclass(frozen=True)
class Plan:
    """An operation that runs without the executor. `fields` are its root fields, each after its encoded key."""

    schema: GraphQLSchema
    variable_definitions: tuple[VariableDefinitionNode, ...]
    """The variables of the operation, without those that replace literals."""
    fields: tuple[tuple[bytes, PlannedField | None], ...]
    """The field of `__typename` is None: its bytes contain the key and the value."""

    async def run(self, context: Any, raw_variables: dict[str, Any], literals: Mapping[str, Any]) -> ExecutionResult | None:
        """Returns the result of the operation; None if a variable is invalid, which the executor reports."""
        variables = VariableValues({}, {**literals})
        if self.variable_definitions:
            found = get_variable_values(self.schema, self.variable_definitions, raw_variables)
            if not isinstance(found, VariableValues):
                return None
            variables = VariableValues(found.sources, found.coerced | variables.coerced)
        planned = [field for _, field in self.fields if field is not None]
        try:
            arguments = [field.arguments(variables) for field in planned]
        except GraphQLError:
            return None
        reads = [field.read(context, values) for field, values in zip(planned, arguments, strict=True)]
        results = [await reads[0]] if len(reads) == 1 else await asyncio.gather(*reads)
        return self._build_result(iter(results))

    def _build_result(self, results: Iterator[bytes | Exception]) -> ExecutionResult:
        members, errors, is_null = [], [], False
        for encoded_key, field in self.fields:
            result = b"" if field is None else next(results)
            if field is not None and isinstance(result, Exception):
                errors.append(located_error(result, field.selection.field_nodes, [field.key]))
                is_null |= is_non_null_type(field.definition.type)
                result = b"null"
            members.append(encoded_key + cast(bytes, result))
        data: Any = None if is_null else orjson.Fragment(b"{" + b",".join(members) + b"}")
        return ExecutionResult(data, errors or None)


class Planner:
    """Compiles operations of a schema into plans, once for each document and combination of conditions."""

    def __init__(self, schema: GraphQLSchema, rules: SchemaRules) -> None:
        self._schema = schema
        self._rules = rules

    def find(self, document: Document, operation: OperationDefinitionNode, raw_variables: Mapping[str, Any]) -> Plan | None:
        """Returns the plan of the operation for these variables; None if it needs the executor."""
        conditions: dict[str, bool] = {}
        names = document.condition_names
        if names:
            variables = variables_of(operation, raw_variables)
            for name in names:
                value = variables.get(name)
                if not isinstance(value, bool):
                    return None
                conditions[name] = value
        key = (id(operation), *conditions.values())
        if key not in document.plans:
            if len(document.plans) >= MAX_PLANS:
                return None
            document.plans[key] = self._compile(document, operation, conditions)
        plan: Plan | None = document.plans[key]
        return plan

    def _compile(self, document: Document, operation: OperationDefinitionNode, conditions: dict[str, bool]) -> Plan | None:
        root = self._schema.query_type
        if operation.operation is not OperationType.QUERY or root is None:
            return None
        fragments = {node.name.value: node for node in document.node.definitions if isinstance(node, FragmentDefinitionNode)}
        nodes_by_key: dict[str, list[FieldNode]] = {}
        for node in selected_fields([operation], FieldSelection([], root, fragments, conditions), {root.name}):
            nodes_by_key.setdefault(response_key(node), []).append(node)
        fields: list[tuple[bytes, PlannedField | None]] = []
        for key, nodes in nodes_by_key.items():
            encoded_key, name = orjson.dumps(key) + b":", nodes[0].name.value
            if name == "__typename":
                fields.append((encoded_key + orjson.dumps(root.name), None))
                continue
            definition = root.fields.get(name)
            field = (
                None
                if definition is None
                else self._plan_field(key, name, definition, FieldSelection(nodes, definition.type, fragments, conditions))
            )
            if field is None:
                return None
            fields.append((encoded_key, field))
        definitions = operation.variable_definitions or ()
        own_definitions = definitions[: len(definitions) - len(document.literal_types)]
        return Plan(self._schema, tuple(own_definitions), tuple(fields))

    def _plan_field(self, key: str, name: str, definition: GraphQLField, selection: FieldSelection) -> PlannedField | None:
        assert self._schema.query_type is not None  # noqa: S101  the caller checked it
        rules, _ = self._rules.find(self._schema.query_type.name, name)
        json_fields = rules.json_fields
        if rules.rows is not None:
            if row_selection(selection, rules.rows) is None:
                return None
            json_fields = (rules.rows.child_field,) if rules.rows.child_field else ()
        elif not json_fields:
            return None
        members: list[tuple[bytes, str]] = []
        typename = get_named_type(definition.type).name
        for node in selected_fields(selection.field_nodes, selection, {typename}) if json_fields else ():
            encoded_key = orjson.dumps(response_key(node)) + b":"
            if node.name.value == "__typename":
                members.append((encoded_key + orjson.dumps(typename), ""))
            elif node.name.value in json_fields:
                members.append((encoded_key, node.name.value))
            else:
                return None
        field = definition.extensions["strawberry-definition"]
        names = {name: argument.extensions["strawberry-definition"].python_name for name, argument in definition.args.items()}
        found = tuple(dict(members).items()) if json_fields else None
        planned = PlannedField(key, definition, selection, field.base_resolver, names, None, found)
        if any(find_variables(argument.value) for argument in selection.field_nodes[0].arguments or ()):
            return planned
        return replace(planned, constant_arguments=planned.arguments(VariableValues({}, {})))


def _encode(result: Any) -> bytes:
    if result is None:
        return b"null"
    if not isinstance(result, JsonFragment):
        raise TypeError(f"a planned field returned {type(result).__name__} instead of JSON")
    return result.text if isinstance(result.text, bytes) else result.text.encode()
