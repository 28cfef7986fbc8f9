"""`python -m ingest alerts`: lists, adds, mutes, tests and deletes alerts."""

import argparse
import asyncio
import re
import sys
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from rich.table import Table

from db import times
from db.alert_rules import AlertRule
from db.errors import CommandLineError, DatabaseError, UsageError
from db.pool import Database, Record, open_database
from db.queries import alerts, clock, tickers
from db.rows import AlertDirection, AlertFormat, AlertKind
from db.runtime import embedded_lookup
from ingest.commands.arguments import console
from ingest.settings import Settings

E = TypeVar("E", bound=StrEnum)

MAX_DELIVERIES = 5
"""Webhooks of an alert that the list shows, if they are not delivered."""


def parse_kind(text: str) -> AlertKind:
    """Returns the kind with this name. Raises ValueError."""
    return _parse(AlertKind, text)


def parse_direction(text: str) -> AlertDirection:
    """Returns the direction with this name. Raises ValueError."""
    return _parse(AlertDirection, text)


def parse_format(text: str) -> AlertFormat:
    """Returns the format with this name. Raises ValueError."""
    return _parse(AlertFormat, text)


def parse_number(text: str) -> Decimal:
    """Returns a finite number. Raises ValueError."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"{text[:40]!r} is not a number like 70000.5")
    return number


def _parse(values: type[E], text: str) -> E:
    if text.upper() not in values.__members__:
        raise ValueError(f"{text[:40]!r} is none of {', '.join(values.__members__)}")
    return values[text.upper()]


def run(options: argparse.Namespace) -> int:
    """`alerts`."""
    try:
        return asyncio.run(_run(options))
    except DatabaseError as error:
        raise CommandLineError(str(error)) from error


async def _run(options: argparse.Namespace) -> int:
    dsn = embedded_lookup.postgres_url(Settings.read())
    async with open_database(dsn, application_name="tickgraph alerts") as db:
        if options.action == "add":
            return await _add(db, options)
        if options.action == "list":
            return await _list(db)
        if options.subject is None or not re.fullmatch(r"\d{1,18}", options.subject, re.ASCII):
            raise UsageError(f"{options.action}: name the number of an alert, as `python -m ingest alerts` lists it")
        return await _change(db, options.action, int(options.subject))


async def _add(db: Database, options: argparse.Namespace) -> int:
    if options.subject is None or options.kind is None or options.url is None:
        raise UsageError("add: name a ticker, --kind and --url")
    try:
        rule = AlertRule(
            kind=options.kind,
            ticker=options.subject.strip().lower(),
            url=options.url,
            level=options.level,
            hysteresis=options.hysteresis,
            direction=options.direction,
            percent=options.percent,
            minutes=options.minutes,
            format=options.format,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if rule.ticker not in await tickers.filter_known(db, [rule.ticker]):
        raise CommandLineError(f"{rule.ticker} is not a known ticker. `python -m ingest status` lists the known tickers")
    async with db.transaction() as connection:
        record = await alerts.create(connection, rule, int(await clock.now(connection)))
    print(f"alert {record['id']}: {describe(record)}")
    return 0


async def _change(db: Database, action: str, alert_id: int) -> int:
    match action:
        case "delete":
            found = await alerts.delete(db, alert_id)
        case "test":
            delivery_id = await alerts.add_test(db, alert_id)
            found = delivery_id is not None
            if found:
                sys.stderr.write(f"a worker delivers {delivery_id} within a minute\n")
        case _:
            found = await alerts.set_muted(db, alert_id, muted=action == "mute") is not None
    if not found:
        raise CommandLineError(f"there is no alert {alert_id}. `python -m ingest alerts` lists them")
    return 0


async def _list(db: Database) -> int:
    listed = await alerts.list_alerts(db)
    if not listed:
        print("no alerts: `python -m ingest alerts add --help` shows how to add one")
        return 0
    table = Table(box=None, header_style="bold")
    for title in ("alert", "rule", "webhook", "state"):
        table.add_column(title, overflow="fold")
    found = await alerts.deliveries(db, [record["id"] for record in listed], MAX_DELIVERIES)
    for record in listed:
        table.add_row(str(record["id"]), describe(record), record["url"], "muted" if record["muted"] else "active")
        for delivery in found:
            if delivery["alert_id"] == record["id"] and delivery["delivered_at"] is None:
                state = "given up" if delivery["failed_at"] else "to be delivered"
                reason = f": {delivery['error']}" if delivery["error"] else ""
                text = f"{alerts.event_of(delivery)['text']} ({times.iso(delivery['created_at'])})"
                table.add_row("", text, delivery["id"], f"{state} after {delivery['attempts']} attempts{reason}")
    console().print(table)
    return 0


def describe(record: Record) -> str:
    """Returns a rule as one line."""
    parts = [record["ticker"], record["kind"]]
    parts += [f"{name} {_plain(record[name])}" for name in ("level", "percent", "minutes") if record[name] is not None]
    if record["direction"] != AlertDirection.EITHER:
        parts.append(record["direction"])
    if record["hysteresis"]:
        parts.append(f"hysteresis {_plain(record['hysteresis'])}")
    return " ".join(parts)


def _plain(number: Decimal | int) -> str:
    return f"{number:f}" if isinstance(number, Decimal) else str(number)
