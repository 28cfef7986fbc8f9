"""Pages for people: the live one, Swagger UI and ReDoc; GraphiQL is the endpoint's own. Nothing from another host."""

from functools import cache
from http import HTTPStatus
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from graph.http.graphql import page
from graph.http.negotiation import wants_page
from graph.http.problems import on_http_error
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


async def not_found(request: Request, error: Exception) -> Response:
    """A page for whoever came with a browser to where nothing is; a problem for programs."""
    if request.method == "GET" and wants_page(request.headers.get("Accept", "")):
        return page("not-found.html", LIVE_POLICY, status=HTTPStatus.NOT_FOUND)
    return await on_http_error(request, error)


async def home(_request: Request) -> HTMLResponse:
    """`GET /`: every ticker, and each one's chart, live."""
    return page("index.html", LIVE_POLICY)
