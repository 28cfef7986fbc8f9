"""The window of a ticker's chart in a real Chromium: what inputs, chart, texts, links and address say stays the same."""

import asyncio
import datetime as dt
import re
import time

import pytest
from playwright.async_api import Browser, Page, Route, expect

from db.pool import Database
from db.queries import gaps, write_lock
from db.rows import Reason
from tests.e2e.conftest import CHROMIUM
from tests.e2e.live_page import REPORT, click_and_read, open_page, stored_until, wait_until_drawn, window_of_inputs
from tests.graph.conftest import Api, api
from tests.sample_data import row, store, track

__all__ = ["api", "stored_until"]  # fixtures of other tests

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

TICKER = "/?ticker=btc_usd"


async def _choose(page: Page, interval: str) -> None:
    await page.locator(f'[data-key="{interval}"]').click()
    await expect(page.locator(".chart")).to_have_attribute("data-interval", interval)


async def _drag(page: Page, pixels: int) -> None:
    box = await page.locator(".chart").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + 200
    await page.mouse.move(x, y)
    await page.mouse.down()
    await page.mouse.move(x + pixels, y, steps=5)
    await page.mouse.up()


async def test_a_recent_window_is_found_again_after_longer_candles(browser: Browser, api: Api, stored_until: int) -> None:
    chosen = (stored_until - 3 * 3_600, stored_until - 3_600)
    async with open_page(browser, api, f"{TICKER}&interval=FIVE_MINUTES&from={chosen[0]}&to={chosen[1]}") as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes")
        for longer in ("ONE_MONTH", "ONE_DAY", "ONE_HOUR"):
            for shorter in ("FIVE_MINUTES", "ONE_MINUTE"):
                await _choose(page, longer)
                assert await window_of_inputs(page) != chosen or longer == "ONE_HOUR"
                await _choose(page, shorter)
                assert await window_of_inputs(page) == chosen, (longer, shorter)


@pytest.mark.usefixtures("stored_until")
async def test_a_chart_that_is_moved_while_another_view_loads_agrees_with_the_controls(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER) as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes")
        released = asyncio.Event()

        async def hold(route: Route) -> None:
            if "ONE_HOUR" in (route.request.post_data or ""):
                await released.wait()
            await route.continue_()

        await page.route("**/graphql", hold)
        await page.locator('[data-key="ONE_HOUR"]').click()
        await _drag(page, 300)
        await page.evaluate(REPORT)
        released.set()
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "ONE_HOUR")
        assert "interval=ONE_HOUR" in page.url
        await expect(page.locator('[data-key="ONE_HOUR"]')).to_have_attribute("aria-pressed", "true")
        await _choose(page, "FIVE_MINUTES")


@pytest.mark.usefixtures("stored_until")
async def test_the_last_price_is_marked_only_while_it_is_in_view(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, f"{TICKER}&interval=ONE_MINUTE") as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile(r"\d+"))
        await wait_until_drawn(page)
        await expect(chart).to_have_attribute("data-last-shown", "true")
        await _drag(page, 900)
        await expect(chart).to_have_attribute("data-last-shown", "false")
        await page.get_by_role("button", name="Now").click()
        await expect(chart).to_have_attribute("data-last-shown", "true")
        now = int(time.time()) // 60 * 60
        await page.goto(f"{api.url}{TICKER}&interval=ONE_MINUTE&from={now - 9 * 3_600}&to={now - 8 * 3_600}")
        await expect(chart).to_have_attribute("data-last-shown", "false")
        await page.get_by_role("button", name="Now").click()
        await expect(chart).to_have_attribute("data-last-shown", "true")


async def test_a_link_with_too_many_candles_says_which_ones_it_shows(browser: Browser, api: Api, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    begin = now - 40 * 86_400
    await track(db, "btc_usd", since=begin)
    await store(db, [row("btc_usd", begin + 3_600 * n, str(9_000 + n)) for n in range(40 * 24)])
    async with open_page(browser, api, f"{TICKER}&interval=ONE_MINUTE&from={begin}&to={now}") as page:
        await expect(page.locator(".problems")).to_have_text(re.compile("too many candles of 1m. These are candles of 4h"))
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "FOUR_HOURS")
        assert await window_of_inputs(page) == (begin, now)
        await _choose(page, "ONE_MINUTE")  # of a window that is shown, a button shows the middle
        low, high = await window_of_inputs(page)
        assert abs((low + high) / 2 - (begin + now) / 2) <= 120


async def test_an_hour_that_is_typed_is_shown_in_minutes(browser: Browser, api: Api, stored_until: int) -> None:
    async with open_page(browser, api, TICKER) as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes")
        for name, ts in (("From", stored_until - 7_200), ("To", stored_until - 3_600)):
            await page.get_by_label(name, exact=True).fill(f"{dt.datetime.fromtimestamp(ts, dt.UTC):%Y-%m-%d %H:%M}")
        await page.get_by_role("button", name="Show", exact=True).click()
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "ONE_MINUTE")


@pytest.mark.usefixtures("stored_until")
async def test_a_phone_shows_the_whole_window(browser: Browser, api: Api, stored_until: int) -> None:
    window = (stored_until - 1_400 * 60, stored_until)
    async with open_page(
        browser, api, f"{TICKER}&interval=ONE_MINUTE&from={window[0]}&to={window[1]}", viewport={"width": 360, "height": 740}
    ) as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes")
        box = await page.locator(".chart").bounding_box()
        assert box is not None
        begin = stored_until - 600 * 60
        await page.mouse.move(box["x"] + 2, box["y"] + 100)
        await expect(page.locator(".legend")).to_contain_text(f"{dt.datetime.fromtimestamp(begin, dt.UTC):%H:}")


async def test_years_without_collection_are_not_drawn_as_missing(browser: Browser, api: Api, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    begin = now - 3 * 86_400
    await track(db, "btc_usd", since=begin)
    await store(db, [row("btc_usd", now - (100 + n) * 86_400, "9000") for n in range(20)])
    missing = range(begin, begin + 2_400 * 60, 120)  # more gaps than are listed
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", ts): Reason.TIMEOUT for ts in missing})
    await store(db, [row("btc_usd", ts, "9000") for ts in range(begin, now, 60) if ts not in missing])
    async with open_page(browser, api, f"{TICKER}&range=All&interval=ONE_DAY") as page:
        await expect(page.locator(".gaps")).to_contain_text("Not all gaps are listed")
        await expect(page.locator(".chart")).to_have_attribute("data-missing", re.compile("^[23]$"))
        await expect(page.locator(".coverage .words")).to_contain_text(
            re.compile("In the rest of this window .*nothing was collected")
        )


@pytest.mark.usefixtures("stored_until")
async def test_a_completeness_that_cannot_be_loaded_says_so(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER) as page:
        words = page.locator(".coverage .words")
        await expect(words).to_contain_text("minutes")

        async def fail(route: Route) -> None:
            await (route.abort() if "visible: coverage" in (route.request.post_data or "") else route.continue_())

        await page.route("**/graphql", fail)
        await _choose(page, "ONE_HOUR")
        await expect(page.locator(".coverage .problem")).to_contain_text("It could not be loaded: no connection")
        await page.unroute("**/graphql", fail)
        await page.get_by_role("button", name="Try again").click()
        await expect(words).to_contain_text("minutes")


@pytest.mark.usefixtures("stored_until")
async def test_the_copied_link_is_that_of_the_shown_window(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER, permissions=["clipboard-read", "clipboard-write"]) as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes")
        await _choose(page, "ONE_HOUR")
        assert "Copied" in await click_and_read(page.get_by_role("button", name="Copy link"))
        assert await page.evaluate("navigator.clipboard.readText()") == page.url


@pytest.mark.usefixtures("stored_until")
async def test_files_are_downloaded_or_the_button_says_why_not(
    browser: Browser, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_page(browser, api, TICKER) as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes")
        async with page.expect_download() as download:
            await page.get_by_role("link", name="CSV").click()
        assert (await (await download.value).path()).read_text().startswith("ticker,")
        monkeypatch.setattr("db.arrow.is_available", lambda: False)
        assert "cannot write Parquet" in await click_and_read(page.get_by_role("link", name="Parquet"))


async def test_the_title_says_that_a_ticker_is_stale(browser: Browser, api: Api, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now - 7_200)
    await store(db, [row("btc_usd", now - 3_600, "68000")])
    async with open_page(browser, api, TICKER) as page:
        await expect(page).to_have_title("Stale: 68,000 btc_usd · Tickgraph")
