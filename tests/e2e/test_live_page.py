"""The live page in a real Chromium: what it shows, how it follows, and how it comes back."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from db.pool import Database
from db.queries import gaps, write_lock
from db.tables import Reason, Source
from graph.settings import Settings
from tests.conftest import ROOT
from tests.e2e.conftest import free_port
from tests.e2e.test_pages import CHROMIUM, Visit, browser
from tests.graph.conftest import Api, api, serving
from tests.graph.stand import api_process
from tests.stored import row, store, track
from tests.waiting import until

__all__ = ["api", "browser"]  # fixtures of other tests, used here too

PAGE = ROOT / "tests" / "page"
AXE = ROOT / "tests" / "clients" / "node_modules" / "axe-core" / "axe.min.js"
MINUTES = 600

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@pytest.fixture
async def now(db: Database) -> int:
    """The minute up to which there are prices: of btc_usd some hours, five minutes missing an hour ago."""
    now = int(time.time()) // 60 * 60
    begin = now - 60 * MINUTES
    await track(db, "btc_usd", "eth_usd", since=begin)
    missing = {now - 60 * n for n in range(60, 65)}
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("btc_usd", ts): Reason.TIMEOUT for ts in missing})
    await store(
        db,
        [
            row("btc_usd", begin + 60 * n, f"{68_000 + n}", source=Source.BACKFILL if n in (10, 11) else Source.LIVE)
            for n in range(MINUTES)
            if begin + 60 * n not in missing
        ],
    )
    await store(db, [row("eth_usd", now - 60, "2536.1")])
    return now


@asynccontextmanager
async def _visited(browser: Browser, api: Api, path: str, **options: Any) -> AsyncIterator[Page]:
    """The page, connected; it must end without an error and without having asked another host."""
    page = await browser.new_page(viewport={"width": 1_280, "height": 900}, **options)
    visit = Visit(page, api)
    await page.goto(f"{api.url}{path}")
    await expect(page.locator("#status")).to_have_text("Live")
    yield page
    visit.require_peace()
    await page.close()


async def test_every_ticker_is_shown_and_follows_what_is_stored(browser: Browser, api: Api, db: Database, now: int) -> None:
    async with _visited(browser, api, "/") as page:
        first = page.locator(".tickers li", has_text="btc_usd")
        await expect(first.locator(".price")).to_have_text("68,599")
        await expect(first.locator(".change")).to_have_text("+0.88 %")
        assert (await first.locator("path").get_attribute("d") or "").startswith("M")
        await store(db, [row("btc_usd", now, "70000.5")])
        await expect(first.locator(".price")).to_have_text("70,000.5")
        await track(db, "btc_usd", "eth_usd", "sol_usd", since=now)
        await store(db, [row("sol_usd", now, "142.5")])
        await expect(page.locator(".tickers li", has_text="sol_usd").locator(".price")).to_have_text("142.5")


async def test_an_empty_page_fills_by_itself(browser: Browser, api: Api, db: Database) -> None:
    async with _visited(browser, api, "/") as page:
        await expect(page.get_by_role("heading", name="No prices yet")).to_be_visible()
        now = int(time.time()) // 60 * 60
        await track(db, "btc_usd", since=now)
        await store(db, [row("btc_usd", now, "1")])
        await expect(page.locator(".tickers .price")).to_have_text("1")


async def test_a_chart_follows_and_its_address_is_the_view(browser: Browser, api: Api, db: Database, now: int) -> None:
    async with _visited(browser, api, "/") as page:
        await page.get_by_role("link", name="btc_usd").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("btc_usd")
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile(r"12\d"))
        await page.get_by_role("button", name="one minute").click()
        await expect(chart).to_have_attribute("data-candles", re.compile("50[01]"))
        assert page.url.endswith("/?ticker=btc_usd&interval=ONE_MINUTE")
        await store(db, [row("btc_usd", now, "71234.5")])
        await expect(chart).to_have_attribute("data-last", "71234.5")
        await expect(page.locator(".price.big")).to_have_text("71,234.5")
        await page.go_back()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Index prices")
        address = f"/?ticker=btc_usd&interval=FIFTEEN_MINUTES&from={now - 18_000}&to={now - 9_000}"
        await page.goto(api.url + address)
        await expect(chart).to_have_attribute("data-candles", re.compile(r"\d+"))
        await expect(page.get_by_role("button", name="fifteen minutes")).to_have_attribute("aria-pressed", "true")
        link = page.get_by_role("link", name="CSV")
        await expect(link).to_have_attribute("href", re.compile(r"/export\?ticker=btc_usd&from=\d+&format=csv"))


async def test_a_gap_is_drawn_and_tells_its_reason(browser: Browser, api: Api, db: Database, now: int) -> None:
    address = f"/?ticker=btc_usd&interval=ONE_MINUTE&from={now - 60 * 75}&to={now - 60 * 50}"
    async with _visited(browser, api, address) as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-missing", "5")
        await expect(page.locator(".coverage .words")).to_contain_text("5 missing")
        box = await chart.bounding_box()
        assert box is not None
        # Somewhere over the bands, whatever the width of the scale.
        for part in range(35, 65):
            await page.mouse.move(box["x"] + box["width"] * part / 100, box["y"] + 100)
            if "no prices" in (await page.locator(".legend").text_content() or ""):
                break
        await expect(page.locator(".legend")).to_contain_text("5 minutes: Deribit did not respond in time, backfill pending")
        async with write_lock.write_transaction(db) as connection:
            await gaps.mark_unrecoverable(connection, "btc_usd", [now - 60 * n for n in range(60, 65)])
        await expect(page.locator(".gaps")).to_contain_text("unrecoverable")


async def test_what_was_missed_offline_is_caught_up(browser: Browser, api: Api, db: Database, now: int) -> None:
    async with _visited(browser, api, "/?ticker=btc_usd&interval=ONE_MINUTE") as page, _visited(browser, api, "/") as other:
        await expect(page.locator(".chart")).to_have_attribute("data-candles", re.compile("50[01]"))
        await expect(other.locator(".tickers .price").first).to_have_text("68,599")
        for one in (page, other):
            await one.context.set_offline(True)
            await expect(one.locator("#status")).to_have_text("Offline, reconnecting")
        await store(db, [row("btc_usd", now - 60 * 60, "65000"), row("btc_usd", now, "72000")])
        for one in (page, other):
            await one.context.set_offline(False)
            await expect(one.locator("#status")).to_have_text("Live")
        await expect(other.locator(".tickers .price").first).to_have_text("72,000")
        await expect(page.locator(".price.big")).to_have_text("72,000")
        await expect(page.locator(".chart")).to_have_attribute("data-missing", "4")


async def test_a_new_process_is_found_by_itself(browser: Browser, dsn: str, db: Database, now: int, tmp_path: Path) -> None:
    port = free_port()
    async with api_process(dsn, tmp_path, port=port) as stand:
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/?ticker=btc_usd")
        await expect(page.locator("#status")).to_have_text("Live")
        assert stand.url
    await expect(page.locator("#status")).to_have_text("Offline, reconnecting")
    await store(db, [row("btc_usd", now, "73000")])
    async with api_process(dsn, tmp_path, port=port):
        await expect(page.locator("#status")).to_have_text("Live", timeout=20_000)
        await expect(page.locator(".price.big")).to_have_text("73,000")
        await page.close()


async def test_a_window_of_the_past_stays_what_it_is(browser: Browser, api: Api, db: Database, now: int) -> None:
    then = now // 300 * 300 - 40 * 86_400
    await store(db, [row("btc_usd", then + 60 * n, str(50_000 + n)) for n in range(300)])
    async with _visited(browser, api, f"/?ticker=btc_usd&from={then + 3_600}&to={then + 7_200}") as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile(r"\d+"))
        await expect(page.locator(".legend")).to_contain_text("no prices")  # of the last empty place of the window
        before = await chart.get_attribute("data-candles")
        await store(db, [row("btc_usd", now, "71234.5")])
        await expect(page.locator(".price.big")).to_have_text("71,234.5")
        await store(db, [row("btc_usd", then + 60 * 299 + 60, "1", source=Source.IMPORT)])
        await expect(page.locator(".coverage .words")).to_contain_text("301 minutes stored")
        assert await chart.get_attribute("data-candles") == before
        assert f"to={then + 7_200}" in page.url


async def test_late_prices_of_an_outage_are_drawn(browser: Browser, api: Api, db: Database, now: int) -> None:
    begin = now - 60 * 100
    await track(db, "btc_usd", "eth_usd", "sol_usd", since=begin)
    await store(db, [row("sol_usd", begin), row("sol_usd", now - 60)])
    async with _visited(browser, api, "/?ticker=sol_usd&interval=ONE_MINUTE") as page:
        words = page.locator(".coverage .words")
        await expect(words).to_contain_text(re.compile(r"2 of 10\d minutes"))
        await store(db, [row("sol_usd", now - 60 * n) for n in range(5, 30)])
        await expect(words).to_contain_text(re.compile(r"27 of 10\d minutes"))


@pytest.mark.usefixtures("now")
async def test_a_view_that_was_left_stays_left(browser: Browser, api: Api, db: Database) -> None:
    async with _visited(browser, api, "/") as page:
        asked = asyncio.Event()
        answered = asyncio.Event()

        async def hold(route: Route) -> None:
            if "first: prices" in (route.request.post_data or ""):
                asked.set()
                await answered.wait()
            await route.continue_()

        await page.route("**/graphql", hold)
        await page.get_by_role("link", name="btc_usd").click()
        await asked.wait()
        await page.go_back()
        await expect(page.locator(".tickers li")).to_have_count(2)
        answered.set()
        await store(db, [row("eth_usd", int(time.time()) // 60 * 60, "2600.5")])
        await expect(page.locator(".tickers li", has_text="eth_usd").locator(".price")).to_have_text("2,600.5")
        assert page.url == f"{api.url}/"


@pytest.mark.usefixtures("now")
async def test_a_window_is_asked_for_until_it_is_right(browser: Browser, api: Api) -> None:
    async with _visited(browser, api, "/?ticker=btc_usd") as page:
        await expect(page.locator(".chart")).to_have_attribute("data-candles", re.compile(r"\d+"))
        begin, end = page.get_by_label("From, UTC"), page.get_by_label("To, UTC")
        await begin.fill("2026-01-03T00:00")
        await end.fill("2026-01-02T00:00")
        await page.get_by_role("button", name="Show").click()
        assert await end.evaluate("one => one.validationMessage") == "The end must be after the start"
        await begin.fill("2026-01-01T00:00")
        await page.get_by_role("button", name="Show").click()
        await page.wait_for_url("**from=*")


@pytest.mark.usefixtures("now")
async def test_a_chart_is_moved_by_keys(browser: Browser, api: Api) -> None:
    async with _visited(browser, api, "/?ticker=btc_usd&interval=ONE_MINUTE") as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile("50[01]"))
        await chart.focus()
        await expect(page.get_by_text("Arrow keys scroll")).to_be_visible()
        for _ in range(17):
            await page.keyboard.press("ArrowLeft")
        await page.wait_for_url("**from=*")
        await page.keyboard.press("-")
        await expect(chart).not_to_have_attribute("data-candles", re.compile("50[01]"))  # older ones were needed
        await page.keyboard.press("End")
        await page.wait_for_url(lambda url: "from=" not in url)
        await page.keyboard.press("Shift+ArrowLeft")
        await page.keyboard.press("Shift+ArrowLeft")
        await expect(page.locator(".legend")).to_contain_text("close 68,59")


@pytest.mark.usefixtures("now")
@pytest.mark.skipif(not AXE.exists(), reason="the clients of Node.js are not installed")
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("path", ["/", "/?ticker=btc_usd"])
async def test_axe_finds_nothing(browser: Browser, api: Api, path: str, scheme: str) -> None:
    async with _visited(browser, api, path, color_scheme=scheme) as page:
        await page.locator(".tickers .change:not(:empty), .gaps li").first.wait_for()
        await page.evaluate(AXE.read_text())
        found = await page.evaluate("axe.run()")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


async def test_a_closed_page_asks_for_the_key(browser: Browser, dsn: str, now: int) -> None:
    assert now
    async with serving(Settings(database_url=dsn, api_keys=(sha256(b"open sesame").hexdigest(),))) as api:
        page = await browser.new_page()
        await page.goto(f"{api.url}/?ticker=btc_usd")
        await page.get_by_label("Key").fill("open sesame")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator(".price.big")).to_have_text("68,599")
        await expect(page.locator("#status")).to_have_text("Live")
        await page.close()


@pytest.mark.parametrize(
    ("path", "words"),
    [("/?ticker=nothing_usd", "Unknown ticker: nothing_usd"), ("/?ticker=btc_usd", "Unknown ticker: btc_usd")],
)
async def test_what_cannot_be_shown_is_said(browser: Browser, api: Api, path: str, words: str) -> None:
    async with _visited(browser, api, path) as page:
        await expect(page.get_by_role("alert")).to_contain_text(words)


SOURCE = """query => {
  window.told = [];
  const source = new EventSource(`/graphql?query=${encodeURIComponent(query)}`);
  source.addEventListener("next", (event) => window.told.push(JSON.parse(event.data).data.priceAdded.price));
}"""


async def test_an_event_source_of_the_browser_comes_back_where_it_was(
    browser: Browser, dsn: str, db: Database, now: int, tmp_path: Path
) -> None:
    port = free_port()
    page = await browser.new_page()
    async with api_process(dsn, tmp_path, port=port) as stand:
        await page.goto(f"{stand.url}/docs")
        await page.evaluate(SOURCE, 'subscription { priceAdded(tickers: ["eth_usd"], after: "0") { price } }')
        await until(lambda: page.evaluate("told.length === 1"))
    await store(db, [row("eth_usd", now, "3")])
    async with api_process(dsn, tmp_path, port=port):
        await until(lambda: page.evaluate("told.length === 2"))
        await store(db, [row("eth_usd", now + 60, "4")])
        await until(lambda: page.evaluate("told.length === 3"))
        assert await page.evaluate("told") == ["2536.1", "3", "4"]
    await page.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
async def test_the_modules_of_the_page_pass_their_own_tests() -> None:
    files = sorted(str(path) for path in PAGE.glob("*.test.mjs"))
    process = await asyncio.create_subprocess_exec("node", "--test", *files, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
