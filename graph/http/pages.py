"""Pages for people: GraphiQL is the endpoint's own; here are Swagger UI and ReDoc, and where `/` leads. No other host."""

from functools import cache

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from graph.http.graphql import page
from graph.http.rest.openapi import document


async def openapi(_request: Request) -> Response:
    """`GET /openapi.json`."""
    return Response(_document(), media_type="application/json")


@cache
def _document() -> bytes:
    return orjson.dumps(document())


async def swagger_ui(_request: Request) -> HTMLResponse:
    """`GET /docs`: Swagger UI."""
    return page("swagger-ui.html")


async def redoc(_request: Request) -> HTMLResponse:
    """`GET /redoc`: ReDoc."""
    return page("redoc.html")


async def to_graphiql(_request: Request) -> RedirectResponse:
    """`GET /`: there is no page of its own yet."""
    return RedirectResponse("/graphql")
