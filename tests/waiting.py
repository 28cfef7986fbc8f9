"""Waiting for what another process does: looked at often, given up after a while with what was last known."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0
"""Seconds to wait for what comes in milliseconds, so that a stalled machine fails no test."""


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, otherwise: Callable[[], str] = str, patience_s: float = PATIENCE_S
) -> None:
    """Returns when the condition holds; fails with what `otherwise` says when it never does."""
    try:
        async with asyncio.timeout(patience_s):
            while True:
                held = condition()
                if inspect.isawaitable(held):
                    held = await held
                if held:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {patience_s} s; {otherwise()}") from None
