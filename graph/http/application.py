"""The application as data: routes, middleware, lifespan."""

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route, WebSocketRoute

from db import metrics, tracing
from db.errors import DatabaseError
from db.pool import Database, open_database
from graph import metrics as told
from graph.engine.allowance import Allowance
from graph.engine.background import running
from graph.engine.collecting import Collecting
from graph.engine.feed import Feed
from graph.engine.history import HistoryWatch
from graph.engine.live import Live
from graph.engine.live_candles import LiveCandles
from graph.engine.replica import Replica
from graph.errors import ApiError
from graph.http import health, pages, problems
from graph.http.admission import InFlight, Known, Rates, Slots, WhileWanted
from graph.http.answers import Answers, Kept, Shortcut
from graph.http.caller import Callers
from graph.http.forwarded import Forwarded
from graph.http.graphql import STATIC, GraphQLEndpoint
from graph.http.middleware import Compressed, Recorded
from graph.http.problems import GRAPHQL_PATH
from graph.http.protocol import LEAVE
from graph.http.rest import endpoints
from graph.http.socket import SocketEndpoint
from graph.http.static import Static
from graph.schema.context import Resources
from graph.schema.executable import Schema
from graph.settings import Settings

log = logging.getLogger(__name__)

SAMPLED_EVERY_S = 5.0
DESCRIPTORS_BESIDE = 100
"""Open files of a process that are no clients' connections."""
STATEMENT_TIMEOUT_S = 5.0
COMPRESSED_FROM = 1_000
"""Bytes; below, compressing costs more than it saves."""
COMPRESS_LEVEL = 4
"""Of gzip: the highest takes three times as long for a few percent."""


OPEN = ("/", "/health", "/v1/health", "/static", "/docs", "/redoc", "/api/docs", "/api/redoc", "/openapi.json")
"""Paths that tell no prices."""


KEPT_PATHS = (GRAPHQL_PATH, "/prices", "/v1/prices")
"""Paths, and those below them, whose answers are kept until the next commit."""


def _cross_origin(settings: Settings) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # nothing is told by cookies, so there is nothing to protect
        expose_headers=["ETag", "Link", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Coverage", "X-Request-ID"],
    )


def _traced() -> list[Middleware]:
    if not tracing.are_wanted():
        return []
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415  not where nobody wants it

    unseen = os.environ.get("OTEL_PYTHON_EXCLUDED_URLS", "/health")
    return [Middleware(OpenTelemetryMiddleware, excluded_urls=unseen, exclude_spans=["receive", "send"])]


async def _sample(db: Database, live: Live, live_candles: LiveCandles, kept: Kept, replica: Replica | None) -> None:
    """Sets every few seconds the gauges of what is neither counted nor timed."""
    while True:
        told.subscribers.set(live.subscribers + live_candles.subscribers)
        told.answer_bytes.set(kept.size)
        told.connections.set(db.in_use)
        if replica is not None:
            told.replica_behind.set(replica.behind_s)
        await asyncio.sleep(SAMPLED_EVERY_S)


def require_descriptors(settings: Settings) -> None:
    """Raises the limit of open files to what MAX_SOCKETS needs, as far as the system allows; says so where it does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_sockets + settings.max_in_flight + DESCRIPTORS_BESIDE
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        if raised < needed:
            log.warning(
                "MAX_SOCKETS=%d and MAX_IN_FLIGHT=%d need %d open files, and this process may have %d: raise `ulimit -n`, or "
                "lower MAX_SOCKETS",
                *(settings.max_sockets, settings.max_in_flight, needed, raised),
            )


def application(settings: Settings, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> Starlette:
    """Returns the API over the database of the settings. It starts without the database and connects as soon as it can."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        database = open_database(
            settings.required_dsn(), application_name="tickgraph api", statement_timeout_s=statement_timeout_s
        )
        collecting = Collecting(settings.broker)
        require_descriptors(settings)
        metrics.serve(settings.metrics_host, settings.api_metrics_port)
        async with (
            database as db,
            feed.heard(settings.database_listen_url or settings.required_dsn()),
            live.followed(db),
            history.watched(db),
            running(_sample(db, live, live_candles, kept, replica)),
            nullcontext() if replica is None else replica.followed(db, statement_timeout_s),
        ):
            app.state.resources = Resources(
                db, replica, collecting, settings.stale_after_s, live, live_candles, allowance, history
            )
            yield {LEAVE: leave}
        collecting.close()
        metrics.leave()
        await asyncio.to_thread(tracing.end)

    @cache  # each connection says so
    def leave() -> None:
        live.leave()
        live_candles.leave()

    callers = Callers(settings.api_keys, settings.admin_token.get_secret_value() if settings.admin_token else None)
    connections = Slots("connections", "connections are open", settings.max_sockets, settings.max_sockets_per_client)
    slots = Slots("requests", "requests are being answered", settings.max_in_flight, settings.max_in_flight_per_client)
    allowance = Allowance(settings.rate_limit_of_process) if settings.rate_limit_of_process else None
    feed = Feed()
    read_url = settings.database_read_url
    replica = None if read_url is None else Replica(feed, read_url, settings.replica_behind_most_s)
    live = Live(feed)
    live_candles = LiveCandles(live)
    history = HistoryWatch(feed, live.restart, lambda: live.position)
    kept = Kept(feed, settings.answer_cache_mb << 20, KEPT_PATHS)
    is_open = not (settings.api_keys or settings.rate_limit or settings.cors_origins)
    rest = endpoints.routes(connections)
    schema = Schema(introspection=settings.introspection)
    subscriptions = Slots("subscriptions", "subscriptions are open", settings.max_sockets, settings.max_sockets_per_client)
    socket = SocketEndpoint(
        schema, callers, slots, connections, subscriptions, origins=settings.cors_origins, at_most_s=settings.request_timeout_s
    )
    return Starlette(
        routes=[
            Route("/", pages.home),
            Route(
                GRAPHQL_PATH, GraphQLEndpoint(schema, connections, graphiql=settings.graphiql, closed=bool(settings.api_keys))
            ),
            WebSocketRoute(GRAPHQL_PATH, socket),
            *rest,
            Mount("/v1", routes=rest),
            Route("/health/live", health.live),
            Route("/health/ready", health.ready),
            Route("/openapi.json", pages.openapi),
            *(Route(path, pages.swagger_ui) for path in ("/docs", "/api/docs")),
            *(Route(path, pages.redoc) for path in ("/redoc", "/api/redoc")),
            Mount("/static", Static(directory=STATIC)),
        ],
        middleware=[
            *_traced(),
            *([Middleware(Shortcut, kept=kept)] if settings.answer_cache_mb and is_open else ()),
            *([Middleware(Forwarded, trusted_hosts=list(settings.trusted_proxies))] if settings.trusted_proxies else ()),
            *([_cross_origin(settings)] if settings.cors_origins else ()),
            Middleware(Recorded),
            Middleware(Known, callers=callers, open_=OPEN),
            Middleware(InFlight, slots=slots),
            *([Middleware(Rates, allowance=allowance)] if allowance else ()),
            Middleware(WhileWanted, at_most_s=settings.request_timeout_s),
            *([Middleware(Answers, kept=kept)] if settings.answer_cache_mb else ()),
            Middleware(Compressed, minimum_size=COMPRESSED_FROM, compresslevel=COMPRESS_LEVEL),
        ],
        exception_handlers={
            ApiError: problems.on_known_error,
            DatabaseError: problems.on_known_error,
            HTTPException: problems.on_http_error,
            404: pages.not_found,
        },
        lifespan=lifespan,
    )
