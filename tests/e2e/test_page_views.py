"""The overview, the health view, the alerts and the frame of the live page in a real Chromium."""

import re
import time
from hashlib import sha256
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from db.pool import Database
from db.queries import gaps, worker_report, write_lock
from db.queries.worker_report import WorkerReport
from db.rows import Reason
from graph.settings import Settings
from tests.e2e.conftest import CHROMIUM
from tests.e2e.live_page import OFFLINE, open_page, require_accessible, stored_until
from tests.e2e.test_pages import AXE
from tests.graph.conftest import Api, api, run_api
from tests.sample_data import row, store, track
from tests.wait import wait_until

__all__ = ["api", "stored_until"]  # fixtures of other tests

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

ADMIN_TOKEN = "a token of the administrator"  # noqa: S105  of a test


@pytest.fixture
async def many(db: Database) -> int:
    """Stores prices of five tickers, one of which is stale, and returns the current minute."""
    now = int(time.time()) // 60 * 60
    names = {"btc_usd": "68000", "eth_usd": "2500", "ada_usdc": "0.5", "xrp_usdc": "2.5", "sol_usd": "140"}
    await track(db, *names, since=now - 3_600)
    await store(db, [row(name, now - 60, price) for name, price in names.items() if name != "sol_usd"])
    await store(db, [row("sol_usd", now - 1_200, "140")])
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {("sol_usd", now - 1_140): Reason.MAINTENANCE})
    return now


async def _names(page: Page) -> list[str]:
    return [await link.inner_text() for link in await page.locator(".tickers .name a").all()]


@pytest.mark.usefixtures("many")
async def test_the_overview_is_sorted_filtered_and_grouped_and_its_url_holds_that(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/") as page:
        await expect(page.locator(".tickers .row")).to_have_count(5)
        await page.get_by_role("button", name="Price").click()
        assert await _names(page) == ["btc_usd", "eth_usd", "sol_usd", "xrp_usdc", "ada_usdc"]  # the largest first
        await page.get_by_role("button", name="Price").click()
        assert (await _names(page))[0] == "ada_usdc"
        await page.get_by_role("button", name="Price").click()
        await expect(page.get_by_role("columnheader", name="Price")).to_have_attribute("aria-sort", "descending")
        await page.keyboard.press("/")
        await page.keyboard.type("usdc")
        await expect(page.locator(".count")).to_have_text("2 of 5 tickers")
        assert page.url.endswith("/?sort=price&order=down&filter=usdc")
        await page.reload()
        await expect(page.locator(".tickers .row")).to_have_count(2)
        assert await _names(page) == ["xrp_usdc", "ada_usdc"]
        await page.get_by_label("Filter tickers").fill("nothing like it")
        await expect(page.get_by_text("No ticker matches the filter.")).to_be_visible()
        await page.get_by_label("Filter tickers").fill("")
        await page.get_by_label("Group by quote currency").check()
        await expect(page.locator(".tickers .group")).to_have_text(["USD", "USDC"])


@pytest.mark.usefixtures("many")
async def test_pins_and_columns_stay_in_the_browser(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/") as page:
        await page.get_by_role("button", name="Pin xrp_usdc").click()
        assert (await _names(page))[0] == "xrp_usdc"
        await expect(page.get_by_role("button", name="Pin xrp_usdc")).to_be_focused()  # in its new row
        await page.get_by_text("Columns").click()
        await page.get_by_label("Low in 24 h", exact=True).uncheck()
        await expect(page.get_by_role("columnheader", name="Low in 24 h")).to_have_count(0)
        await page.reload()
        await expect(page.locator(".tickers .row")).to_have_count(5)
        assert (await _names(page))[0] == "xrp_usdc"
        await expect(page.get_by_role("columnheader", name="Low in 24 h")).to_have_count(0)
        await expect(page.get_by_role("button", name="Pin xrp_usdc")).to_have_attribute("aria-pressed", "true")


@pytest.mark.usefixtures("many")
async def test_a_stale_ticker_is_named_and_counted_and_a_new_price_flashes(browser: Browser, api: Api, db: Database) -> None:
    # Other tickers become stale 61 seconds after the end of their minute.
    newest = int(time.time()) // 60 * 60
    await store(db, [row(name, newest, "1") for name in ("btc_usd", "eth_usd", "ada_usdc", "xrp_usdc")])
    async with open_page(browser, api, "/") as page:
        await expect(page.locator("#status")).to_contain_text("Live, 1 ticker stale")
        stale = page.locator(".tickers .row.stale")
        await expect(stale).to_have_count(1)
        await expect(stale).to_contain_text("sol_usd")
        await expect(stale).to_contain_text("ago, stale: Deribit was under maintenance")
        await expect(stale).to_contain_text("Solana / US dollar")
        await page.evaluate(
            "() => { window.flashes = []; const animate = Element.prototype.animate; "
            "Element.prototype.animate = function (...all) { flashes.push(this.textContent); return animate.apply(this, all) }}"
        )
        await store(db, [row("sol_usd", newest, "150")])
        await expect(page.locator(".tickers .row.stale")).to_have_count(0)
        await expect(page.locator("#status")).to_have_text(re.compile(r"^\s*Live$"))
        assert await page.evaluate("flashes") == ["150"]


@pytest.mark.usefixtures("many")
async def test_one_subscription_serves_the_whole_overview(browser: Browser, api: Api) -> None:
    page = await browser.new_page(service_workers="block")
    sent: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(str(text))))
    await page.goto(f"{api.url}/")
    await expect(page.locator(".tickers .row")).to_have_count(5)
    await expect(page.locator("#status")).to_contain_text("Live")
    assert sum('"subscribe"' in text for text in sent) == 1
    await page.close()


@pytest.mark.usefixtures("many")
async def test_a_wrong_address_says_what_would_be_right(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=BTC_USD&interval=nope&from=abc&to=1") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("btc_usd")
        problems = page.locator(".problems li")
        await expect(problems.nth(0)).to_contain_text("interval=nope is unknown and ignored. Use ONE_MINUTE")
        await expect(problems.nth(1)).to_contain_text("from and to are ignored")
        await page.get_by_role("button", name="one hour").click()
        await expect(problems).to_have_count(0)


@pytest.mark.usefixtures("many")
async def test_the_theme_is_chosen_and_stays(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/", color_scheme="dark") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(ground)
        await page.get_by_label("Theme").select_option("light")
        light = await page.evaluate(ground)
        assert dark != light
        await page.reload()
        await expect(page.locator(".tickers .row")).to_have_count(5)
        assert await page.evaluate(ground) == light


async def test_health_shows_days_outages_and_workers(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    async with open_page(browser, api, "/?view=health") as page:
        await expect(page.get_by_text("No worker has ever reported.")).to_be_visible()
        assert stored_until
    # A day that lacks nearly everything, of another ticker.
    today = int(time.time()) // 86_400 * 86_400
    await track(db, "btc_usd", "eth_usd", "sol_usd", since=today - 2 * 86_400)
    await store(db, [row("sol_usd", today - 2 * 86_400 + 60 * n) for n in range(1_440)])
    report = WorkerReport(2, 7, 0, -0.25, 1, 1, time.time() - 5, ["digests"])
    await worker_report.store(db, report)
    async with open_page(browser, api, "/?view=health") as page:
        facts = page.locator(".facts")
        await expect(facts).to_contain_text("on 2 hosts")
        await expect(facts).to_contain_text("\N{MINUS SIGN}0.250 s")
        await expect(facts).to_contain_text("1 of 1 connected")
        await expect(facts.locator(".bad")).to_contain_text(["7", "digests"])
        btc, sol = (page.locator(f'[data-ticker="{name}"]') for name in ("btc_usd", "sol_usd"))
        await expect(btc.locator(".outages")).to_contain_text("5 minutes: Deribit did not respond in time, backfill pending")
        await expect(btc).to_contain_text("are missing")
        await expect(sol.locator("rect.complete")).to_have_count(1)
        await expect(sol.locator("rect.none")).not_to_have_count(0)
        title = await sol.locator("rect.complete title").text_content() or ""
        assert title.endswith("1,440 of 1,440 minutes")
        await sol.get_by_text(re.compile("days? lacks? minutes")).click()
        await expect(sol.locator(".days li").first).to_contain_text(re.compile(r"^\d{4}-\d\d-\d\d: 0 of"))
        await db.execute("UPDATE worker_report SET at = at - 600")
    async with open_page(browser, api, "/?view=health") as page:
        await expect(page.get_by_text("No worker has reported since")).to_be_visible()


async def test_alerts_are_listed_created_muted_and_deleted(browser: Browser, dsn: str, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now)
    await store(db, [row("btc_usd", now)])
    async with (
        run_api(Settings(database_url=dsn, admin_token=ADMIN_TOKEN)) as api,
        open_page(browser, api, "/?view=alerts") as page,
    ):
        page.on("dialog", lambda dialog: dialog.accept())
        await page.get_by_label("Token").fill("wrong")
        await page.get_by_role("button", name="Show alerts").click()
        await expect(page.get_by_role("alert")).to_contain_text("token")
        await page.get_by_label("Token").fill(ADMIN_TOKEN)
        await page.get_by_role("button", name="Show alerts").click()
        await expect(page.get_by_text("No alerts yet.")).to_be_visible()
        await page.get_by_label("Level", exact=True).fill("70000.5")
        await page.get_by_label("URL of the webhook").fill("https://hooks.example.org/secret")
        await page.get_by_role("button", name="Create alert").click()
        alert = page.get_by_role("row", name="btc_usd crosses 70,000.5 from either side")
        await expect(alert).to_contain_text("Standard Webhooks: hooks.example.org")
        await expect(alert).not_to_contain_text("secret")
        await page.get_by_label("When").select_option("MOVES")
        await page.get_by_label("Percent", exact=True).fill("2.5")
        await page.get_by_label("Minutes", exact=True).fill("60")
        await page.get_by_label("URL of the webhook").fill("ftp://example.org")
        await page.get_by_role("button", name="Create alert").click()
        await expect(page.get_by_role("alert")).to_contain_text("http")
        await page.get_by_label("URL of the webhook").fill("https://hooks.example.org/2")
        await page.get_by_role("button", name="Create alert").click()
        await expect(page.get_by_role("row", name="btc_usd moves by 2.5 % within 60 min")).to_be_visible()
        await alert.get_by_role("button", name="Mute").click()
        await expect(alert).to_contain_text("(muted)")
        await alert.get_by_role("button", name="Delete").click()
        await expect(alert).to_have_count(0)


ALL_ARE_CACHED = """async () => {
  const loaded = performance.getEntriesByType("resource").map((one) => one.name).filter((name) => name.includes("/static/"));
  const found = await Promise.all(["/", ...loaded].map((name) => caches.match(name)));
  return found.every(Boolean) && loaded.some((name) => name.endsWith("alerts.mjs"));
}"""
"""Whether the service worker has stored the page and each of its files. The page loads `alerts.mjs` last."""


async def test_offline_the_page_opens_and_says_since_when(browser: Browser, api: Api, stored_until: int) -> None:
    assert stored_until
    async with open_page(browser, api, "/", service_workers="allow") as page:
        await wait_until(lambda: page.evaluate(ALL_ARE_CACHED))
        await page.context.set_offline(True)  # after one visit
        await page.reload()
        await expect(page.locator("#status")).to_have_text(OFFLINE)
        await page.get_by_role("link", name="Health").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Health")
        await page.get_by_role("link", name="Prices", exact=True).click()
        await page.context.set_offline(False)
        await expect(page.locator(".tickers .row")).to_have_count(2)


async def test_the_page_can_be_installed(api: Api) -> None:
    async with api.session.get(f"{api.url}/manifest.webmanifest") as response:
        assert response.content_type == "application/manifest+json"
        manifest: dict[str, Any] = await response.json(content_type=None)
    for icon in manifest["icons"]:
        async with api.session.get(f"{api.url}/{icon['src']}") as response:
            assert response.status == 200
            assert response.content_type == icon["type"]
    async with api.session.get(f"{api.url}/service-worker.js") as response:
        assert response.headers["Cache-Control"] == "no-cache"


async def test_a_wrong_key_is_named_and_a_right_one_can_be_remembered(browser: Browser, dsn: str, stored_until: int) -> None:
    assert stored_until
    async with run_api(Settings(database_url=dsn, api_keys=(sha256(b"open sesame").hexdigest(),))) as api:
        context = await browser.new_context(service_workers="block")
        page = await context.new_page()
        await page.goto(f"{api.url}/")
        await page.get_by_label("Key", exact=True).fill("wrong")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("alert")).to_contain_text("The API rejected this key.")
        await page.get_by_label("Key", exact=True).fill("open sesame")
        await page.get_by_label("Remember it in this browser").check()
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator(".tickers .row")).to_have_count(2)
        other = await context.new_page()
        await other.goto(f"{api.url}/?ticker=btc_usd")
        await expect(other.locator(".price.big")).to_have_text("68,599")
        await context.close()


@pytest.mark.skipif(not AXE.exists(), reason="the clients of Node.js are not installed")
@pytest.mark.parametrize(
    ("path", "ready"),
    [
        ("/", ".tickers .spark path[d^=M]"),
        ("/?ticker=btc_usd", ".gaps li"),
        ("/?sort=price&group=quote", ".tickers .group"),
        ("/?filter=nothing", ".no-match"),
        ("/?ticker=btc_usd&compare=eth_usd&style=area&interval=ONE_MINUTE", ".compared li"),
        ("/?ticker=btc_usd&from=1200000000&to=1200600000", ".chart-message button"),
        ("/?ticker=nothing_usd", "[role=alert]"),
        ("/?view=health", ".calendar"),
        ("/?view=alerts", "[name=token]"),
        ("/?view=nothing&interval=x", ".problems li"),
    ],
)
async def test_axe_finds_no_violation_in_any_view(
    browser: Browser, api: Api, db: Database, stored_until: int, path: str, ready: str
) -> None:
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [stored_until - 60 * 60])
        await gaps.open_gaps(connection, {("eth_usd", stored_until - 3_600): Reason.STORAGE})
    await worker_report.store(db, WorkerReport(0, 3, 1, None, 0, 0, None, ["drain"]))
    async with open_page(browser, api, path, color_scheme="light", reduced_motion="reduce") as page:  # colors do not fade
        await page.locator(ready).first.wait_for()
        for summary in await page.locator("main details > summary").all():
            await summary.click()
        await require_accessible(page)
        await page.emulate_media(color_scheme="dark")
        await require_accessible(page)
        await page.keyboard.press("?")
        await page.get_by_role("dialog", name="Keys").wait_for()
        await require_accessible(page)
