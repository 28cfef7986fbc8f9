"""Builds the OpenAPI document from the models that validate the requests."""

from typing import Any

from openapi_pydantic import (
    Header,
    Info,
    MediaType,
    OpenAPI,
    Operation,
    Parameter,
    PathItem,
    Reference,
    Response,
    Schema,
    SecurityScheme,
    Server,
)
from openapi_pydantic.util import PydanticSchema, construct_open_api_with_schema_class
from pydantic import BaseModel

from db.runtime.metrics import version
from graph.http.rest.endpoints import ENDPOINTS, Endpoint
from graph.http.rest.export import MEDIA_TYPES, ExportQuery
from graph.http.rest.models import Health, Problem, Query

ADMIN_SCHEME = "adminToken"
KEY_SCHEME = "apiKey"

COVERAGE = Header(
    description="Completeness of the response: stored minutes / expected minutes of what it covers. "
    "A minute is expected if it is over, and the ticker was tracked or an import covers it. "
    "A stored minute that was not expected, such as the current one, counts as both. "
    "GraphQL's `coverage` lists the gaps and their reasons.",
    param_schema=Schema(type="string", pattern=r"^\d+/\d+$"),
    example="1438/1440",
)

STATUS_DESCRIPTIONS = {
    401: "API_KEYS is set and the request has no valid key.",
    429: "The client has exceeded its RATE_LIMIT or its concurrent requests. Retry after `Retry-After` seconds.",
    403: "The request does not send the ADMIN_TOKEN, or comes from another site.",
    404: "The ticker is unknown or has no matching price.",
    422: "A parameter is missing or invalid. `detail` has its name, its value and what is expected.",
    500: "Internal server error. `detail` has the request id.",
    503: "The server is busy, or the database or the queue is unavailable. Retry after `Retry-After` seconds.",
    504: "The request exceeded its timeout.",
}


def build_document(root_path: str = "") -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of the REST API."""
    paths = {path: PathItem(get=_operation(endpoint, path)) for endpoint in ENDPOINTS for path in endpoint.paths}
    paths["/export"] = PathItem(get=_export())
    paths["/health"] = PathItem(get=_health())
    api = OpenAPI(
        openapi="3.1.0",
        info=Info(
            title="Tickgraph",
            version=version(),
            summary="Deribit's index prices, one per minute.",
            description="REST API for GET clients. GraphQL at `/graphql` has the same prices and more.",
        ),
        servers=[
            Server(url=f"{root_path}/"),
            Server(url=f"{root_path}/v1", description="the same API under the prefix of older clients"),
        ],
        paths=paths,
    )
    built = construct_open_api_with_schema_class(api)
    if built.components is not None:
        built.components.securitySchemes = {
            ADMIN_SCHEME: SecurityScheme(type="http", scheme="bearer", description="the ADMIN_TOKEN, if it is set"),
            KEY_SCHEME: SecurityScheme(
                type="apiKey",
                name="X-API-Key",
                security_scheme_in="header",
                description="an API key, if API_KEYS is set; alternatively `Authorization: Bearer`",
            ),
        }
    document: dict[str, Any] = built.model_dump(mode="json", by_alias=True, exclude_none=True)
    return document


def _operation(endpoint: Endpoint, path: str) -> Operation:
    content = _schema_of(endpoint)
    success_response = Response(
        description=endpoint.summary,
        content={"application/json": MediaType(schema=content)}
        | ({"text/csv": MediaType(schema=Schema(type="string"))} if endpoint.is_table else {}),
        headers={"X-Coverage": COVERAGE} if endpoint.is_list and not endpoint.is_table else None,
    )
    return Operation(
        operationId=path.strip("/").replace("/", "_").replace("-", "_"),
        tags=["manual fetch" if endpoint.has_side_effects else "prices"],
        summary=endpoint.summary,
        description=None if path == endpoint.paths[0] else f"The same as `{endpoint.paths[0]}`, for older clients.",
        parameters=_parameters(endpoint.query),
        responses={str(endpoint.success_status): success_response}
        | {str(status): _problem(status) for status in endpoint.error_statuses},
        security=[{}, {KEY_SCHEME: []}, *([{ADMIN_SCHEME: []}] if endpoint.has_side_effects else ())],
    )


def _export() -> Operation:
    file = {media.partition(";")[0]: MediaType(schema=Schema(type="string")) for media in MEDIA_TYPES.values()}
    success_response = Response(
        description="The file, oldest first: ticker, ts, price, observed_at, source, original_source.", content=file
    )
    return Operation(
        operationId="export",
        tags=["prices"],
        summary="Streams a ticker's history as a file.",
        parameters=_parameters(ExportQuery),
        responses={"200": success_response} | {str(status): _problem(status) for status in Endpoint.error_statuses},
        security=[{}, {KEY_SCHEME: []}],
    )


def _health() -> Operation:
    def health_response(description: str) -> Response:
        return Response(description=description, content={"application/json": _media(Health)})

    return Operation(
        operationId="health",
        tags=["health"],
        summary="Returns the state of the API and the age of each ticker's newest price.",
        responses={
            "200": health_response("The API can serve requests."),
            "503": health_response("The database is unavailable."),
        },
    )


def _media(model: type[BaseModel]) -> MediaType:
    return MediaType(schema=PydanticSchema(schema_class=model))


def _schema_of(endpoint: Endpoint) -> Schema | Reference:
    model_schema: Schema = PydanticSchema(schema_class=endpoint.model)
    return Schema(type="array", items=model_schema) if endpoint.is_list else model_schema


def _problem(status: int) -> Response:
    return Response(description=STATUS_DESCRIPTIONS[status], content={"application/problem+json": _media(Problem)})


def _parameters(model: type[Query]) -> list[Parameter | Reference]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    return [
        Parameter(
            name=name,
            param_in="query",  # type: ignore[call-arg]  # pydantic's mypy plugin accepts only the alias
            required=name in required,
            description=parameter.pop("description", None),
            example=(parameter.pop("examples", None) or [None])[0],
            param_schema=Schema.model_validate(_without_null(parameter)),
        )
        for name, parameter in properties.items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Removes null from a parameter's schema: clients omit a parameter instead."""
    schema = {key: value for key, value in schema.items() if key != "title" and not (key == "default" and value is None)}
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        schema = {key: value for key, value in schema.items() if key != "anyOf"} | choices[0]
    elif choices:
        schema["anyOf"] = choices
    return schema
