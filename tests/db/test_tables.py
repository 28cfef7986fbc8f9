"""Invalid rows are rejected twice: by the model and by the constraints of the table."""

from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from db import times
from db.errors import RowRejectedError
from db.pool import Database
from db.rows import PriceRow, normalize_price
from tests.sample_data import START_TS, track

VALID_PRICE: dict[str, Any] = {
    "ticker": "btc_usd",
    "ts": START_TS,
    "price": Decimal("68241.5"),
    "observed_at": START_TS * 10**6 + 59_999_999,
    "source": "LIVE",
}

INVALID_PRICES: list[tuple[str, dict[str, Any]]] = [
    ("ck_price_ts", {"ts": START_TS + 1, "observed_at": None}),
    ("ck_price_ts", {"ts": -60, "observed_at": None}),
    ("ck_price_ts", {"ts": times.END, "observed_at": None}),
    ("ck_price_price", {"price": Decimal(0)}),
    ("ck_price_price", {"price": Decimal(-1)}),
    ("ck_price_price", {"price": Decimal("NaN")}),
    ("ck_price_price", {"price": Decimal("Infinity")}),
    ("ck_price_price", {"price": Decimal(10**15)}),
    ("ck_price_price_normal", {"price": Decimal("1.0000000000000000001")}),
    ("ck_price_observed_at", {"observed_at": START_TS * 10**6 - 1}),
    ("ck_price_observed_at", {"observed_at": (START_TS + 60) * 10**6}),
    ("ck_price_source", {"source": "GUESS"}),
]

INSERT_PRICE = "INSERT INTO price (ticker, ts, price, observed_at, source) VALUES ($1, $2, $3, $4, $5)"

RANGE: dict[str, object] = {
    "ticker": "'btc_usd'",
    "ts": 60,
    "open": 2,
    "high": 3,
    "low": 1,
    "close": 2,
    "opened_ms": 0,
    "closed_ms": 59_000,
    "twap": 2,
    "ticks": 60,
    "watched_s": 60,
    "longest_silence_ms": 1_000,
    "source": "'LIVE'",
}


def _range_sql(**changes: object) -> str:
    columns = RANGE | changes
    return f"INSERT INTO minute_range ({', '.join(columns)}) VALUES ({', '.join(map(str, columns.values()))})"  # noqa: S608


def _digest_sql(**changes: object) -> str:
    zeros = "decode(repeat('00', {}), 'hex')"
    columns: dict[str, object] = {"number": 1, "ticker": "'btc_usd'", "day": 0, "sha256": zeros.format(32), "minutes": 1}
    columns |= {"as_of": 1, "checks": zeros.format(1_440), "chain": zeros.format(32)} | changes
    return f"INSERT INTO digest ({', '.join(columns)}) VALUES ({', '.join(map(str, columns.values()))})"  # noqa: S608


def _alert_sql(**changes: object) -> str:
    columns = {"kind": "'CROSSES'", "ticker": "'btc_usd'", "level": 1, "url": "''", "state": "'{}'"} | changes
    return f"INSERT INTO alert ({', '.join(columns)}) VALUES ({', '.join(map(str, columns.values()))})"  # noqa: S608


INVALID_STATEMENTS = [
    ("ck_alert_kind", _alert_sql(kind="'WAITS'", level="NULL", minutes=1)),
    ("ck_alert_direction", _alert_sql(direction="'LEFT'")),
    ("ck_alert_format", _alert_sql(format="'FAX'")),
    ("ck_alert_level", _alert_sql(level="NULL")),
    ("ck_alert_percent", _alert_sql(percent=1)),
    ("ck_alert_percent", _alert_sql(kind="'DELIVERY_DIFFERS'", level="NULL", percent=-1)),
    ("ck_alert_minutes", _alert_sql(kind="'STALE'", level="NULL", minutes=0)),
    ("ck_alert_hysteresis", _alert_sql(hysteresis=-1)),
    ("fk_alert_ticker", _alert_sql(ticker="'unknown'")),
    ("fk_alert_delivery_alert_id", "INSERT INTO alert_delivery (id, alert_id, event) VALUES ('a', 1, '{}')"),
    ("ck_alert_progress_id", "INSERT INTO alert_progress VALUES (2, 0)"),
    ("ck_worker_report_id", "INSERT INTO worker_report VALUES (2, 0, 0, 0, 0, NULL, 0, 0, NULL, '{}')"),
    ("ck_worker_report_counts", "INSERT INTO worker_report VALUES (1, 0, 0, 0, 0, NULL, 1, 2, NULL, '{}')"),
    ("ck_ticker_name", "INSERT INTO ticker (name) VALUES ('BTC USD')"),
    ("ck_ticker_horizon", "INSERT INTO ticker (name, horizon) VALUES ('a', 61)"),
    ("ck_ticker_checked_until", "INSERT INTO ticker (name, checked_until) VALUES ('a', -60)"),
    ("ck_tracking_since", "INSERT INTO tracking (ticker, since) VALUES ('btc_usd', 61)"),
    ("ck_tracking_until", "INSERT INTO tracking (ticker, since, until) VALUES ('btc_usd', 0, 61)"),
    ("ck_tracking_until_after_since", "INSERT INTO tracking (ticker, since, until) VALUES ('btc_usd', 60, 60)"),
    ("ck_price_price_normal", "INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', 0, 1.50, 'LIVE')"),
    ("uq_tracking_open", "INSERT INTO tracking (ticker, since) VALUES ('btc_usd', 0)"),
    ("ck_import_period_since", "INSERT INTO import_period VALUES ('btc_usd', 61, 120)"),
    ("ck_import_period_until", "INSERT INTO import_period VALUES ('btc_usd', 120, 120)"),
    ("ck_gap_ts", "INSERT INTO gap (ticker, ts, reason) VALUES ('btc_usd', 61, 'timeout')"),
    ("ck_gap_reason", "INSERT INTO gap (ticker, ts, reason) VALUES ('btc_usd', 60, 'bad luck')"),
    ("ck_gap_attempts", "INSERT INTO gap (ticker, ts, reason, attempts) VALUES ('btc_usd', 60, 'timeout', -1)"),
    ("fk_gap_ticker", "INSERT INTO gap (ticker, ts, reason) VALUES ('unknown', 60, 'timeout')"),
    ("ck_price_peer", "INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', 0, 1, 'PEER')"),
    ("ck_peer_comparison_day", "INSERT INTO peer_comparison VALUES ('p', 60, 'btc_usd', 0, 0, 0)"),
    ("ck_peer_comparison_counts", "INSERT INTO peer_comparison VALUES ('p', 0, 'btc_usd', 0, -1, 0)"),
    ("ck_digest_number", _digest_sql(number=0)),
    ("ck_digest_day", _digest_sql(day=60)),
    ("ck_digest_minutes", _digest_sql(minutes=1_441)),
    ("ck_digest_lengths", _digest_sql(chain="'\\x00'")),
    ("ck_digest_progress_id", "INSERT INTO digest_progress VALUES (2, 0, 0)"),
    ("ck_digest_progress_closed_until", "INSERT INTO digest_progress VALUES (1, 0, 60)"),
    ("ck_past_row_kind", "INSERT INTO past_row VALUES ('price', 'btc_usd', 60, 2, 1, '{}')"),
    ("ck_past_row_until_id", "INSERT INTO past_row VALUES ('gap', 'btc_usd', 60, 2, 2, '{}')"),
    ("ck_version_time_at", "INSERT INTO version_time VALUES (1, 61)"),
    ("ck_change_kind", "INSERT INTO change (kind, ticker) VALUES ('weather', 'btc_usd')"),
    ("ck_ticker_candles_from", "INSERT INTO ticker (name, candles_from) VALUES ('a', 3600)"),
    ("ck_candle_span", "INSERT INTO candle VALUES ('btc_usd', 60, 0, 1, 1, 1, 1, 1, 1)"),
    ("ck_candle_ts", "INSERT INTO candle VALUES ('btc_usd', 86400, 3600, 1, 1, 1, 1, 1, 1)"),
    ("ck_candle_prices", "INSERT INTO candle VALUES ('btc_usd', 3600, 0, 1, 2, 1, 3, 1, 1)"),
    ("ck_milestone_at", "INSERT INTO milestone VALUES (1, 0)"),
    ("ck_milestone_id", "INSERT INTO milestone VALUES (3600, -1)"),
    ("ck_epoch_forked_at", "INSERT INTO epoch VALUES (7, 7, '')"),
    ("ck_candle_count", "INSERT INTO candle VALUES ('btc_usd', 3600, 0, 1, 1, 1, 1, 61, 1)"),
    ("ck_candle_ranged", "INSERT INTO candle VALUES ('btc_usd', 3600, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0)"),
    ("ck_candle_ranged", "INSERT INTO candle VALUES ('btc_usd', 3600, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2)"),
    ("ck_candle_range_prices", "INSERT INTO candle VALUES ('btc_usd', 3600, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0)"),
    ("ck_candle_range_prices", "INSERT INTO candle VALUES ('btc_usd', 3600, 0, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0)"),
    ("ck_minute_range_ts", _range_sql(ts=61)),
    ("ck_minute_range_prices", _range_sql(low=0)),
    ("ck_minute_range_prices", _range_sql(high=10**15)),
    ("ck_minute_range_order", _range_sql(low=3)),
    ("ck_minute_range_order", _range_sql(twap=4)),
    ("ck_minute_range_instants", _range_sql(opened_ms=59_000, closed_ms=58_000)),
    ("ck_minute_range_instants", _range_sql(closed_ms=60_000)),
    ("ck_minute_range_ticks", _range_sql(ticks=0)),
    ("ck_minute_range_watched_s", _range_sql(watched_s=61)),
    ("ck_minute_range_longest_silence_ms", _range_sql(longest_silence_ms=60_001)),
    ("ck_minute_range_watched", _range_sql(ticks="NULL")),
    ("ck_minute_range_watched", _range_sql(source="'IMPORT'")),
    ("fk_minute_range_ticker", _range_sql(ticker="'unknown'")),
    ("ck_minute_ticks_ts", "INSERT INTO minute_ticks (ticker, ts, ticks) VALUES ('btc_usd', 61, '[]')"),
    ("fk_minute_ticks_ticker", "INSERT INTO minute_ticks (ticker, ts, ticks) VALUES ('unknown', 60, '[]')"),
    ("ck_delivery_price_ts", "INSERT INTO delivery_price VALUES ('btc_usd', 86400, 1)"),
    ("ck_delivery_price_price", "INSERT INTO delivery_price VALUES ('btc_usd', 28800, 0)"),
    ("ck_delivery_price_mean", "INSERT INTO delivery_price VALUES ('btc_usd', 28800, 1, 0, 'RANGE')"),
    ("ck_delivery_price_basis", "INSERT INTO delivery_price VALUES ('btc_usd', 28800, 1, 1, 'GUESS')"),
    ("ck_delivery_price_mean_basis", "INSERT INTO delivery_price VALUES ('btc_usd', 28800, 1, 1)"),
    ("ck_delivery_estimate_ts", "INSERT INTO delivery_estimate VALUES ('btc_usd', 61, 1)"),
    ("ck_delivery_estimate_price", "INSERT INTO delivery_estimate VALUES ('btc_usd', 60, 0)"),
    ("fk_price_ticker", "INSERT INTO price (ticker, ts, price, source) VALUES ('unknown', 0, 1, 'LIVE')"),
]


async def test_a_valid_row_is_accepted_by_model_and_table(db: Database) -> None:
    await track(db, "btc_usd")
    PriceRow.model_validate(VALID_PRICE)
    await db.execute(INSERT_PRICE, *VALID_PRICE.values())


@pytest.mark.parametrize(("constraint", "change"), INVALID_PRICES)
async def test_an_invalid_price_is_rejected_by_model_and_table(db: Database, constraint: str, change: dict[str, Any]) -> None:
    await track(db, "btc_usd")
    with pytest.raises(ValidationError):
        PriceRow.model_validate(VALID_PRICE | change)
    with pytest.raises(RowRejectedError) as raised:
        await db.execute(INSERT_PRICE, *(VALID_PRICE | change).values())
    assert isinstance(raised.value.__cause__, asyncpg.IntegrityConstraintViolationError)
    assert raised.value.__cause__.constraint_name == constraint


@pytest.mark.parametrize(("constraint", "statement"), INVALID_STATEMENTS)
async def test_the_other_constraints_are_enforced_by_the_database(
    dsn: str, db: Database, constraint: str, statement: str
) -> None:
    await track(db, "btc_usd")
    connection = await asyncpg.connect(dsn)
    try:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as raised:
            await connection.execute(statement)
    finally:
        await connection.close()
    assert raised.value.constraint_name == constraint


async def test_every_check_constraint_is_violated_by_a_test(db: Database) -> None:
    rows = await db.fetch("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace")
    assert {row["conname"] for row in rows} <= {name for name, _ in [*INVALID_PRICES, *INVALID_STATEMENTS]}


@pytest.mark.parametrize("literal", ["1E-999999999", "1e-19", "9" * 40, "1E+400"])
def test_a_number_out_of_range_is_rejected_without_being_expanded(literal: str) -> None:
    with pytest.raises(ValidationError):
        PriceRow.model_validate(VALID_PRICE | {"price": Decimal(literal)})


@given(st.decimals(Decimal("1e-18"), Decimal(10**14), allow_nan=False, places=18))
def test_normalization_removes_only_trailing_zeros(price: Decimal) -> None:
    text = f"{normalize_price(price):f}"
    assert Decimal(text) == price
    assert "E" not in text
    assert not ("." in text and text.endswith(("0", ".")))
