"""The application as data: routes, middleware, lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from db.errors import DatabaseError
from db.pool import open_database
from graph.engine.collecting import Collecting
from graph.errors import ApiError
from graph.http import pages, problems
from graph.http.admission import InFlight, Keys, WhileWanted
from graph.http.graphql import STATIC, GraphQLEndpoint
from graph.http.middleware import AccessLog, Mistakes, RequestId
from graph.http.rest import endpoints
from graph.schema.context import Context
from graph.schema.executable import build
from graph.settings import Settings

STATEMENT_TIMEOUT_S = 5.0
COMPRESSED_FROM = 1_000
"""Bytes; below, compressing costs more than it saves."""


OPEN = ("/health", "/v1/health", "/static", "/docs", "/redoc", "/api/docs", "/api/redoc", "/openapi.json")
"""Paths that tell no prices."""


def _who_may_read(settings: Settings) -> list[str]:
    admin = [sha256(settings.admin_token.get_secret_value().encode()).hexdigest()] if settings.admin_token else []
    return [*settings.api_keys, *admin]


def application(settings: Settings) -> Starlette:
    """The API over the database of the settings. Starts without it, and answers as soon as it is there."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        database = open_database(
            settings.required_dsn(), application_name="tickgraph api", statement_timeout_s=STATEMENT_TIMEOUT_S
        )
        collecting = Collecting(settings.broker)
        async with database as db:
            app.state.context = Context(db, collecting, settings.stale_after_s)
            app.state.admin_token = settings.admin_token.get_secret_value() if settings.admin_token else None
            yield
        collecting.close()

    rest = endpoints.routes()
    schema = build(introspection=settings.introspection)
    graphql = GraphQLEndpoint(schema, graphiql=settings.graphiql, origins=settings.cors_origins)
    return Starlette(
        routes=[
            Route("/", pages.to_graphiql),
            Route("/graphql", graphql),
            WebSocketRoute("/graphql", graphql),
            *rest,
            Mount("/v1", routes=rest),
            Route("/openapi.json", pages.openapi),
            *(Route(path, pages.swagger_ui) for path in ("/docs", "/api/docs")),
            *(Route(path, pages.redoc) for path in ("/redoc", "/api/redoc")),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            *(
                [Middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))]
                if settings.trusted_proxies
                else ()
            ),
            Middleware(RequestId),
            Middleware(AccessLog),
            Middleware(InFlight, most=settings.max_in_flight, most_of_one=settings.max_in_flight_per_client),
            Middleware(WhileWanted, at_most_s=settings.request_timeout_s),
            Middleware(Mistakes),
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
                expose_headers=["Link", "X-Coverage", "X-Request-ID", "Retry-After"],
            ),
            *([Middleware(Keys, digests=_who_may_read(settings), open_=OPEN)] if settings.api_keys else ()),
            Middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM),
        ],
        exception_handlers={
            ApiError: problems.on_known_error,
            DatabaseError: problems.on_known_error,
            HTTPException: problems.on_http_error,
        },
        lifespan=lifespan,
    )
