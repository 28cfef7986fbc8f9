"""HTML pages: live page, Swagger UI, ReDoc. They load nothing from other hosts. GraphiQL is in `graph.http.graphql`."""

from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from graph.http.graphql import STATIC_DIR, html_page
from graph.http.negotiation import prefers_html
from graph.http.problems import on_http_error
from graph.http.rest.openapi import build_document
from graph.http.root_path import root_path_of
from graph.schema.executable import Schema

LIVE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; worker-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`: the OpenAPI document."""
    return Response(_document(root_path_of(request.scope)), media_type="application/json")


@cache
def _document(root_path: str) -> bytes:
    return orjson.dumps(build_document(root_path))


def schema_text(schema: Schema) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint of `GET /schema.graphql`: the schema as text, for code generators and gateways."""
    text = f"{schema.as_str()}\n"

    async def respond(_request: Request) -> Response:
        return PlainTextResponse(text, headers={"Cache-Control": "public, max-age=3600"})

    return respond


async def llms_text(request: Request) -> Response:
    """`GET /llms.txt`: what a program that reads text should know of the API (https://llmstxt.org)."""
    base = f"{request.url.scheme}://{request.url.netloc}{root_path_of(request.scope)}"
    return PlainTextResponse(_read_llms_text().replace("{base}", base))


@cache
def _read_llms_text() -> str:
    return (STATIC_DIR / "llms.txt").read_text(encoding="utf-8")


async def manifest(_request: Request) -> FileResponse:
    """`GET /manifest.webmanifest`: what browsers need to install the page as an app."""
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(STATIC_DIR / "manifest.webmanifest", media_type="application/manifest+json", headers=headers)


async def service_worker(_request: Request) -> FileResponse:
    """`GET /service-worker.js`: keeps the page available offline. Its path is that of the pages that it may serve."""
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(STATIC_DIR / "service-worker.js", media_type="text/javascript", headers=headers)


async def swagger_ui(request: Request) -> HTMLResponse:
    """`GET /docs`: Swagger UI."""
    return html_page(request.scope, "swagger-ui.html")


async def redoc(request: Request) -> HTMLResponse:
    """`GET /redoc`: ReDoc."""
    return html_page(request.scope, "redoc.html")


async def not_found(request: Request, error: Exception) -> Response:
    """Responds to an unknown path: a page for browsers, problem+json for other clients."""
    if request.method == "GET" and prefers_html(request.headers.get("Accept", "")):
        return html_page(request.scope, "not-found.html", LIVE_POLICY, status=HTTPStatus.NOT_FOUND)
    return await on_http_error(request, error)


async def home(request: Request) -> HTMLResponse:
    """`GET /`: the live page with all tickers and their charts."""
    return html_page(request.scope, "index.html", LIVE_POLICY)
