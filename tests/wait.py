"""Waits for a condition that another process or task fulfills; fails after a timeout with the last known state."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

WAIT_TIMEOUT_S = 60.0
"""Timeout of waits that normally end within milliseconds; long, so that a stalled machine fails no test."""


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]],
    *,
    describe_state: Callable[[], str] = str,
    timeout_s: float = WAIT_TIMEOUT_S,
) -> None:
    """Returns when the condition holds. Fails after `timeout_s` with the text of `describe_state`."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                holds = condition()
                if inspect.isawaitable(holds):
                    holds = await holds
                if holds:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"The condition did not hold within {timeout_s} s. {describe_state()}") from None
