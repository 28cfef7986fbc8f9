"""Decides which alerts fire, from what is committed and in the order of commits, and delivers their webhooks.

Both steps keep their position in the database, so each crossing becomes one webhook, whatever ends or doubles a worker.
"""

import asyncio
import logging
from collections import defaultdict
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
DELIVERIES_AT_ONCE: Final = 10
"""Webhooks that are claimed together. One after the other, they take less than the lease."""
MAX_DELIVERIES: Final = 200
"""Webhooks of one run. The next one continues."""

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
    while await decide(db, now):
        pass
    await deliver(db, sender)
    await alerts.delete_old(db)


async def decide(db: Database, now: int) -> bool:
    """Decides the next commits, and the conditions once they are the last ones. Returns whether there are more."""
    async with db.transaction() as connection:
        position = await alerts.lock_progress(connection)
        newest = await version.current(connection)
        listed = [
            _Alert(row["id"], alerts.rule_of(row), alerts.state_of(row), row["muted"])
            for row in await alerts.list_alerts(connection)
        ]
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
        await alerts.set_progress(connection, position, {alert.id: alert.state for alert in listed})
        return has_more


async def _decide_prices(db: Executor, alert: _Alert, points: Sequence[Point]) -> list[Firing]:
    rule = alert.rule
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
    found = await alerts.conditions(db, sorted({alert.rule.ticker for alert in listed}), now)
    for alert in listed:
        condition = _condition(alert.rule, found[alert.rule.ticker], now)
        if condition is not None:
            holds, firing = condition
            for one in alert_rules.decide_condition(alert.state, holds=holds, firing=firing):
                await _add(db, alert, one)


def _condition(rule: AlertRule, found: Record, now: int) -> tuple[bool, Firing] | None:
    """Returns whether the condition of a rule holds, and what fires if it begins to; None for other kinds."""
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
        case AlertKind.DELIVERY_DIFFERS:
            ts, percent = found["delivery_ts"] or 0, found["difference_percent"]
            holds = percent is not None and rule.percent is not None and percent >= rule.percent
            subject = f"{rule.ticker}: the delivery price of {times.iso(ts)}"
            text = f"{subject} differs from the mean of our own data by {percent or 0:.4f} %"
            return holds, Firing(f"delivery-{ts}", ts, text, found["delivery_price"])
        case _:
            return None


async def _add(db: Executor, alert: _Alert, firing: Firing) -> None:
    if alert.is_muted:
        return
    await alerts.add_delivery(db, alert.id, firing.key, alerts.build_event(alert.id, alert.rule, firing))
    log.info("alert %d fires: %s", alert.id, firing.text)


async def deliver(db: Database, sender: WebhookSender) -> int:
    """Delivers the webhooks that are due. Returns how many receivers accepted."""
    accepted = 0
    for _ in range(MAX_DELIVERIES // DELIVERIES_AT_ONCE):
        claimed = await alerts.claim(db, DELIVERIES_AT_ONCE)
        by_alert = defaultdict[int, list[Record]](list)
        for one in claimed:
            by_alert[one["alert_id"]].append(one)
        accepted += sum(await asyncio.gather(*(_deliver_all(db, sender, group) for group in by_alert.values())))
        if len(claimed) < DELIVERIES_AT_ONCE:
            break
    return accepted


async def _deliver_all(db: Database, sender: WebhookSender, claimed: Sequence[Record]) -> int:
    """Delivers webhooks of one alert, one after the other. Returns how many the receiver accepted."""
    return sum([await _deliver(db, sender, one) for one in claimed])


async def _deliver(db: Database, sender: WebhookSender, claimed: Record) -> bool:
    try:
        await sender.send(claimed["url"], AlertFormat(claimed["format"]), claimed["id"], alerts.event_of(claimed))
    except WebhookError as error:
        metrics.webhooks.labels("error").inc()
        is_last = await alerts.set_failed(db, claimed["id"], str(error), claimed["attempts"])
        level = logging.ERROR if is_last else logging.WARNING
        log.log(level, "webhook %s is not delivered: %s; %s", claimed["id"], error, "given up" if is_last else "retrying")
        return False
    metrics.webhooks.labels("ok").inc()
    await alerts.set_delivered(db, claimed["id"])
    return True
