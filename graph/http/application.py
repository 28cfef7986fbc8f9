"""The application as data: routes, middleware, lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from db.pool import open_database
from graph.http.graphql import STATIC, GraphQLEndpoint
from graph.http.health import health
from graph.schema.context import Context
from graph.schema.executable import build
from graph.settings import Settings

STATEMENT_TIMEOUT_S = 5.0


async def to_graphiql(_request: Request) -> RedirectResponse:
    """`GET /`: there is no page of its own yet."""
    return RedirectResponse("/graphql")


def application(settings: Settings) -> Starlette:
    """The API over the database of the settings. Starts without it, and answers as soon as it is there."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        database = open_database(
            settings.required_dsn(), application_name="tickgraph api", statement_timeout_s=STATEMENT_TIMEOUT_S
        )
        async with database as db:
            app.state.context = Context(db, settings.stale_after_s)
            yield

    return Starlette(
        routes=[
            Route("/", to_graphiql),
            Route("/graphql", GraphQLEndpoint(build()), methods=["GET", "POST"]),
            Route("/health", health),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        lifespan=lifespan,
    )
