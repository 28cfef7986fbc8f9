"""Alerts: what fires, how often, and what the receivers of webhooks get."""

import asyncio
import functools
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook

from db import alert_rules, times
from db.alert_rules import AlertRule, Point
from db.pool import Database
from db.queries import alerts, delivery_prices, gaps, write_lock
from db.rows import AlertDirection, AlertFormat, AlertKind, DeliveryBasis
from ingest.jobs import alerts as job
from ingest.settings import Settings
from ingest.webhooks import WebhookError, WebhookSender, encode, is_public, open_sender
from tests.db.test_digests import run_verb
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

SECRETS = ("whsec_" + "A" * 43 + "=", "whsec_" + "B" * 43 + "=")
NOW = START_TS + 60 * 1_000


@dataclass
class Receiver:
    """A server that records webhooks. `answer` is its response."""

    url: str
    received: list[tuple[dict[str, str], str]] = field(default_factory=list)
    answer: Callable[[], web.StreamResponse] = lambda: web.Response(status=204)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.received]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver("")

    async def handle(request: web.Request) -> web.StreamResponse:
        found.received.append(({name.lower(): value for name, value in request.headers.items()}, await request.text()))
        return found.answer()

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield found
    await runner.cleanup()


@asynccontextmanager
async def _sender(*, private: bool = True, secrets: tuple[str, ...] = SECRETS) -> AsyncIterator[WebhookSender]:
    settings = Settings(webhook_private_addresses=private, webhook_secrets=tuple(SecretStr(one) for one in secrets))
    async with open_sender(settings) as sender:
        yield sender


async def _create(db: Database, url: str, kind: AlertKind = AlertKind.CROSSES, **options: Any) -> int:
    async with db.transaction() as connection:
        record = await alerts.create(connection, AlertRule(kind, "btc_usd", url, **options), NOW)
    return int(record["id"])


async def _run(db: Database, now: int = NOW) -> None:
    while await job.decide(db, now):
        pass
    async with _sender() as sender:
        await job.deliver(db, sender, time.monotonic() + 60)


async def _retry_now(db: Database) -> None:
    await db.execute("UPDATE alert_delivery SET next_attempt_at = 0")


def _prices(*prices: object, start: int = 0) -> list[Any]:
    return [row("btc_usd", START_TS + 60 * (start + number), str(price)) for number, price in enumerate(prices)]


async def test_a_crossing_is_delivered_once_as_a_standard_webhook(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    alert_id = await _create(db, receiver.url, level=Decimal(100))
    await store(db, _prices(95, "100.5", 101, 99, start=1))
    for _ in range(3):
        await _run(db)
    assert receiver.ids == [f"msg_{alert_id}_up-{START_TS + 120}", f"msg_{alert_id}_down-{START_TS + 240}"]
    headers, body = receiver.received[0]
    for secret in SECRETS:
        event = Webhook(secret).verify(body, headers)
    assert event == {
        "type": "alert.crosses",
        "timestamp": times.iso(START_TS + 120),
        "data": {
            "kind": "CROSSES",
            "alert": alert_id,
            "ticker": "btc_usd",
            "ts": START_TS + 120,
            "timestamp": times.iso(START_TS + 120),
            "price": "100.5",
            "text": "btc_usd rose to 100.5, across 100",
        },
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["up-2", "down-3", "up-4", "down-5", "up-8"]),
        ({"direction": AlertDirection.UP}, ["up-2", "up-4", "up-8"]),
        ({"direction": AlertDirection.DOWN}, ["down-3", "down-5"]),
        ({"hysteresis": Decimal(3)}, ["up-2", "down-7"]),
    ],
)
async def test_hysteresis_and_direction_limit_crossings(
    db: Database, receiver: Receiver, options: dict[str, Any], expected: list[str]
) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    alert_id = await _create(db, receiver.url, level=Decimal(100), **options)
    await store(
        db,
        _prices(99, 101, 99, 101, "99.5", 104, 96, 101, start=1)
        if "hysteresis" in options
        else _prices(99, 101, 99, 101, "99.5", 90, 91, 102, start=1),
    )
    await _run(db)
    prefix = len(f"msg_{alert_id}_")
    found = [one[prefix:].split("-") for one in receiver.ids]
    assert [f"{word}-{(int(ts) - START_TS) // 60}" for word, ts in found] == expected + (
        ["up-8"] if "hysteresis" in options else []
    )


def _crossings(prices: list[Decimal], level: Decimal) -> list[tuple[int, str]]:
    """Returns each change of side without a state machine: of the prices that are not at the level, or begin to be."""
    found = []
    side = None
    for number, price in enumerate(prices):
        above, below = price > level, price < level
        if side == "below" and not below:
            found.append((number, "up"))
        if side == "above" and not above:
            found.append((number, "down"))
        side = "above" if above else "below" if below else side if side == "at" or side is None else "at"
    return found


@given(st.lists(st.integers(97, 103), max_size=40), st.data())
def test_the_same_crossings_fire_however_the_commits_are_split(prices: list[int], data: st.DataObject) -> None:
    rule = AlertRule(AlertKind.CROSSES, "btc_usd", "http://example.org/", level=Decimal(100))
    points = [Point(60 * number, Decimal(price)) for number, price in enumerate(prices)]
    whole = alert_rules.decide_crossings(rule, alert_rules.initial_state(None, rule), points)
    state, parts, rest = alert_rules.initial_state(None, rule), [], points
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        parts += alert_rules.decide_crossings(rule, state, rest[:size])
        parts += alert_rules.decide_crossings(rule, state, rest[:size])  # again, as after a restart
        rest = rest[size:]
    assert parts == whole
    assert [(one.ts // 60, one.key.partition("-")[0]) for one in whole] == _crossings([p.price for p in points], Decimal(100))
    assert len({one.key for one in whole}) == len(whole)


async def test_two_workers_decide_and_deliver_each_crossing_once(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    alert_id = await _create(db, receiver.url, level=Decimal(100))
    generator = random.Random(3)  # noqa: S311  no secret
    prices = [generator.choice((99, 101)) for _ in range(60)]
    async with _sender() as sender:
        for number, price in enumerate(prices):
            await store(db, _prices(price, start=number))
            if number % 7 == 0:
                await asyncio.gather(*(job.run(db, sender, NOW) for _ in range(3)))
        await asyncio.gather(*(job.run(db, sender, NOW) for _ in range(3)))
    expected = [
        f"msg_{alert_id}_{word}-{START_TS + 60 * number}"
        for number, word in _crossings([Decimal(price) for price in prices], Decimal(100))
    ]
    assert sorted(receiver.ids) == sorted(expected)


async def test_old_and_future_minutes_fire_nothing(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90, start=10))
    await _create(db, receiver.url, level=Decimal(100))
    await store(db, _prices(110, 110))  # filled gaps: what the price was
    await store(db, [row("btc_usd", NOW + 86_400, "120")])  # from a wrong clock
    await _run(db)
    assert receiver.ids == []
    await store(db, _prices(111, start=11))
    await _run(db)
    assert len(receiver.ids) == 1


async def test_a_move_fires_once_until_the_price_is_quiet(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(100))
    alert_id = await _create(db, receiver.url, AlertKind.MOVES, percent=Decimal(5), minutes=3)
    await store(db, _prices(102, 104, 106, 108, 108, 108, 108, 108, 102, start=1))
    await _run(db)
    assert receiver.ids == [f"msg_{alert_id}_move-{START_TS + 180}", f"msg_{alert_id}_move-{START_TS + 540}"]
    assert "+6.00 %" in receiver.received[0][1]
    assert "-5.56 %" in receiver.received[1][1]


async def test_conditions_fire_when_they_begin_to_hold(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(100))
    await store_ranges(db, [range_row("btc_usd", START_TS)])
    stale = await _create(db, receiver.url, AlertKind.STALE, minutes=5)
    silent = await _create(db, receiver.url, AlertKind.STREAM_SILENT, minutes=5)
    gap = await _create(db, receiver.url, AlertKind.GAP, minutes=2)
    delivery = await _create(db, receiver.url, AlertKind.DELIVERY_DIFFERS, percent=Decimal("0.1"))
    await _run(db, START_TS + 120)
    assert receiver.ids == []
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, {"btc_usd": (START_TS, START_TS + 300)}, {})
        ts = START_TS // times.DAY * times.DAY + delivery_prices.DELIVERY_SECOND
        means = {ts: (Decimal(101), DeliveryBasis.RANGE)}
        await delivery_prices.store(connection, "btc_usd", {ts: Decimal(100)}, means)
    for _ in range(2):
        await _run(db, START_TS + 600)
    expected = [
        f"msg_{stale}_stale-{START_TS}",
        f"msg_{silent}_stream_silent-{START_TS}",
        f"msg_{gap}_gap-{START_TS + 60}-{START_TS // 60 + 10}",
        f"msg_{delivery}_delivery-{ts}",
    ]
    assert sorted(receiver.ids) == sorted(expected)
    await store(db, _prices(100, start=10))
    await _run(db, START_TS + 610)
    await _run(db, START_TS + 1_200)
    assert f"msg_{stale}_stale-{START_TS + 600}" in receiver.ids


async def test_no_text_of_a_receiver_stops_other_webhooks(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    first = await _create(db, receiver.url, level=Decimal(100))
    second = await _create(db, receiver.url, level=Decimal(100))
    await store(db, _prices(110, start=1))
    receiver.answer = lambda: web.Response(status=500, body=b"bad\x00body\x1b[31m\nend")
    await _run(db)
    for alert_id in (first, second):
        (record,) = await alerts.deliveries(db, [alert_id], 10)
        assert (record["attempts"], record["error"]) == (1, "HTTP 500: bad body [31m end")


async def test_an_error_does_not_contain_the_path_of_the_url(receiver: Receiver) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"no HTTP at all\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/services/SECRET"
    async with server, _sender() as sender:
        with pytest.raises(WebhookError) as raised:
            await sender.send(url, AlertFormat.NTFY, "msg_1", {"text": "x"})
        assert "SECRET" not in str(raised.value)
        with pytest.raises(WebhookError) as raised:
            await sender.send(receiver.url.replace("//", "//x.invalid.") + "SECRET", AlertFormat.NTFY, "msg_1", {"text": "x"})
        assert "SECRET" not in str(raised.value)


async def test_a_slow_receiver_delays_only_its_own_alert(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = await _create(db, f"http://127.0.0.1:{silent.getsockname()[1]}/", level=Decimal(100))
        await store(db, _prices(*[90, 110] * 10))
        assert not await job.decide(db, NOW)
        quick = await _create(db, receiver.url, level=Decimal(100))
        await alerts.add_test(db, quick)
        claimed = [await alerts.claim(db, 20) for _ in range(2)]
    assert [len(some) for some in claimed] == [2, 1]
    records = await alerts.deliveries(db, [slow], 100)
    assert {record["attempts"] for record in records} == {0}


async def test_a_webhook_of_a_wrong_clock_or_of_a_muted_alert(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    alert_id = await _create(db, receiver.url, level=Decimal(100))
    await store(db, _prices(110, start=1))
    assert not await job.decide(db, NOW)
    await db.execute("UPDATE alert_delivery SET next_attempt_at = next_attempt_at + 31536000")
    await alerts.set_muted(db, alert_id, muted=True)
    await alerts.add_test(db, alert_id)
    await _run(db)
    assert [one.split("_")[2].split("-")[0] for one in receiver.ids] == ["test"]
    await alerts.set_muted(db, alert_id, muted=False)
    await _run(db)
    assert receiver.ids[1:] == [f"msg_{alert_id}_up-{START_TS + 60}"]


async def test_what_holds_already_does_not_fire(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(100))
    ts = START_TS // times.DAY * times.DAY + delivery_prices.DELIVERY_SECOND
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, {"btc_usd": (START_TS, START_TS + 900)}, {})
        means = {ts: (Decimal(101), DeliveryBasis.RANGE)}
        await delivery_prices.store(connection, "btc_usd", {ts: Decimal(100)}, means)
    for kind, options in (
        (AlertKind.STALE, {"minutes": 5}),
        (AlertKind.GAP, {"minutes": 1}),
        (AlertKind.DELIVERY_DIFFERS, {"percent": Decimal("0.1")}),
    ):
        alert_id = await _create(db, receiver.url, kind, **options)
    await _run(db)
    await _run(db)
    assert receiver.ids == []
    for day in (1, 2, 3):  # each day differs
        async with write_lock.write_transaction(db) as connection:
            at = ts + day * times.DAY
            await delivery_prices.store(connection, "btc_usd", {at: Decimal(100)}, {at: (Decimal(101), DeliveryBasis.RANGE)})
        await _run(db)
        await _run(db)
    assert receiver.ids == [f"msg_{alert_id}_delivery-{ts + day * times.DAY}" for day in (1, 2, 3)]


async def test_the_first_crossing_needs_no_distance(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices("99.9"))
    await _create(db, receiver.url, level=Decimal(100), hysteresis=Decimal(5))
    await store(db, _prices(101, "99.9", 101, start=1))
    await _run(db)
    assert len(receiver.ids) == 1


async def test_a_muted_alert_and_a_deleted_one_deliver_nothing(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    muted = await _create(db, receiver.url, level=Decimal(100))
    deleted = await _create(db, receiver.url, level=Decimal(100))
    await alerts.set_muted(db, muted, muted=True)
    await store(db, _prices(110, start=1))
    assert not await job.decide(db, NOW)
    assert await alerts.delete(db, deleted)
    assert not await alerts.delete(db, deleted)
    await _run(db)
    assert receiver.ids == []


async def test_a_failing_receiver_gets_the_same_id_for_a_day(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    alert_id = await _create(db, receiver.url, level=Decimal(100))
    await store(db, _prices(110, start=1))
    receiver.answer = lambda: web.Response(status=500, text="no disk\n")
    await _run(db)
    await _run(db)  # not due yet
    (record,) = await alerts.deliveries(db, [alert_id], 10)
    assert (record["attempts"], record["error"], record["failed_at"]) == (1, "HTTP 500: no disk", None)
    assert record["next_attempt_at"] - record["created_at"] >= 60
    for _ in range(alerts.MAX_ATTEMPTS + 1):
        await _retry_now(db)
        await _run(db)
    (record,) = await alerts.deliveries(db, [alert_id], 10)
    assert record["attempts"] == alerts.MAX_ATTEMPTS == len(receiver.received)
    assert set(receiver.ids) == {record["id"]}
    assert record["failed_at"] is not None
    assert await alerts.count_failed(db) == 1
    delays = sum(min(alerts.MAX_DELAY_S, 60 * 2**attempt) for attempt in range(alerts.MAX_ATTEMPTS - 1))
    assert 20 * 3_600 < delays < 28 * 3_600


async def test_a_worker_that_ends_while_it_delivers_loses_nothing(db: Database, receiver: Receiver) -> None:
    await track(db, "btc_usd")
    await store(db, _prices(90))
    await _create(db, receiver.url, level=Decimal(100))
    await store(db, _prices(110, start=1))
    assert not await job.decide(db, NOW)
    (claimed,) = await alerts.claim(db, 10)  # and ends
    await _run(db)
    assert receiver.ids == []  # another worker waits for the lease
    await _retry_now(db)
    await _run(db)
    assert receiver.ids == [claimed["id"]]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://0.0.0.0:{port}/",
        "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/",
        "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://[64:ff9b::7f00:1]:{port}/",
        "http://{host}:{port}/", "http://127.1:{port}/", "http://127.0.0.1.:{port}/",
    ],
)  # fmt: skip
async def test_no_webhook_reaches_a_private_address(receiver: Receiver, url: str) -> None:
    port = receiver.url.split(":")[2].split("/")[0]
    async with _sender(private=False) as sender:
        with pytest.raises(WebhookError):
            await sender.send(url.format(port=port, host=socket.gethostname()), AlertFormat.NTFY, "msg_1", {"text": "x"})
    assert receiver.received == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False), ("100.64.0.1", False),
        ("169.254.169.254", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False), ("::", False), ("::127.0.0.1", False), ("::ffff:0:127.0.0.1", False), ("192.88.99.1", False),
        ("64:ff9b:1::7f00:1", False),
    ],
)  # fmt: skip
def test_an_address_that_contains_a_private_one_is_private(address: str, expected: bool) -> None:
    assert is_public(address) is expected


async def test_a_receiver_cannot_redirect_delay_or_fill_the_worker(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {"text": "x"}
    async with _sender() as sender:
        receiver.answer = lambda: web.Response(status=302, headers={"Location": receiver.url + "/other"})
        with pytest.raises(WebhookError, match="HTTP 302"):
            await sender.send(receiver.url, AlertFormat.NTFY, "msg_1", event)
        assert len(receiver.received) == 1
        receiver.answer = lambda: web.Response(status=500, body=b"x" * 50_000_000)
        with pytest.raises(WebhookError) as raised:
            await sender.send(receiver.url, AlertFormat.NTFY, "msg_1", event)
        assert len(str(raised.value)) < 300
    monkeypatch.setattr("ingest.webhooks.TIMEOUT_S", 0.3)
    async with _sender() as hasty_sender:
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(WebhookError, match="no response within"),
        ):
            await hasty_sender.send(f"http://127.0.0.1:{silent.getsockname()[1]}/", AlertFormat.NTFY, "msg_1", event)


def test_bodies_of_other_services() -> None:
    event = {"text": "btc_usd rose @everyone", "kind": "CROSSES", "timestamp": "2024-01-15T11:40:00Z"}
    assert encode(AlertFormat.SLACK, event) == ('{"text":"btc_usd rose @everyone"}', "application/json")
    assert encode(AlertFormat.DISCORD, event)[0] == '{"content":"btc_usd rose @everyone","allowed_mentions":{"parse":[]}}'
    assert encode(AlertFormat.NTFY, event) == ("btc_usd rose @everyone", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": AlertKind.CROSSES}, "level: CROSSES needs level"),
        ({"kind": AlertKind.MOVES, "percent": Decimal(1)}, "minutes: MOVES needs percent and minutes"),
        ({"kind": AlertKind.GAP, "minutes": 1, "level": Decimal(1)}, "level: GAP needs minutes"),
        ({"kind": AlertKind.STALE, "minutes": 0}, "minutes (0) must be from 1 to 10080"),
        ({"kind": AlertKind.CROSSES, "level": Decimal(-1)}, "level (-1) must be above 0"),
        ({"kind": AlertKind.STALE, "minutes": 1, "hysteresis": Decimal(1)}, "hysteresis and direction belong to CROSSES"),
        (
            {"kind": AlertKind.CROSSES, "level": Decimal(1), "hysteresis": Decimal(2)},
            "hysteresis (2) must be 0 or more, and less",
        ),
        ({"kind": AlertKind.STALE, "minutes": 1, "url": "ftp://example.org"}, "url: should look like"),
        ({"kind": AlertKind.STALE, "minutes": 1, "url": "https://me:secret@example.org/"}, "url: should look like"),
    ],
)
def test_a_rule_that_cannot_hold_is_explained(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match="^" + expected.replace("(", r"\(").replace(")", r"\)")):
        AlertRule(**{"ticker": "btc_usd", "url": "https://example.org/hook", **options})


@pytest.mark.slow
async def test_the_command_adds_lists_tests_and_deletes_alerts(db: Database, dsn: str, receiver: Receiver) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        return run_verb(dsn, "alerts", *arguments, package="ingest", status=status, COLUMNS="200")

    await track(db, "btc_usd")
    assert "no alerts" in await asyncio.to_thread(run)
    options = ("--kind", "crosses", "--level", "70000.5", "--hysteresis", "10", "--direction", "up", "--url", receiver.url)
    assert "btc_usd CROSSES level 70000.5 UP hysteresis 10" in await asyncio.to_thread(run, "add", "btc_usd", *options)
    assert "a worker delivers msg_1_test-" in await asyncio.to_thread(run, "test", "1")
    await _run(db)
    assert "This is a test of alert 1" in receiver.received[0][1]
    await asyncio.to_thread(run, "mute", "1")
    assert "muted" in await asyncio.to_thread(run)
    assert "there is no alert 9" in await asyncio.to_thread(lambda: run("delete", "9", status=1))
    assert "nobody_usd is not a known ticker" in await asyncio.to_thread(lambda: run("add", "nobody_usd", *options, status=1))
    for wrong in ("abc", "NaN"):
        arguments = ("add", "btc_usd", "--level", wrong)
        assert "is not a number like" in await asyncio.to_thread(functools.partial(run, *arguments, status=2))
    assert "is none of CROSSES" in await asyncio.to_thread(lambda: run("add", "btc_usd", "--kind", "x", status=2))
    await asyncio.to_thread(run, "delete", "1")
    assert "no alerts" in await asyncio.to_thread(run)
