"""Background tasks that run for the length of a block of code."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from db.runtime import tracing

log = logging.getLogger(__name__)


@asynccontextmanager
async def background_task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs a coroutine as a task while the block runs. Logs an error that ends it early. Creates no trace spans."""
    with tracing.suppress():
        task = asyncio.create_task(work)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background task %s failed; it runs again after a restart", task.get_coro(), exc_info=task.exception())
