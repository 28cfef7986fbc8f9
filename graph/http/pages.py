"""Pages for people: GraphiQL is the endpoint's own; here are Swagger UI and ReDoc, and where `/` leads. No other host."""

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from graph.http.graphql import STATIC
from graph.http.rest.openapi import document


async def openapi(_request: Request) -> Response:
    """`GET /openapi.json`."""
    return Response(orjson.dumps(document()), media_type="application/json")


async def swagger_ui(_request: Request) -> HTMLResponse:
    """`GET /docs`: Swagger UI."""
    return HTMLResponse((STATIC / "swagger-ui.html").read_text(encoding="utf-8"))


async def redoc(_request: Request) -> HTMLResponse:
    """`GET /redoc`: ReDoc."""
    return HTMLResponse((STATIC / "redoc.html").read_text(encoding="utf-8"))


async def to_graphiql(_request: Request) -> RedirectResponse:
    """`GET /`: there is no page of its own yet."""
    return RedirectResponse("/graphql")
