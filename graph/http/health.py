"""Whether the API can answer, and how fresh its prices are."""

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from db import migrate, times
from db.errors import DatabaseError
from db.queries import retention, tickers, version
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
            records = await tickers.every(context.resources.primary, context.now())
            ahead = await retention.in_future(context.resources.primary, int(context.now()))
    except (DatabaseError, TimeoutError) as error:
        return _unavailable(database=_why(error), tickers=[])
    now = context.now()
    found = [Ticker.of(record, now, context.resources.stale_after_s) for record in records]
    warnings = [
        f"The horizon of {name} is {times.iso(horizon)}, in the future: a clock was wrong. Run `python -m db forget --reset`."
        for name, horizon in ahead.items()
    ]
    status = "degraded" if warnings else "ok"
    body = {"status": status, "database": "ok", "warnings": warnings, "tickers": [_freshness(ticker) for ticker in found]}
    return _json(200, body)


async def live(_request: Request) -> Response:
    """`GET /health/live`: 200 as long as the process answers at all; restart it where not."""
    return _json(200, {"status": "ok"})


async def ready(request: Request) -> Response:
    """`GET /health/ready`: 200 where requests can be answered; 503 where the database is away or not migrated as this needs."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            stands_at = await version.revision(context_of(request).resources.primary)
    except (DatabaseError, TimeoutError) as error:
        return _unavailable(reason=_why(error))
    if not migrate.serves(stands_at):
        needed = migrate.head()
        return _unavailable(
            reason=f"The database stands at migration {stands_at}, this needs {needed}: run `python -m db migrate`."
        )

    return _json(200, {"status": "ok", "migration": stands_at})


def _why(error: DatabaseError | TimeoutError) -> str:
    return str(told(error) or "The database does not answer in time.")


def _unavailable(**why: Any) -> Response:
    return _json(503, {"status": "unavailable", **why}, {"Retry-After": str(RETRY_AFTER_S)})


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
