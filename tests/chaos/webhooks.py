"""Alerts in the fault run: each crossing must reach a receiver that often fails, with one id, and no other id may."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import asyncpg
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.chaos.environment import Environment

SECRET = "whsec_" + "C" * 43 + "="
SETTINGS = {"WEBHOOK_PRIVATE_ADDRESSES": "true", "WEBHOOK_SECRETS": SECRET}
ALERTED_TICKERS = ("btc_usd", "eth_usd", "sol_usd")
FAILURE_RATE = 0.3
END_TIMEOUT_S = 60.0

CREATE = """
INSERT INTO alert (kind, ticker, level, url, state)
SELECT 'CROSSES', ticker, price, $2, jsonb_build_object('ts', ts, 'held', false, 'up', false, 'down', false)
  FROM price WHERE ticker = $1 ORDER BY ts DESC LIMIT 1
RETURNING id, level, (state ->> 'ts')::bigint AS ts
"""

START = """
INSERT INTO alert_progress SELECT 1, max(id) FROM price ON CONFLICT (id) DO UPDATE SET position = EXCLUDED.position
"""


class Receiver:
    """A receiver that rejects, delays and drops webhooks at random, and records those that it accepts."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.accepted: Counter[str] = Counter()
        self.problems: list[str] = []
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serves while the block runs."""
        app = web.Application()
        app.router.add_post("/", self._handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        try:
            Webhook(SECRET).verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            self.problems.append(f"a webhook has no valid signature: {error}")
        if self._rng.random() < FAILURE_RATE:
            if self._rng.random() < 0.5:
                return web.Response(status=503)
            if request.transport is not None:
                request.transport.abort()
        self.accepted[request.headers["webhook-id"]] += 1  # also if the worker does not get the response
        return web.Response(status=204)


class AlertRun:
    """The alerts of a fault run."""

    def __init__(self, rng: random.Random) -> None:
        self.receiver = Receiver(rng)
        self._alerts: list[asyncpg.Record] = []

    async def create(self, environment: Environment) -> None:
        """Creates an alert at the newest price of some tickers, which the price then crosses often."""
        async with environment.sql() as connection:
            for ticker in ALERTED_TICKERS:
                found = await connection.fetchrow(CREATE, ticker, self.receiver.url)
                assert found is not None, f"{ticker} has no price"
                self._alerts.append(found)
            await connection.execute(START)

    async def check(self, environment: Environment) -> list[str]:
        """Waits until all webhooks are delivered, and returns what is wrong with them."""
        deadline = time.monotonic() + END_TIMEOUT_S
        async with environment.sql() as connection:
            while time.monotonic() < deadline:
                await environment.stack.publish(0)
                # Nobody waits a day here.
                await connection.execute("UPDATE alert_delivery SET next_attempt_at = 0 WHERE delivered_at IS NULL")
                await asyncio.sleep(0.5)
                pending = await connection.fetchval("SELECT count(*) FROM alert_delivery WHERE delivered_at IS NULL")
                position = await connection.fetchval("SELECT position >= (SELECT max(id) FROM price) FROM alert_progress")
                if not pending and position:
                    break
            expected = {key for alert in self._alerts for key in await _expected_ids(connection, alert)}
        found = set(self.receiver.accepted)
        problems = [f"crossing {one} was not delivered" for one in sorted(expected - found)]
        problems += [f"webhook {one} is of no crossing" for one in sorted(found - expected)]
        return problems + self.receiver.problems

    @property
    def summary(self) -> str:
        """The numbers of webhooks, as one line."""
        accepted = self.receiver.accepted
        return (
            f"{len(accepted)} crossings of {len(self._alerts)} alerts, each delivered; {accepted.total() - len(accepted)} twice"
        )


async def _expected_ids(connection: asyncpg.Connection, alert: asyncpg.Record) -> list[str]:
    """Returns the ids of all crossings, from the prices in the order of their commits. Older minutes do not count."""
    query = "SELECT ts, price FROM price WHERE ticker = (SELECT ticker FROM alert WHERE id = $1) ORDER BY id"
    level: Decimal = alert["level"]
    newest, before, ids = alert["ts"], 0, []
    for row in await connection.fetch(query, alert["id"]):
        if row["ts"] <= newest:
            continue
        newest, side = row["ts"], (row["price"] > level) - (row["price"] < level)
        if before and side != before:  # it left its side, to the other one or to the level itself
            ids.append(f"msg_{alert['id']}_{'up' if before < 0 else 'down'}-{newest}")
        before = side
    return ids
