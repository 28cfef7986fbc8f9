"""Health checks of the API: liveness, readiness, age of the prices."""

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from db import revisions, times
from db.errors import DatabaseError
from db.queries import retention, tickers, version
from graph.engine.client_errors import to_client_error
from graph.errors import RETRY_AFTER_S
from graph.http.caller import context_of
from graph.schema.types import Ticker

DATABASE_TIMEOUT_S = 1.5


async def health(request: Request) -> Response:
    """`GET /health`: 200 with each ticker's newest minute and age; 503 if the database cannot be read in time."""
    context = context_of(request)
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            records = await tickers.list_tickers(context.resources.primary, context.now())
            future_horizons = await retention.future_horizons(context.resources.primary, int(context.now()))
    except (DatabaseError, TimeoutError) as error:
        return _unavailable(database=_describe_error(error), tickers=[])
    now = context.now()
    ticker_list = [Ticker.from_record(record, now, context.resources.stale_after_s) for record in records]
    warnings = [
        f"The horizon of {name} is {times.iso(horizon)}, in the future: a clock was wrong. Run `python -m db forget --reset`."
        for name, horizon in future_horizons.items()
    ]
    status = "degraded" if warnings else "ok"
    body = {"status": status, "database": "ok", "warnings": warnings, "tickers": [_freshness(ticker) for ticker in ticker_list]}
    return _json(200, body)


async def live(_request: Request) -> Response:
    """`GET /health/live`: 200 while the process responds. Restart the process if it does not."""
    return _json(200, {"status": "ok"})


async def ready(request: Request) -> Response:
    """`GET /health/ready`: 200 if the API can serve requests; 503 if the database is unavailable or not migrated."""
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            current_revision = await version.revision(context_of(request).resources.primary)
    except (DatabaseError, TimeoutError) as error:
        return _unavailable(reason=_describe_error(error))
    if not revisions.is_compatible(current_revision):
        required_revision = revisions.head()
        return _unavailable(
            reason=f"The database is at migration {current_revision}; this version requires {required_revision}. "
            "Run `python -m db migrate`."
        )

    return _json(200, {"status": "ok", "migration": current_revision})


def _describe_error(error: DatabaseError | TimeoutError) -> str:
    return str(to_client_error(error) or "The database did not respond in time.")


def _unavailable(**fields: Any) -> Response:
    return _json(503, {"status": "unavailable", **fields}, {"Retry-After": str(RETRY_AFTER_S)})


def _freshness(ticker: Ticker) -> dict[str, Any]:
    return {
        "ticker": ticker.name,
        "tracked": ticker.tracked,
        "ts": ticker.latest.ts if ticker.latest else None,
        "age_s": ticker.age_s,
        "stale": ticker.stale,
    }


def _json(status: int, body: dict[str, Any], extra_headers: dict[str, str] | None = None) -> Response:
    headers = {"Cache-Control": "no-store"} | (extra_headers or {})
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)
