"""Whether the API can answer, and how fresh its prices are."""

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from db import migrate
from db.errors import DatabaseError
from db.queries import tickers, version
from graph.engine.translation import told
from graph.errors import RETRY_AFTER_S
from graph.http.caller import context_of
from graph.schema.types import Ticker

PATIENCE_S = 1.5


async def health(request: Request) -> Response:
    """`GET /health`: 200 with each ticker's last minute and age; 503 where the database does not answer in time."""
    context = context_of(request)
    try:
        async with asyncio.timeout(PATIENCE_S):
            records = await tickers.every(context.db)
    except (DatabaseError, TimeoutError) as error:
        reason = str(told(error) or "The database does not answer in time.")
        return _json(503, {"status": "unavailable", "database": reason, "tickers": []}, {"Retry-After": str(RETRY_AFTER_S)})
    now = context.now()
    found = [Ticker.of(record, now, context.stale_after_s) for record in records]
    return _json(200, {"status": "ok", "database": "ok", "tickers": [_freshness(ticker) for ticker in found]})


async def live(_request: Request) -> Response:
    """`GET /health/live`: 200 as long as the process answers at all; restart it where not."""
    return _json(200, {"status": "ok"})


async def ready(request: Request) -> Response:
    """`GET /health/ready`: 200 where requests can be answered; 503 where the database is away or not migrated as this needs."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            stands_at = await version.revision(context_of(request).db)
    except (DatabaseError, TimeoutError) as error:
        return _not_ready(str(told(error) or "The database does not answer in time."))
    # A newer one is right, too: while a release is rolled out, the old one goes on.
    if stands_at is None or stands_at < migrate.head():
        return _not_ready(
            f"The database stands at migration {stands_at}, this needs {migrate.head()}: run `python -m db migrate`."
        )
    return _json(200, {"status": "ok", "migration": stands_at})


def _not_ready(reason: str) -> Response:
    return _json(503, {"status": "unavailable", "reason": reason}, {"Retry-After": str(RETRY_AFTER_S)})


def _freshness(ticker: Ticker) -> dict[str, Any]:
    return {
        "ticker": ticker.name,
        "tracked": ticker.tracked,
        "ts": ticker.latest.ts if ticker.latest else None,
        "age_s": ticker.age_s,
        "stale": ticker.stale,
    }


def _json(status: int, body: dict[str, Any], more: dict[str, str] | None = None) -> Response:
    headers = {"Cache-Control": "no-store"} | (more or {})
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)
