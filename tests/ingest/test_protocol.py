"""Deribit's responses are parsed into values, or into an error that says how to handle it."""

import json
import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from db.rows import Reason
from ingest.deribit import protocol
from ingest.errors import PermanentError, RetryableError, SourceError, UnknownTickerError
from tests.conftest import ROOT

RECORDED = ROOT.parent / "shared" / "data" / "deribit"
US_OUT = 1_785_318_624_508_461


def _body(**changes: Any) -> bytes:
    envelope = {"jsonrpc": "2.0", "usIn": US_OUT - 273, "usOut": US_OUT, "usDiff": 273, "testnet": False}
    return json.dumps(envelope | changes).encode()


def _price_body(literal: str) -> bytes:
    return (
        b'{"testnet":false,"result":{"estimated_delivery_price":1,"index_price":%b},"usOut":5,"jsonrpc":"2.0"}'
        % literal.encode()
    )


@pytest.mark.parametrize("literal", ["60000", "68241.5", "81110.428333", "5.9e-06", "0.05"])
def test_a_price_keeps_every_digit(literal: str) -> None:
    assert protocol.price(protocol.parse_envelope(200, {}, _price_body(literal)))[0] == Decimal(literal)


def test_everything_but_the_result_may_be_missing() -> None:
    envelope = protocol.parse_envelope(200, {}, b'{"result": {"index_price": 1.5}}')
    assert (protocol.price(envelope), envelope.us_out) == ((Decimal("1.5"), None), None)


def test_a_chart_is_read_in_order_with_instants_as_integers() -> None:
    envelope = protocol.parse_envelope(200, {}, _body(result=[[1_789_935_456_000, 2], [1_789_935_450_000, 81110.95]]))
    assert [(point.at, point.price) for point in protocol.chart(envelope)] == [
        (1_789_935_450_000, Decimal("81110.95")),
        (1_789_935_456_000, Decimal(2)),
    ]


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (10028, RetryableError, Reason.RATE_LIMITED),
        (10066, RetryableError, Reason.RATE_LIMITED),
        (10040, RetryableError, Reason.REFUSED),
        (10041, RetryableError, Reason.REFUSED),
        (11094, RetryableError, Reason.HTTP_5XX),
        (13028, RetryableError, Reason.HTTP_5XX),
        (-32603, RetryableError, Reason.HTTP_5XX),
        (13888, RetryableError, Reason.TIMEOUT),
        (11051, RetryableError, Reason.MAINTENANCE),
        (11056, RetryableError, Reason.MAINTENANCE),
        (13025, RetryableError, Reason.MAINTENANCE),
        (13503, RetryableError, Reason.MAINTENANCE),
        (-32602, PermanentError, Reason.REFUSED),
        (-32601, PermanentError, Reason.REFUSED),
        (11029, PermanentError, Reason.REFUSED),
        (11050, PermanentError, Reason.REFUSED),
        (424242, RetryableError, Reason.REFUSED),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_error_is_classified_by_its_code_whatever_the_status(
    code: int, kind: type[SourceError], reason: Reason, status: int
) -> None:
    with pytest.raises(kind, match=f"error {code} why") as raised:
        protocol.parse_envelope(status, {}, _body(error={"code": code, "message": "why"}))
    assert raised.value.reason is reason


def test_an_unknown_index_is_distinguished_from_other_invalid_parameters() -> None:
    error = {"code": -32602, "message": "Invalid params", "data": {"reason": "invalid index", "param": "index_name"}}
    with pytest.raises(UnknownTickerError, match="invalid index"):
        protocol.parse_envelope(400, {}, _body(error=error))


def test_a_testnet_price_is_rejected() -> None:
    with pytest.raises(PermanentError, match=r"DERIBIT_RPC_URL: .* testnet") as raised:
        protocol.parse_envelope(200, {}, _body(result={"index_price": 1.0}, testnet=True))
    assert raised.value.reason is Reason.TESTNET


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (429, RetryableError, Reason.RATE_LIMITED),
        (500, RetryableError, Reason.HTTP_5XX),
        (503, RetryableError, Reason.HTTP_5XX),
        (403, RetryableError, Reason.REFUSED),
        (404, PermanentError, Reason.REFUSED),
        (200, RetryableError, Reason.MALFORMED),
    ],
)
def test_a_body_without_an_envelope_is_classified_by_its_status(status: int, kind: type[SourceError], reason: Reason) -> None:
    with pytest.raises(kind) as raised:
        protocol.parse_envelope(status, {}, b"<html><title>Bad Gateway</title></html>")
    assert raised.value.reason is reason
    assert "Bad Gateway" in str(raised.value)


@pytest.mark.parametrize(
    ("value", "pause_s"),
    [
        ("7", 7),
        ("Wed, 21 Oct 2015 07:28:05 GMT", 5),
        ("Wed, 21 Oct 2199 07:28:00 GMT", protocol.MAX_RETRY_AFTER_S),
        ("999999", protocol.MAX_RETRY_AFTER_S),
        ("soon", 1),
        ("-5", 1),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_of_the_exchange_clock(value: str, pause_s: float) -> None:
    with pytest.raises(RetryableError) as raised:
        protocol.parse_envelope(429, {"Retry-After": value, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")
    assert raised.value.retry_after_s == pause_s


def test_a_redirect_is_reported_and_not_followed() -> None:
    with pytest.raises(PermanentError, match=re.escape("redirects to 'https://elsewhere.example/'")):
        protocol.parse_envelope(302, {"Location": "https://elsewhere.example/"}, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b'"x"',
        b"[1]",
        b"{}",
        b'{"result": null}',
        b"[" * 200_000,
        b'{"result": {"index_price": \xff}}',
        b'{"result": {"index_price": ' + b"9" * 6000 + b"}}",
        b'{"result": {"index_price": NaN}}',
        _price_body("0"),
        _price_body("-1"),
        _price_body('"60000"'),
        _price_body("true"),
        _price_body("null"),
        b'{"result": {"price": 1}}',
        b'{"result": {"index_price": 1}, "usOut": "now"}',
        b'{"result": {"index_price": 1}, "usOut": 99999999999999999999}',
        b" " * (protocol.MAX_BODY_BYTES + 1),
    ],
)
def test_a_malformed_response_is_retryable(body: bytes) -> None:
    with pytest.raises(RetryableError) as raised:
        protocol.price(protocol.parse_envelope(200, {}, body))
    assert raised.value.reason is Reason.MALFORMED
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(("age_s", "window"), [(0, "1h"), (3600, "1h"), (3601, "1d"), (86_401, "2d"), (10**9, "all")])
def test_the_finest_window_that_reaches_back_far_enough_is_used(age_s: float, window: str) -> None:
    assert protocol.finest_window(age_s) == window


def _recorded(name: str) -> bytes:
    path = Path(RECORDED / name)
    if not path.exists():
        pytest.skip("recorded responses are not available")
    return path.read_bytes()


def test_recorded_results_are_parsed() -> None:
    price = b'{"result":%b}' % _recorded("index_price.result.json")
    assert protocol.price(protocol.parse_envelope(200, {}, price))[0] == Decimal("80814.47")
    names = b'{"result":%b}' % _recorded("supported_index_names.result.json")
    assert "btc_usdc" in protocol.names(protocol.parse_envelope(200, {}, names))
    chart = protocol.chart(protocol.parse_envelope(200, {}, b'{"result":%b}' % _recorded("index_chart_data.result.json")))
    assert {b.at - a.at for a, b in pairwise(chart)} == {6000}


def test_recorded_errors_are_parsed() -> None:
    with pytest.raises(PermanentError, match="testnet"):
        protocol.parse_envelope(200, {}, _recorded("testnet_get_index_price_btc_usd.envelope.json"))
    with pytest.raises(PermanentError, match="instrument not found"):
        protocol.parse_envelope(400, {}, _recorded("prod_invalid_params_instrument_not_found.envelope.json"))
