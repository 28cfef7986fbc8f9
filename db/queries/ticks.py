"""The newest tick of each ticker, passed from the stream process to the API processes by notifications, not stored."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

import orjson

from db import times
from db.pool import Executor
from db.rows import NAME_PATTERN, validate_price

CHANNEL: Final = "tickgraph_ticks"
MAX_PAYLOAD_BYTES: Final = 7_000
"""PostgreSQL accepts less than 8,000 bytes."""

NOTIFY: Final = f"""
SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload
"""  # noqa: S608  inserts a constant

Ticks = Mapping[str, tuple[int, Decimal]]
"""The newest tick of each ticker: UNIX milliseconds by the exchange's clock, and price."""


async def notify_ticks(db: Executor, ticks: Ticks) -> None:
    """Notifies the listeners of CHANNEL, in as few notifications as fit."""
    if ticks:
        await db.execute(NOTIFY, list(_payloads(ticks)))


def parse_notification(payload: str) -> dict[str, tuple[int, Decimal]]:
    """Returns the ticks of a notification. Any user of the database can send one. Raises ValueError if it is invalid."""
    try:
        found = {name: (at_ms, validate_price(Decimal(price))) for name, (at_ms, price) in orjson.loads(payload).items()}
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{payload[:80]!r} is no notification of ticks") from error
    for name, (at_ms, _) in found.items():
        if not re.fullmatch(NAME_PATTERN, name) or type(at_ms) is not int or not 0 <= at_ms < times.END * 1_000:
            raise ValueError(f"{payload[:80]!r} is no notification of ticks")
    return found


def _payloads(ticks: Ticks) -> Iterator[str]:
    part: dict[str, tuple[int, str]] = {}
    size = 0
    for name, (at_ms, price) in ticks.items():
        entry_size = len(name) + len(str(price)) + 24
        if size + entry_size > MAX_PAYLOAD_BYTES:
            yield orjson.dumps(part).decode()
            part, size = {}, 0
        part[name] = at_ms, f"{price:f}"
        size += entry_size
    yield orjson.dumps(part).decode()
