"""The protocol of the index channels: what is sent when, and what each message means. No I/O, time is an argument."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from db.rows import Reason
from ingest.deribit import channel
from ingest.deribit.channel import CHANNEL_PREFIX, ChannelSubscriptions, stream_url
from ingest.errors import PermanentError, RetryableError
from ingest.ticks import StreamMessage, TickRejection

NOW_US = 1_705_318_800_000_000


class Connection:
    """One side of a connection, driven by hand."""

    def __init__(self, *names: str) -> None:
        self.now = 1_000.0
        self.channels = ChannelSubscriptions(self.now)
        self.channels.set_tickers(names)

    def due(self, after_s: float = 0.0) -> list[dict[str, Any]]:
        """Returns the messages that are due `after_s` seconds later."""
        self.now += after_s
        return [json.loads(text) for text in self.channels.due_messages(self.now, NOW_US)]

    def receive(self, text: str | dict[str, Any]) -> StreamMessage:
        return self.channels.receive(text if isinstance(text, str) else json.dumps(text), self.now, NOW_US + 1_000)

    def respond(self, requests: Sequence[dict[str, Any]], **changes: Any) -> StreamMessage:
        """Answers all requests; a subscription with all its channels."""
        found = StreamMessage()
        for request in requests:
            result = request["params"].get("channels", "ok")
            found = self.receive({"jsonrpc": "2.0", "id": request["id"], "result": result, "usOut": NOW_US, **changes})
        return found

    def subscribe(self) -> None:
        self.respond(self.due())


def tick_text(name: str, price: str, *, index: str | None = None, at_ms: object = 5) -> str:
    data = f'{{"timestamp":{at_ms},"price":{price},"index_name":"{index or name}"}}'
    return f'{{"jsonrpc":"2.0","method":"subscription","params":{{"channel":"{CHANNEL_PREFIX}{name}","data":{data}}}}}'


def test_a_connection_sets_the_heartbeat_reads_the_clock_and_subscribes_in_groups() -> None:
    names = [f"index_{number}" for number in range(45)]
    connection = Connection(*names)
    first = connection.due()
    assert [one["method"] for one in first] == ["public/set_heartbeat", "public/test", "public/subscribe"]
    subscribed = first[-1]["params"]["channels"]
    assert connection.due() == [], "the next group waits"
    for _ in range(2):
        (message,) = connection.due(channel.SUBSCRIBE_INTERVAL_S)
        subscribed += message["params"]["channels"]
    assert subscribed == [CHANNEL_PREFIX + name for name in names]
    assert connection.due(channel.SUBSCRIBE_INTERVAL_S) == []


def test_a_response_is_a_reading_of_the_clock() -> None:
    connection = Connection()
    received = connection.respond(connection.due())
    assert received.clock is not None
    assert (received.clock.exchange_us, received.clock.requested_us, received.clock.received_us) == (
        NOW_US,
        NOW_US,
        NOW_US + 1_000,
    )


def test_a_test_request_is_answered() -> None:
    connection = Connection()
    connection.subscribe()
    connection.receive({"method": "heartbeat", "params": {"type": "heartbeat"}})
    assert connection.due() == []
    connection.receive({"method": "heartbeat", "params": {"type": "test_request"}})
    assert [one["method"] for one in connection.due()] == ["public/test"]


@pytest.mark.parametrize("price", ["60000", "68241.5", "81110.428333", "5.9e-06"])
def test_a_price_keeps_its_digits(price: str) -> None:
    connection = Connection("btc_usd")
    connection.subscribe()
    (tick,) = connection.receive(tick_text("btc_usd", price)).ticks
    assert (tick.ticker, tick.at_ms, tick.price, tick.arrived_us) == ("btc_usd", 5, Decimal(price), NOW_US + 1_000)


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        (tick_text("btc_usd", "0"), TickRejection.INVALID),
        (tick_text("btc_usd", "-1"), TickRejection.INVALID),
        (tick_text("btc_usd", "NaN"), TickRejection.INVALID),
        (tick_text("btc_usd", "1e999999"), TickRejection.INVALID),
        (tick_text("btc_usd", '"68000"'), TickRejection.INVALID),
        (tick_text("btc_usd", "null"), TickRejection.INVALID),
        (tick_text("btc_usd", "true"), TickRejection.INVALID),
        (tick_text("btc_usd", "1", index="eth_usd"), TickRejection.INVALID),
        (tick_text("btc_usd", "1", at_ms=-1), TickRejection.INVALID),
        (tick_text("btc_usd", "1", at_ms='"5"'), TickRejection.INVALID),
        (tick_text("btc_usd", "1", at_ms=1.5), TickRejection.INVALID),
        (tick_text("eth_usd", "1"), TickRejection.NOT_SUBSCRIBED),
        ("{", TickRejection.INVALID),
        ("[]", TickRejection.INVALID),
        ("[" * 100_000, TickRejection.INVALID),
        ('{"id": 999, "result": []}', TickRejection.INVALID),
    ],
)
def test_an_invalid_message_is_counted_and_ends_nothing(text: str, rejection: TickRejection) -> None:
    connection = Connection("btc_usd")
    connection.subscribe()
    received = connection.receive(text)
    assert (received.ticks, received.rejections) == ([], [rejection])
    assert connection.receive(tick_text("btc_usd", "7")).ticks


def test_the_testnet_ends_the_connection_for_good() -> None:
    connection = Connection("btc_usd")
    with pytest.raises(PermanentError) as raised:
        connection.respond(connection.due(), testnet=True)
    assert raised.value.reason is Reason.TESTNET


def test_a_channel_that_is_left_out_is_reported_and_requested_again_later() -> None:
    connection = Connection("btc_usd", "no_such")
    *rest, subscription = connection.due()
    connection.respond(rest)
    connection.respond([subscription], result=[CHANNEL_PREFIX + "btc_usd"])
    assert (set(connection.channels.subscribed), connection.channels.refused) == ({"btc_usd"}, {"no_such"})
    assert connection.due(channel.SUBSCRIBE_INTERVAL_S) == []
    connection.receive({"method": "heartbeat"})
    later = _keep_alive(connection, channel.REFUSED_INTERVAL_S)
    (again,) = [one for one in later if one["method"] == "public/subscribe"]
    assert again["params"]["channels"] == [CHANNEL_PREFIX + "no_such"]
    connection.respond([again])
    assert connection.channels.refused == set()


def test_a_refused_subscription_is_repeated_later_and_the_connection_goes_on() -> None:
    connection = Connection("btc_usd")
    *rest, subscription = connection.due()
    connection.respond(rest)
    connection.receive({"id": subscription["id"], "error": {"code": 10028, "message": "too_many_requests"}})
    assert not connection.channels.subscribed
    assert [one["method"] for one in _keep_alive(connection, channel.REFUSED_INTERVAL_S)].count("public/subscribe") == 1


def test_tickers_follow_the_watchlist() -> None:
    connection = Connection("btc_usd", "eth_usd")
    connection.subscribe()
    connection.channels.set_tickers(["eth_usd", "sol_usd"])
    (leaving,) = connection.due(channel.SUBSCRIBE_INTERVAL_S)
    assert (leaving["method"], leaving["params"]["channels"]) == ("public/unsubscribe", [CHANNEL_PREFIX + "btc_usd"])
    assert connection.receive(tick_text("btc_usd", "1")).rejections == [TickRejection.NOT_SUBSCRIBED]
    (joining,) = connection.due(channel.SUBSCRIBE_INTERVAL_S)
    connection.respond([leaving, joining])
    assert set(connection.channels.subscribed) == {"eth_usd", "sol_usd"}


def test_a_silent_channel_is_subscribed_again_while_another_shows_the_connection_alive() -> None:
    connection = Connection("btc_usd", "eth_usd")
    connection.subscribe()
    methods = []
    for _ in range(40):
        connection.receive(tick_text("eth_usd", "1"))
        for message in connection.due(1.0):
            methods.append((message["method"], message["params"].get("channels")))
            connection.respond([message])
    name = [CHANNEL_PREFIX + "btc_usd"]
    assert [one for one in methods if one[1]] == [("public/unsubscribe", name), ("public/subscribe", name)]


@pytest.mark.parametrize("silence_s", [channel.IDLE_TIMEOUT_S + 0.1, 3_600])
def test_a_silent_connection_ends(silence_s: float) -> None:
    connection = Connection("btc_usd")
    connection.subscribe()
    with pytest.raises(RetryableError):
        connection.due(silence_s)


def test_a_request_without_a_response_ends_the_connection_also_while_ticks_arrive() -> None:
    connection = Connection("btc_usd")
    connection.subscribe()
    connection.due(channel.CLOCK_INTERVAL_S)
    connection.receive(tick_text("btc_usd", "1"))
    with pytest.raises(RetryableError, match="public/test"):
        connection.due(channel.RESPONSE_TIMEOUT_S + 0.1)


@pytest.mark.parametrize(
    ("rpc_url", "expected"),
    [
        ("https://www.deribit.com/api/v2", "wss://www.deribit.com/ws/api/v2"),
        ("http://127.0.0.1:8090/api/v2", "ws://127.0.0.1:8090/ws/api/v2"),
    ],
)
def test_the_address_of_the_stream_belongs_to_that_of_the_api(rpc_url: str, expected: str) -> None:
    assert stream_url(rpc_url) == expected


def _keep_alive(connection: Connection, seconds: float) -> list[dict[str, Any]]:
    """Lets the time pass with a heartbeat a second. Answers everything but subscriptions, and returns all messages."""
    sent = []
    for _ in range(int(seconds) + 1):
        connection.receive({"method": "heartbeat"})
        if "btc_usd" in connection.channels.subscribed:
            connection.receive(tick_text("btc_usd", "1"))
        messages = connection.due(1.0)
        connection.respond([one for one in messages if one["method"] != "public/subscribe"])
        sent += messages
    return sent
