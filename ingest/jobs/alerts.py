"""Decides which alerts fire, from what is committed and in the order of commits, and delivers their webhooks.

Both steps keep their position in the database, so each crossing becomes one webhook, whatever ends or doubles a worker.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from db import alert_rules, times
from db.alert_rules import AlertRule, Firing, Point, State
from db.pool import Database, Executor, Record
from db.queries import alerts, clock, version
from db.rows import AlertFormat, AlertKind
from ingest import metrics
from ingest.webhooks import WebhookError, WebhookSender

PRICES_PER_TRANSACTION: Final = 2_000
DELIVERIES_AT_ONCE: Final = 20
"""Webhooks that are sent at the same time, at most one of each alert."""
MAX_DURATION_S: Final = 40.0
"""Time of one run. The next one continues. The actor has a minute."""
DELETE_INTERVAL_S: Final = 3_600

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Alert:
    id: int
    rule: AlertRule
    state: State
    is_muted: bool


async def run(db: Database, sender: WebhookSender, agreed_now: float | None) -> None:
    """Decides and delivers. `agreed_now` is the time by the clocks that agree, in UNIX seconds; None if it is not known."""
    # A database whose clock is behind would otherwise never have seen the newest minutes begin.
    now = int(max(await clock.now(db), agreed_now or 0))
    deadline = time.monotonic() + MAX_DURATION_S
    await deliver(db, sender, deadline - MAX_DURATION_S / 2)  # a long backlog delays no webhook
    while await decide(db, now) and time.monotonic() < deadline - MAX_DURATION_S / 4:
        pass
    await deliver(db, sender, deadline)
    if now % DELETE_INTERVAL_S < times.MINUTE:
        await alerts.delete_old(db)


async def decide(db: Database, now: int) -> bool:
    """Decides the next commits, and the conditions once they are the last ones. Returns whether there are more."""
    async with db.transaction() as connection:
        position = await alerts.lock_progress(connection)
        newest = await version.current(connection)
        listed = [found for row in await alerts.list_alerts(connection) if (found := _build(row)) is not None]
        before = {alert.id: dict(alert.state) for alert in listed}
        if not listed:
            await alerts.set_progress(connection, newest, {})
            return False
        rows = await alerts.prices_after(connection, position, PRICES_PER_TRANSACTION)
        has_more = len(rows) == PRICES_PER_TRANSACTION
        for alert in listed:
            points = [Point(row["ts"], row["price"]) for row in rows if row["ticker"] == alert.rule.ticker and row["ts"] <= now]
            for firing in await _decide_prices(connection, alert, points):
                await _add(connection, alert, firing)
        if not has_more:
            await _decide_conditions(connection, listed, now)
        position = int(rows[-1]["id"]) if has_more else max(newest, position)
        changed = {alert.id: alert.state for alert in listed if alert.state != before[alert.id]}
        await alerts.set_progress(connection, position, changed)
        return has_more


def _build(row: Record) -> _Alert | None:
    """Returns the alert of a row; None if somebody stored a rule that cannot hold."""
    try:
        return _Alert(row["id"], alerts.rule_of(row), alerts.state_of(row), row["muted"])
    except ValueError as error:
        log.warning("alert %d is ignored: %s", row["id"], error)
        return None


async def _decide_prices(db: Executor, alert: _Alert, points: Sequence[Point]) -> list[Firing]:
    rule = alert.rule
    points = [point for point in points if point.ts > alert.state["ts"]]  # others say what the price was
    if not points:
        return []
    if rule.kind is AlertKind.CROSSES:
        return alert_rules.decide_crossings(rule, alert.state, points)
    if rule.kind is AlertKind.MOVES:
        low = min(point.ts for point in points) - (rule.minutes or 0) * times.MINUTE
        earlier = await alerts.points_between(db, rule.ticker, low, max(point.ts for point in points))
        return alert_rules.decide_moves(rule, alert.state, points, earlier)
    return []


async def _decide_conditions(db: Executor, listed: Sequence[_Alert], now: int) -> None:
    listed = [alert for alert in listed if alert.rule.kind not in (AlertKind.CROSSES, AlertKind.MOVES)]
    found = await alerts.conditions(db, sorted({alert.rule.ticker for alert in listed}), now) if listed else {}
    for alert in listed:
        holds, firing = _condition(alert.rule, found[alert.rule.ticker], now)
        if alert.rule.kind is AlertKind.DELIVERY_DIFFERS and firing.ts != alert.state["ts"] and alert.state["held"] is not None:
            alert.state["held"] = False  # each day has its own
        alert.state["ts"] = firing.ts
        for one in alert_rules.decide_condition(alert.state, holds=holds, firing=firing):
            await _add(db, alert, one)


def _condition(rule: AlertRule, found: Record, now: int) -> tuple[bool, Firing]:
    """Returns whether the condition of a rule holds, and what fires if it begins to."""
    limit_s = (rule.minutes or 0) * times.MINUTE
    match rule.kind:
        case AlertKind.STALE | AlertKind.STREAM_SILENT:
            newest = found["newest" if rule.kind is AlertKind.STALE else "newest_range"]
            since = max(newest or 0, found["tracked_since"] or 0)
            what = "no newer minute" if rule.kind is AlertKind.STALE else "no newer ticks"
            text = f"{rule.ticker}: {what} than {times.iso(since)} is stored"
            # Ticks are stored with the minute that they belong to, once it is over.
            holds = found["tracked_since"] is not None and now - since > limit_s + times.MINUTE
            return holds, Firing(f"{rule.kind.lower()}-{since}", since, text)
        case AlertKind.GAP:
            first = found["first_gap"] or 0
            text = f"{rule.ticker}: {found['open_gaps']} minutes are missing, the first is {times.iso(first)}"
            return found["open_gaps"] >= (rule.minutes or 1), Firing(f"gap-{first}-{now // times.MINUTE}", first, text)
        case _:
            ts, percent = found["delivery_ts"] or 0, found["difference_percent"]
            holds = percent is not None and rule.percent is not None and percent >= rule.percent
            subject = f"{rule.ticker}: the delivery price of {times.iso(ts)}"
            text = f"{subject} differs from the mean of our own data by {percent or 0:.4f} %"
            return holds, Firing(f"delivery-{ts}", ts, text, found["delivery_price"])


async def _add(db: Executor, alert: _Alert, firing: Firing) -> None:
    if alert.is_muted:
        return
    await alerts.add_delivery(db, alert.id, firing.key, alerts.build_event(alert.id, alert.rule, firing))
    log.info("alert %d fires: %s", alert.id, firing.text)


async def deliver(db: Database, sender: WebhookSender, deadline: float) -> int:
    """Delivers the webhooks that are due, until a deadline of the monotonic clock. Returns how many receivers accepted.

    A slow receiver delays only the webhooks of its own alert.
    """
    accepted = 0
    while time.monotonic() < deadline:
        claimed = await alerts.claim(db, DELIVERIES_AT_ONCE)
        accepted += sum(await asyncio.gather(*(_deliver(db, sender, one) for one in claimed)))
        if not claimed:
            break
    return accepted


async def _deliver(db: Database, sender: WebhookSender, claimed: Record) -> bool:
    """Delivers one webhook. No failure of it ends the run."""
    try:
        await sender.send(claimed["url"], AlertFormat(claimed["format"]), claimed["id"], alerts.event_of(claimed))
    except Exception as error:
        if not isinstance(error, WebhookError):
            log.exception("webhook %s failed unexpectedly", claimed["id"])
        metrics.webhooks.labels("error").inc()
        is_last = await alerts.set_failed(db, claimed["id"], str(error))
        level = logging.ERROR if is_last else logging.WARNING
        log.log(level, "webhook %s is not delivered: %s; %s", claimed["id"], error, "given up" if is_last else "retrying")
        return False
    metrics.webhooks.labels("ok").inc()
    await alerts.set_delivered(db, claimed["id"])
    return True
