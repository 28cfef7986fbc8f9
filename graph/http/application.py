"""Builds the ASGI application: routes, middleware, lifespan."""

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route, WebSocketRoute

from db.errors import DatabaseError
from db.pool import Database, open_database
from db.runtime import metrics, tracing
from graph import metrics as api_metrics
from graph.engine.background import background_task
from graph.engine.commit_listener import CommitListener
from graph.engine.fetch_requests import FetchRequests
from graph.engine.history import HistoryWatch
from graph.engine.live_candles import LiveCandles
from graph.engine.live_events import LiveEvents
from graph.engine.live_ticks import LiveTicks
from graph.engine.rate_limit import CostBudget
from graph.engine.replica import Replica
from graph.engine.shared_reads import SharedReads
from graph.engine.topics import TopicRegistry
from graph.engine.trusted_documents import TrustedDocuments
from graph.errors import ApiError
from graph.http import health, pages, problems, udf
from graph.http.admission import AdmissionMiddleware, ConcurrencyLimiter
from graph.http.caller import Authenticator
from graph.http.forwarded_headers import ForwardedHeadersMiddleware
from graph.http.graphql import STATIC_DIR, GraphQLEndpoint
from graph.http.middleware import AccessLogMiddleware, CompressionMiddleware
from graph.http.problems import GRAPHQL_PATH
from graph.http.protocol import ON_SHUTDOWN
from graph.http.response_cache import CacheFastPath, ResponseCache, ResponseCacheMiddleware
from graph.http.rest import endpoints
from graph.http.root_path import RootPathMiddleware
from graph.http.socket import SocketEndpoint
from graph.http.static_files import VersionedStaticFiles
from graph.schema.context import Resources
from graph.schema.executable import Schema
from graph.schema.federation import Subgraph
from graph.settings import Settings

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_S = 5.0
RESERVED_DESCRIPTOR_COUNT = 100
"""File descriptors of a process that are not client connections."""
STATEMENT_TIMEOUT_S = 5.0
MIN_COMPRESSED_BYTES = 1_000
"""Below this size, compression costs more than it saves."""
COMPRESSION_LEVEL = 4
"""Level of gzip: the maximum takes three times as long for a few percent."""


PUBLIC_PATHS = (
    "/",
    "/health",
    "/v1/health",
    "/static",
    "/docs",
    "/redoc",
    "/api/docs",
    "/api/redoc",
    "/openapi.json",
    "/schema.graphql",
    "/llms.txt",
    "/manifest.webmanifest",
    "/service-worker.js",
)
"""Paths without price data: they require no key."""


CACHED_PATHS = (GRAPHQL_PATH, "/prices", "/v1/prices")
"""Paths, and those below them, whose responses are cached until the next commit."""


def _read_trusted_documents(file: Path | None) -> TrustedDocuments | None:
    if file is None:
        return None
    try:
        return TrustedDocuments.read(file)
    except (OSError, ValueError) as error:
        raise SystemExit(f"TRUSTED_DOCUMENTS={file}: {error}") from None


def _cors_middleware(settings: Settings) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # safe, because the API uses no cookies
        expose_headers=["ETag", "Link", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Coverage", "X-Request-ID"],
    )


def _tracing_middleware() -> list[Middleware]:
    if not tracing.is_enabled():
        return []
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415  only with tracing

    excluded_urls = os.environ.get("OTEL_PYTHON_EXCLUDED_URLS", "/health")
    return [Middleware(OpenTelemetryMiddleware, excluded_urls=excluded_urls, exclude_spans=["receive", "send"])]


async def _sample_gauges(
    db: Database, registries: Sequence[TopicRegistry[Any, Any]], response_cache: ResponseCache, replica: Replica | None
) -> None:
    """Updates the gauges every SAMPLE_INTERVAL_S seconds."""
    while True:
        api_metrics.subscribers.set(sum(registry.subscribers for registry in registries))
        api_metrics.response_cache_bytes.set(response_cache.size)
        api_metrics.database_connections.set(db.in_use)
        if replica is not None:
            api_metrics.replica_lag.set(replica.lag_s)
        await asyncio.sleep(SAMPLE_INTERVAL_S)


def increase_descriptor_limit(settings: Settings) -> None:
    """Increases the limit of open files to what MAX_SOCKETS and MAX_IN_FLIGHT require. Logs a warning if that is impossible."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_sockets + settings.max_in_flight + RESERVED_DESCRIPTOR_COUNT
    if soft_limit != resource.RLIM_INFINITY and soft_limit < needed:
        raised = needed if hard_limit == resource.RLIM_INFINITY else min(needed, hard_limit)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard_limit))
        if raised < needed:
            log.warning(
                "MAX_SOCKETS=%d and MAX_IN_FLIGHT=%d require %d open files, but the limit is %d. Raise `ulimit -n` or lower "
                "MAX_SOCKETS.",
                *(settings.max_sockets, settings.max_in_flight, needed, raised),
            )


def application(settings: Settings, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> Starlette:
    """Returns the API over the database of the settings. It starts without the database and connects as soon as it can."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        database = open_database(
            settings.required_dsn(), application_name="tickgraph api", statement_timeout_s=statement_timeout_s
        )
        fetch_requests = FetchRequests(settings.broker)
        increase_descriptor_limit(settings)
        metrics.serve(settings.metrics_host, settings.api_metrics_port)
        async with (
            database as db,
            commits.run_in_background(settings.database_listen_url or settings.required_dsn()),
            live.run_in_background(db),
            history.run_in_background(db),
            background_task(_sample_gauges(db, registries, response_cache, replica)),
            nullcontext() if replica is None else replica.run_in_background(db, statement_timeout_s),
        ):
            app.state.resources = Resources(
                primary=db,
                replica=replica,
                fetch_requests=fetch_requests,
                stale_after_s=settings.stale_after_s,
                live_events=live,
                live_candles=live_candles,
                live_ticks=live_ticks,
                cost_budget=cost_budget,
                history=history,
                shared_reads=shared_reads,
            )
            yield {ON_SHUTDOWN: on_shutdown}
        fetch_requests.close()
        metrics.unregister_process()
        await asyncio.to_thread(tracing.flush)

    @cache  # every connection calls it; it runs once
    def on_shutdown() -> None:
        for registry in registries:
            registry.shut_down()

    authenticator = Authenticator(settings.api_keys, settings.admin_token.get_secret_value() if settings.admin_token else None)
    connections = ConcurrencyLimiter("connections", "open connections", settings.max_sockets, settings.max_sockets_per_client)
    slots = ConcurrencyLimiter("requests", "concurrent requests", settings.max_in_flight, settings.max_in_flight_per_client)
    cost_budget = CostBudget(settings.rate_limit_per_process) if settings.rate_limit_per_process else None
    live_ticks = LiveTicks()
    commits = CommitListener(live_ticks.receive)
    read_url = settings.database_read_url
    replica = None if read_url is None else Replica(commits, read_url, settings.replica_behind_most_s)
    live = LiveEvents(commits)
    live_candles = LiveCandles(live, live_ticks)
    registries: list[TopicRegistry[Any, Any]] = [live.topics, live_candles.topics, live_ticks.topics]
    shared_reads = SharedReads()
    history = HistoryWatch(commits, live.handle_history_change, lambda: live.position)
    response_cache = ResponseCache(commits, settings.answer_cache_mb << 20, CACHED_PATHS)
    has_fast_path = not (settings.api_keys or settings.rate_limit or settings.cors_origins)
    rest = endpoints.routes(connections)
    trusted = _read_trusted_documents(settings.trusted_documents)
    schema = (Subgraph if settings.federation else Schema)(introspection=settings.introspection, trusted=trusted)
    subscriptions = ConcurrencyLimiter(
        "subscriptions", "open subscriptions", settings.max_sockets, settings.max_sockets_per_client
    )
    socket = SocketEndpoint(
        schema,
        authenticator,
        slots,
        connections,
        subscriptions,
        origins=settings.cors_origins,
        request_timeout_s=settings.request_timeout_s,
    )
    return Starlette(
        routes=[
            Route("/", pages.home),
            Route(
                GRAPHQL_PATH,
                GraphQLEndpoint(schema, connections, graphiql=settings.graphiql, requires_key=bool(settings.api_keys)),
            ),
            WebSocketRoute(GRAPHQL_PATH, socket),
            *rest,
            Mount("/v1", routes=rest),
            *udf.routes(),
            Route("/health/live", health.live),
            Route("/health/ready", health.ready),
            Route("/openapi.json", pages.openapi),
            *([Route("/schema.graphql", pages.schema_text(schema))] if settings.introspection else ()),
            Route("/llms.txt", pages.llms_text),
            Route("/manifest.webmanifest", pages.manifest),
            Route("/service-worker.js", pages.service_worker),
            *(Route(path, pages.swagger_ui) for path in ("/docs", "/api/docs")),
            *(Route(path, pages.redoc) for path in ("/redoc", "/api/redoc")),
            Mount("/static", VersionedStaticFiles(directory=STATIC_DIR)),
        ],
        middleware=[
            *_tracing_middleware(),
            *([Middleware(RootPathMiddleware, root_path=settings.root_path)] if settings.root_path else ()),
            *([Middleware(CacheFastPath, response_cache=response_cache)] if settings.answer_cache_mb and has_fast_path else ()),
            *(
                [Middleware(ForwardedHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))]
                if settings.trusted_proxies
                else ()
            ),
            *([_cors_middleware(settings)] if settings.cors_origins else ()),
            Middleware(AccessLogMiddleware),
            Middleware(
                AdmissionMiddleware,
                authenticator=authenticator,
                public_paths=PUBLIC_PATHS,
                slots=slots,
                cost_budget=cost_budget,
                request_timeout_s=settings.request_timeout_s,
            ),
            *([Middleware(ResponseCacheMiddleware, response_cache=response_cache)] if settings.answer_cache_mb else ()),
            Middleware(CompressionMiddleware, minimum_size=MIN_COMPRESSED_BYTES, compresslevel=COMPRESSION_LEVEL),
        ],
        exception_handlers={
            ApiError: problems.on_known_error,
            DatabaseError: problems.on_known_error,
            HTTPException: problems.on_http_error,
            404: pages.not_found,
        },
        lifespan=lifespan,
    )
