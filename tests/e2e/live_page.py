"""Opens the live page in Chromium, over some hours of prices."""

import datetime as dt
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from db.pool import Database
from db.queries import gaps, write_lock
from db.rows import Reason, Source
from tests.e2e.test_pages import AXE, Visit
from tests.graph.conftest import Api
from tests.sample_data import row, store, track
from tests.wait import wait_until

MINUTE_COUNT: Final = 600
REPORT: Final = "new Promise((done) => setTimeout(done, 400))"  # a chart that has moved reports it after 250 ms
LIVE: Final = re.compile(r"^\s*Live(, \d+ tickers? stale)?$")
OFFLINE: Final = re.compile(r"^\s*Offline since (\d+ \w+ \d{4} )?\d\d:\d\d UTC, reconnecting$")


@pytest.fixture
async def stored_until(db: Database) -> int:
    """Stores prices of some hours, with five minutes missing an hour ago, and returns the current minute."""
    now = int(time.time()) // 60 * 60
    begin = now - 60 * MINUTE_COUNT
    await track(db, "btc_usd", "eth_usd", since=begin)
    missing = {now - 60 * n for n in range(60, 65)}
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", ts): Reason.TIMEOUT for ts in missing})
    await store(
        db,
        [
            row("btc_usd", begin + 60 * n, f"{68_000 + n}", source=Source.BACKFILL if n in (10, 11) else Source.LIVE)
            for n in range(MINUTE_COUNT)
            if begin + 60 * n not in missing
        ],
    )
    await store(db, [row("eth_usd", now - 60, "2536.1")])
    return now


@asynccontextmanager
async def open_page(browser: Browser, api: Api, path: str, **options: Any) -> AsyncIterator[Page]:
    """Opens the page and waits until it is live. Fails on an error, or on a request to another host."""
    # A service worker would hide requests from the routes of a test.
    page = await browser.new_page(**{"viewport": {"width": 1_280, "height": 900}, "service_workers": "block"} | options)
    visit = Visit(page, api)
    await page.goto(f"{api.url}{path}")
    await expect(page.locator("#status")).to_have_text(LIVE)
    yield page
    visit.require_no_errors()
    await page.close()


async def click_and_read(button: Locator) -> str:
    """Clicks a button, and returns what it then says for some seconds."""
    await button.evaluate(
        "one => { window.said = ''; new MutationObserver(() => { window.said ||= one.dataset.said ?? '' })"
        ".observe(one, { attributes: true }) }"
    )
    await button.click()
    await wait_until(lambda: button.page.evaluate("window.said !== ''"))
    said: str = await button.page.evaluate("window.said")
    return said


async def wait_until_drawn(page: Page) -> None:
    """Waits three frames. Until then, the page takes a move of the chart for a part of loading."""
    await page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))"
    )


async def window_of_inputs(page: Page) -> tuple[int, int]:
    """Returns the window of the inputs From and To, in UNIX seconds."""
    values = [await page.get_by_label(name, exact=True).input_value() for name in ("From", "To")]
    low, high = (int(dt.datetime.fromisoformat(f"{value}Z").timestamp()) for value in values)
    return low, high


async def require_accessible(page: Page) -> None:
    """Fails on a finding of axe."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run()")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
