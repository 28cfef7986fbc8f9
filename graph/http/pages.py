"""Pages for people: the live one, Swagger UI and ReDoc; GraphiQL is the endpoint's own. Nothing from another host."""

from functools import cache
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from graph.http.graphql import page
from graph.http.rest.openapi import document

LIVE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


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


async def home(_request: Request) -> HTMLResponse:
    """`GET /`: every ticker, and each one's chart, live."""
    return page("index.html", LIVE_POLICY)
