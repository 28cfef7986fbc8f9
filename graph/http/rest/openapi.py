"""The OpenAPI document, made from the models that validate."""

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

from graph.http.rest.endpoints import ENDPOINTS, Endpoint
from graph.http.rest.export import MEDIA, ExportQuery
from graph.http.rest.models import Health, Problem, Query

VERSION = "0.1.0"
ADMIN = "adminToken"
KEY = "apiKey"

COVERAGE = Header(
    description="How complete the answer is: minutes stored / minutes expected of those that it covers and that are over. "
    "Expected are the minutes in which the ticker was tracked; GraphQL's `coverage` tells the gaps and their reasons.",
    param_schema=Schema(type="string", pattern=r"^\d+/\d+$"),
    example="1438/1440",
)

WHY = {
    401: "API_KEYS are set, and none of them was sent.",
    429: "The caller has spent its RATE_LIMIT; come back after `Retry-After` seconds.",
    403: "The ADMIN_TOKEN is set and was not sent.",
    404: "The ticker is not known, or there is no such row.",
    422: "A parameter is missing or cannot be; `detail` names it, what came and what would be right.",
    500: "A mistake of ours; `detail` has the request's id.",
    503: "The database is away (or the queue, where it is needed); come back after `Retry-After` seconds.",
    504: "The database took too long.",
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1 of the REST shim."""
    paths = {path: PathItem(get=_operation(endpoint, path)) for endpoint in ENDPOINTS for path in endpoint.paths}
    paths["/export"] = PathItem(get=_export())
    paths["/health"] = PathItem(get=_health())
    api = OpenAPI(
        openapi="3.1.0",
        info=Info(
            title="Tickgraph",
            version=VERSION,
            summary="Deribit's index prices, every minute.",
            description="The REST shim for clients of GET endpoints. The same prices, and more, over GraphQL at `/graphql`.",
        ),
        servers=[Server(url="/"), Server(url="/v1", description="the same under the older clients' prefix")],
        paths=paths,
    )
    built = construct_open_api_with_schema_class(api)
    if built.components is not None:
        built.components.securitySchemes = {
            ADMIN: SecurityScheme(type="http", scheme="bearer", description="ADMIN_TOKEN, where it is set"),
            KEY: SecurityScheme(
                type="apiKey",
                name="X-API-Key",
                security_scheme_in="header",
                description="one of the keys, where API_KEYS is set; `Authorization: Bearer` does as well",
            ),
        }
    found: dict[str, Any] = built.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


def _operation(endpoint: Endpoint, path: str) -> Operation:
    content = _schema_of(endpoint)
    good = Response(
        description=endpoint.summary,
        content={"application/json": MediaType(schema=content)},
        headers={"X-Coverage": COVERAGE} if endpoint.many else None,
    )
    return Operation(
        operationId=path.strip("/").replace("/", "_").replace("-", "_"),
        tags=["manual fetch" if endpoint.acts else "prices"],
        summary=endpoint.summary,
        parameters=_parameters(endpoint.query),
        responses={str(endpoint.success): good} | {str(status): _problem(status) for status in endpoint.statuses},
        security=[{}, {KEY: []}, *([{ADMIN: []}] if endpoint.acts else ())],
    )


def _export() -> Operation:
    file = {media.partition(";")[0]: MediaType(schema=Schema(type="string")) for media in MEDIA.values()}
    good = Response(description="The file, oldest first: ticker, ts, price, observed_at, source.", content=file)
    return Operation(
        operationId="export",
        tags=["prices"],
        summary="A ticker's whole history as a file, streamed.",
        parameters=_parameters(ExportQuery),
        responses={"200": good} | {str(status): _problem(status) for status in (401, 404, 422, 429, 500, 503, 504)},
        security=[{}, {KEY: []}],
    )


def _health() -> Operation:
    def told(description: str) -> Response:
        return Response(description=description, content={"application/json": _media(Health)})

    return Operation(
        operationId="health",
        tags=["health"],
        summary="Whether the API can answer, and how fresh each ticker is.",
        responses={"200": told("It can."), "503": told("The database does not answer.")},
    )


def _media(model: type[BaseModel]) -> MediaType:
    return MediaType(schema=PydanticSchema(schema_class=model))


def _schema_of(endpoint: Endpoint) -> Schema | Reference:
    one: Schema = PydanticSchema(schema_class=endpoint.model)
    return Schema(type="array", items=one) if endpoint.many else one


def _problem(status: int) -> Response:
    return Response(description=WHY[status], content={"application/problem+json": _media(Problem)})


def _parameters(model: type[Query]) -> list[Parameter | Reference]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    return [
        Parameter(
            name=name,
            param_in="query",  # type: ignore[call-arg]  # pydantic's plugin only knows the alias
            required=name in required,
            description=one.pop("description", None),
            example=(one.pop("examples", None) or [None])[0],
            param_schema=Schema.model_validate(_sent(one)),
        )
        for name, one in properties.items()
    ]


def _sent(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is left out rather than sent as null."""
    schema = {key: value for key, value in schema.items() if key != "title" and not (key == "default" and value is None)}
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        schema = {key: value for key, value in schema.items() if key != "anyOf"} | choices[0]
    elif choices:
        schema["anyOf"] = choices
    return schema
