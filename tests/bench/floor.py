"""The floor: the fastest plain routes over the same tables, with JSON by PostgreSQL and prepared statements.

DATABASE_URL=… uvicorn tests.bench.floor:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

LATEST = """
SELECT '{"data":{"latest":{"ts":' || ts || ',"price":"' || price || '"}}}'
  FROM price WHERE ticker = $1 ORDER BY ts DESC LIMIT 1
"""
LAST = """
SELECT '{"data":{"prices":{"nodes":[' || string_agg('{"ts":' || ts || ',"price":"' || price || '"}', ',') || ']}}}'
  FROM (SELECT ts, price FROM price WHERE ticker = $1 ORDER BY ts DESC LIMIT $2) AS page
"""
RANGE = """
SELECT '{"data":{"range":[' || string_agg('{"ts":' || ts || ',"price":"' || price || '"}', ',') || ']}}'
  FROM (SELECT ts, price FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 ORDER BY ts) AS rows
"""


DAYS = """
SELECT '{"data":{"candles":[' || string_agg('{"ts":' || ts || ',"open":"' || open || '","high":"' || high || '","low":"' || low
       || '","close":"' || close || '","count":' || count || '}', ',') || ']}}'
  FROM (SELECT ts - ts % 86400 AS ts, (min(ARRAY[ts, price]))[2] AS open, max(price) AS high, min(price) AS low,
               (max(ARRAY[ts, price]))[2] AS close, count(*) AS count
          FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 GROUP BY 1 ORDER BY 1) AS candle
"""


class _Connection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        return ""


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    settings = {"jit": "off"}
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], max_size=10, connection_class=_Connection, server_settings=settings
    ) as pool:
        app.state.pool = pool
        yield


async def _respond(request: Request, statement: str, *names: str) -> Response:
    parameters = request.query_params
    args = [parameters[name] if name == "ticker" else int(parameters[name]) for name in names]
    return Response(await request.app.state.pool.fetchval(statement, *args), media_type="application/json")


async def latest(request: Request) -> Response:
    """`GET /latest?ticker=`."""
    return await _respond(request, LATEST, "ticker")


async def last(request: Request) -> Response:
    """`GET /last?ticker=&count=`."""
    return await _respond(request, LAST, "ticker", "count")


async def window(request: Request) -> Response:
    """`GET /range?ticker=&from=&to=`."""
    return await _respond(request, RANGE, "ticker", "from", "to")


async def days(request: Request) -> Response:
    """`GET /days?ticker=&from=&to=`, aggregated from minutes."""
    return await _respond(request, DAYS, "ticker", "from", "to")


ROUTES = {"/latest": latest, "/last": last, "/range": window, "/days": days}
app = Starlette(routes=[Route(path, endpoint) for path, endpoint in ROUTES.items()], lifespan=_lifespan)
