"""Prices as a pure function of ticker and second. They never change, so that stored prices can be verified."""

import hashlib
import math
from decimal import Decimal
from functools import lru_cache

NAMES = (
    "1000pepe_usdc", "ada_usdc", "avax_usdc", "btc_usd", "btc_usdc", "btc_usdt", "doge_usdc", "drbfix-btc_usdc",
    "eth_btc", "eth_usd", "eth_usdc", "eth_usdt", "s_usdc", "sol_usd", "sol_usdc", "xrp_usdc",
)  # fmt: skip

BASE = {
    "btc_usd": 68_000.0,
    "eth_usd": 3_400.0,
    "sol_usd": 150.0,
    "eth_btc": 0.05,
    "doge_usdc": 0.16,
    "s_usdc": 0.5,
}

WAVES_S = (37, 311, 1_709, 6_007, 23_011, 86_399, 604_801, 2_592_011)
"""Periods of the waves that form a price. All but the last are prime numbers, so that a price does not repeat."""

STEPS_S = {"1h": 6, "1d": 60, "2d": 120, "1m": 3_600, "1y": 43_200, "all": 86_400}
"""Seconds from one chart point to the next, by window."""

REACH_S = {"1h": 3_600, "1d": 86_400, "2d": 172_800, "1m": 2_592_000, "1y": 31_536_000, "all": 157_680_000}

MAX_SAMPLES = 30
DELIVERY_WINDOW_START = 27_000
"""07:30 UTC, in seconds of the day."""


def price(ticker: str, second: int) -> Decimal:
    """Returns the index price at a second: positive, with at most two decimals if its base is 10 or more, else six."""
    base, phases = _wave_parameters(ticker)
    swing = sum(
        math.sin(2 * math.pi * (second / period + phase)) * 0.004 for period, phase in zip(WAVES_S, phases, strict=True)
    )
    value = base * (1 + swing)
    return _shortest(value, 2 if base >= 10 else 6)  # noqa: PLR2004  see the docstring


def delivery_price(ticker: str, at: int) -> Decimal:
    """Returns the mean of 450 prices, four seconds apart, over the 30 minutes before `at`, as Deribit settles."""
    return _mean([price(ticker, second) for second in range(at - 1_800, at, 4)])


def estimated_delivery_price(ticker: str, second: int) -> Decimal:
    """Returns the mean of the prices since 07:30 UTC until 08:00, and the price itself at other times."""
    begun_s = (second - DELIVERY_WINDOW_START) % 86_400
    if not 0 < begun_s < 1_800:  # noqa: PLR2004  30 minutes
        return price(ticker, second)
    return _mean([price(ticker, at) for at in range(second - begun_s, second, 4)])


def _mean(prices: list[Decimal]) -> Decimal:
    return _shortest(float(sum(prices)) / len(prices), 4)


def chart(ticker: str, window: str, now: int, step_s: int | None = None) -> list[tuple[int, Decimal]]:
    """Returns [(UNIX milliseconds, average over the step from there)], ascending, up to the last whole step before now."""
    step = step_s or STEPS_S[window]
    first = -(-(now - REACH_S[window]) // step) * step
    return [(at * 1000, average(ticker, at, step)) for at in range(first, now - step + 1, step)]


def average(ticker: str, start: int, step: int) -> Decimal:
    """Returns the mean price over [start, start + step), from about MAX_SAMPLES of its seconds."""
    seconds = range(start, start + step, max(1, step // MAX_SAMPLES))
    total = sum(price(ticker, second) for second in seconds)
    return _shortest(float(total) / len(seconds), 6)


def _shortest(value: float, decimals: int) -> Decimal:
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return Decimal(text)


@lru_cache
def _wave_parameters(ticker: str) -> tuple[float, tuple[float, ...]]:
    digest = hashlib.sha256(ticker.encode()).digest()
    phases = tuple(byte / 256 for byte in digest[: len(WAVES_S)])
    return BASE.get(ticker, 1.0 + digest[-1]), phases
