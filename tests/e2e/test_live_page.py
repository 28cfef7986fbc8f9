"""The live page in a real Chromium: display, updates and reconnection."""

import asyncio
import re
import shutil
import time
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from db.pool import Database
from db.queries import gaps, write_lock
from db.rows import Source
from db.runtime.embedded import free_port
from graph.settings import Settings
from tests.conftest import ROOT
from tests.e2e.conftest import CHROMIUM
from tests.e2e.live_page import LIVE, OFFLINE, open_page, stored_until, window_of_inputs
from tests.graph.api_server import run_api_process
from tests.graph.conftest import Api, api, run_api
from tests.sample_data import row, store, track
from tests.wait import wait_until

__all__ = ["api", "stored_until"]  # fixtures of other tests

PAGE = ROOT / "tests" / "page"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


async def test_every_ticker_is_shown_and_updated(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    async with open_page(browser, api, "/") as page:
        first = page.locator(".tickers .row", has_text="btc_usd")
        await expect(first.locator(".price")).to_have_text("68,599")
        await expect(first.locator(".change")).to_have_text(
            re.compile(r"^\+0\.88 % since \d\d:\d\d$|^\+0\.88 % since \d+ \w+ \d{4} \d\d:\d\d$")
        )
        assert (await first.locator("path").get_attribute("d") or "").startswith("M")
        await store(db, [row("btc_usd", stored_until, "70000.5")])
        await expect(first.locator(".price")).to_have_text("70,000.5")
        await track(db, "btc_usd", "eth_usd", "sol_usd", since=stored_until)
        await store(db, [row("sol_usd", stored_until, "142.5")])
        await expect(page.locator(".tickers .row", has_text="sol_usd").locator(".price")).to_have_text("142.5")


async def test_an_empty_page_is_filled_when_prices_arrive(browser: Browser, api: Api, db: Database) -> None:
    async with open_page(browser, api, "/") as page:
        await expect(page.get_by_role("heading", name="No prices yet")).to_be_visible()
        now = int(time.time()) // 60 * 60
        await track(db, "btc_usd", since=now)
        await store(db, [row("btc_usd", now, "1")])
        await expect(page.locator(".tickers td.price")).to_have_text("1")


async def test_a_chart_is_updated_and_its_url_holds_the_view(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    async with open_page(browser, api, "/") as page:
        await page.get_by_role("link", name="btc_usd").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("btc_usd")
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile(r"12\d"))
        await page.get_by_role("button", name="one minute").click()
        await expect(chart).to_have_attribute("data-candles", re.compile("50[01]"))
        assert page.url.endswith("/?ticker=btc_usd&interval=ONE_MINUTE")
        await store(db, [row("btc_usd", stored_until, "71234.5")])
        await expect(chart).to_have_attribute("data-last", "71234.5")
        await expect(page.locator(".price.big")).to_have_text("71,234.5")
        await page.go_back()
        await expect(chart).to_have_attribute("data-interval", "FIVE_MINUTES")
        await page.go_back()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Index prices")
        address = f"/?ticker=btc_usd&interval=FIFTEEN_MINUTES&from={stored_until - 18_000}&to={stored_until - 9_000}"
        await page.goto(api.url + address)
        await expect(chart).to_have_attribute("data-candles", re.compile(r"\d+"))
        await expect(page.get_by_role("button", name="fifteen minutes")).to_have_attribute("aria-pressed", "true")
        link = page.get_by_role("link", name="CSV")
        window = f"from={stored_until - 18_000}&to={stored_until - 9_000}"
        await expect(link).to_have_attribute("href", f"export?ticker=btc_usd&{window}&format=csv")


async def test_a_gap_is_drawn_with_its_reason(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    address = f"/?ticker=btc_usd&interval=ONE_MINUTE&from={stored_until - 60 * 75}&to={stored_until - 60 * 50}"
    async with open_page(browser, api, address) as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-missing", "1")
        await expect(page.locator(".coverage .words")).to_contain_text("5 missing")
        box = await chart.bounding_box()
        assert box is not None
        # The band of the gap is between these percentages, whatever the width of the price scale.
        for part in range(35, 65):
            await page.mouse.move(box["x"] + box["width"] * part / 100, box["y"] + 100)
            if "no prices" in (await page.locator(".legend").text_content() or ""):
                break
        await expect(page.locator(".legend")).to_contain_text("5 minutes: Deribit did not respond in time, backfill pending")
        async with write_lock.write_transaction(db) as connection:
            await gaps.mark_unrecoverable(connection, "btc_usd", [stored_until - 60 * n for n in range(60, 65)])
        await expect(page.locator(".gaps")).to_contain_text("unrecoverable")


async def test_prices_missed_offline_are_loaded_after_reconnecting(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    async with (
        open_page(browser, api, "/?ticker=btc_usd&interval=ONE_MINUTE") as page,
        open_page(browser, api, "/") as overview,
    ):
        await expect(page.locator(".chart")).to_have_attribute("data-candles", re.compile("50[01]"))
        await expect(overview.locator(".tickers td.price").first).to_have_text("68,599")
        for visited_page in (page, overview):
            await visited_page.context.set_offline(True)
            await expect(visited_page.locator("#status")).to_have_text(OFFLINE)
        await store(db, [row("btc_usd", stored_until - 60 * 60, "65000"), row("btc_usd", stored_until, "72000")])
        for visited_page in (page, overview):
            await visited_page.context.set_offline(False)
            await expect(visited_page.locator("#status")).to_have_text(LIVE)
        await expect(overview.locator(".tickers td.price").first).to_have_text("72,000")
        await expect(page.locator(".price.big")).to_have_text("72,000")
        await expect(page.locator(".chart")).to_have_attribute("data-missing", "1")


async def test_the_page_reconnects_to_a_new_process(
    browser: Browser, dsn: str, db: Database, stored_until: int, tmp_path: Path
) -> None:
    port = free_port()
    async with run_api_process(dsn, tmp_path, port=port) as stand:
        page = await browser.new_page(service_workers="block")
        await page.goto(f"http://127.0.0.1:{port}/?ticker=btc_usd")
        await expect(page.locator("#status")).to_have_text(LIVE)
        assert stand.url
    await expect(page.locator("#status")).to_have_text(OFFLINE)
    await store(db, [row("btc_usd", stored_until, "73000")])
    async with run_api_process(dsn, tmp_path, port=port):
        await expect(page.locator("#status")).to_have_text(LIVE)
        await expect(page.locator(".price.big")).to_have_text("73,000")
        await page.close()


async def test_a_view_whose_file_was_not_served_is_loaded_again(browser: Browser, api: Api, stored_until: int) -> None:
    page = await browser.new_page(service_workers="block")
    await page.route("**/ticker_template.mjs", lambda route: route.abort(), times=1)
    await page.goto(f"{api.url}/?ticker=btc_usd")
    await expect(page.get_by_role("alert")).to_contain_text("could not be loaded. The page retries automatically.")
    await expect(page.locator(".price.big")).to_have_text("68,599")
    await page.close()


async def test_a_window_of_the_past_does_not_change(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    window_start = stored_until // 300 * 300 - 40 * 86_400
    await store(db, [row("btc_usd", window_start + 60 * n, str(50_000 + n)) for n in range(300) if n != 100])
    async with open_page(browser, api, f"/?ticker=btc_usd&from={window_start + 3_600}&to={window_start + 7_200}") as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile(r"\d+"))
        await expect(page.locator(".legend")).to_contain_text("close 50,119")  # the last candle of the window
        candles_before = await chart.get_attribute("data-candles")
        await store(db, [row("btc_usd", stored_until, "71234.5")])
        await expect(page.locator(".price.big")).to_have_text("71,234.5")
        await expect(page.locator(".coverage .words")).to_contain_text("59 minutes are stored")
        await store(db, [row("btc_usd", window_start + 60 * 100, "1", source=Source.IMPORT)])
        await expect(page.locator(".coverage .words")).to_contain_text("60 minutes are stored")
        assert await chart.get_attribute("data-candles") == candles_before
        assert f"to={window_start + 7_200}" in page.url


async def test_late_prices_of_an_outage_are_drawn(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    begin = stored_until - 60 * 100
    await track(db, "btc_usd", "eth_usd", "sol_usd", since=begin)
    await store(db, [row("sol_usd", begin), row("sol_usd", stored_until - 60)])
    async with open_page(browser, api, "/?ticker=sol_usd&interval=ONE_MINUTE") as page:
        coverage_text = page.locator(".coverage .words")
        await expect(coverage_text).to_contain_text(re.compile(r"2 of 10\d minutes"))
        await store(db, [row("sol_usd", stored_until - 60 * n) for n in range(5, 30)])
        await expect(coverage_text).to_contain_text(re.compile(r"27 of 10\d minutes"))


@pytest.mark.usefixtures("stored_until")
async def test_a_response_for_a_closed_view_is_ignored(browser: Browser, api: Api, db: Database) -> None:
    async with open_page(browser, api, "/") as page:
        request_is_sent = asyncio.Event()
        request_may_continue = asyncio.Event()

        async def hold(route: Route) -> None:
            if "first: prices" in (route.request.post_data or ""):
                request_is_sent.set()
                await request_may_continue.wait()
            await route.continue_()

        await page.route("**/graphql", hold)
        await page.get_by_role("link", name="btc_usd").click()
        await request_is_sent.wait()
        await page.go_back()
        await expect(page.locator(".tickers .row")).to_have_count(2)
        request_may_continue.set()
        await store(db, [row("eth_usd", int(time.time()) // 60 * 60, "2600.5")])
        await expect(page.locator(".tickers .row", has_text="eth_usd").locator(".price")).to_have_text("2,600.5")
        assert page.url == f"{api.url}/"


MAY = 1_525_305_600
"""2018-05-03."""


@pytest.fixture
async def history_of_2018(db: Database) -> None:
    """A price each hour from January to August 2018."""
    await track(db, "btc_usd", since=MAY + 150 * 86_400)
    await store(db, [row("btc_usd", MAY + 3_600 * n, str(9_000 + n % 500)) for n in range(-24 * 120, 24 * 100)])


async def _shown_window(page: Page) -> tuple[int, int]:
    """Returns the window of the inputs, after the CSV link has the same one."""
    low, high = await window_of_inputs(page)
    href = await page.get_by_role("link", name="CSV").get_attribute("href") or ""
    assert [int(one) // 60 * 60 for one in re.findall(r"(?:from|to)=(\d+)", href)] == [low, high]
    return low, high


@pytest.mark.usefixtures("history_of_2018")
async def test_each_interval_keeps_the_middle_of_the_view(browser: Browser, api: Api) -> None:
    address = f"/?ticker=btc_usd&interval=ONE_HOUR&from={MAY}&to={MAY + 3 * 86_400}"
    async with open_page(browser, api, address) as page:
        words = page.locator(".coverage .words")
        await expect(words).to_contain_text("From 3 May 2018 00:00 to 6 May 2018 00:00 UTC")
        buttons = page.get_by_role("group", name="Candle").get_by_role("button")
        names = [await button.get_attribute("data-key") for button in await buttons.all()]
        for first in names:
            for second in (first, "ONE_MONTH", "ONE_MINUTE", "ONE_DAY"):
                await page.locator(f'[data-key="{second}"]').click()
                await expect(page.locator(".chart")).to_have_attribute("data-interval", str(second))
                low, high = await _shown_window(page)
                # Windows grow for long candles, but stay around the middle of the first one.
                assert abs((low + high) / 2 - MAY - 1.5 * 86_400) <= 120, (first, second)


@pytest.mark.usefixtures("history_of_2018")
@pytest.mark.parametrize(
    ("interval", "low", "high"),
    [
        ("ONE_MONTH", 1_515_542_400, 1_516_406_400),
        ("ONE_WEEK", MAY + 5 * 86_400, MAY + 7 * 86_400),
        ("ONE_DAY", MAY + 60, MAY + 90),
    ],
)
async def test_a_window_without_the_start_of_a_candle_is_shown(
    browser: Browser, api: Api, interval: str, low: int, high: int
) -> None:
    async with open_page(browser, api, f"/?ticker=btc_usd&interval={interval}&from={low}&to={high}") as page:
        await expect(page.locator(".coverage .words")).to_contain_text("2018")
        shown = await _shown_window(page)
        assert shown[0] <= low // 60 * 60 < shown[1]


@pytest.mark.usefixtures("history_of_2018")
async def test_a_typed_window_is_shown_as_it_is_in_the_chosen_zone(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=btc_usd") as page:
        await page.get_by_label("Time zone").select_option("UTC")
        await page.get_by_label("From", exact=True).fill("2018-05-03 00:00")
        await page.get_by_label("To", exact=True).fill("2018-05-06")
        await page.get_by_role("button", name="Show", exact=True).click()
        words = page.locator(".coverage .words")
        await expect(words).to_contain_text("From 3 May 2018 00:00 to 6 May 2018 00:00 UTC. 72 minutes are stored")
        await page.goto(
            f"{api.url}/?ticker=btc_usd&interval=ONE_DAY&from={MAY - 7_200}&to={MAY + 10 * 86_400}&zone=Europe%2FBerlin"
        )
        await expect(words).to_contain_text("From 3 May 2018 00:00 to 13 May 2018 02:00 Europe/Berlin")
        await expect(page.get_by_label("From", exact=True)).to_have_value("2018-05-03 00:00")
        await page.locator(".chart").focus()
        await page.keyboard.press("Shift+ArrowLeft")
        await expect(page.locator(".legend")).to_contain_text(re.compile(r"\d+ \w+ 2018 00:00"))  # days begin in Berlin


@pytest.mark.usefixtures("history_of_2018")
async def test_an_empty_view_says_where_the_prices_are(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=btc_usd&interval=ONE_HOUR&from=1200000000&to=1200600000") as page:
        await expect(page.locator(".chart-message")).to_contain_text(
            "Prices are available from 3 Jan 2018 00:00 to 10 Aug 2018 23:00 UTC"
        )
        await page.get_by_role("button", name="Show all prices").click()
        await expect(page.locator(".coverage .words")).to_contain_text("From 3 Jan 2018 00:00 to 10 Aug 2018 23:01 UTC")
        await expect(page.get_by_role("button", name="All: all prices")).to_have_attribute("aria-pressed", "true")
        await page.get_by_role("button", name="Now").click()
        await page.wait_for_url(lambda url: "from=" not in url)


@pytest.mark.usefixtures("stored_until")
async def test_a_failed_load_leaves_controls_and_chart_in_agreement(browser: Browser, api: Api) -> None:
    page = await browser.new_page(service_workers="block")
    await page.goto(f"{api.url}/?ticker=btc_usd")
    await expect(page.locator(".chart")).to_have_attribute("data-interval", "FIVE_MINUTES")
    await expect(page.locator(".coverage .words")).to_contain_text("minutes")

    async def fail(route: Route) -> None:
        await route.abort()

    await page.route("**/graphql", fail)
    await page.get_by_role("button", name="one hour").click()
    await expect(page.locator(".chart-message")).to_contain_text("The chart could not be loaded: no connection")
    await expect(page.get_by_role("button", name="five minutes")).to_have_attribute("aria-pressed", "true")
    assert "interval=" not in page.url
    await page.unroute("**/graphql", fail)
    await page.locator(".chart-message").get_by_role("button", name="Try again").click()
    await expect(page.locator(".chart")).to_have_attribute("data-interval", "ONE_HOUR")
    await expect(page.get_by_role("button", name="one hour")).to_have_attribute("aria-pressed", "true")
    await page.close()


@pytest.mark.usefixtures("stored_until")
async def test_an_invalid_window_is_rejected_by_the_form(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=btc_usd") as page:
        await expect(page.locator(".chart")).to_have_attribute("data-candles", re.compile(r"\d+"))
        begin, end = page.get_by_label("From", exact=True), page.get_by_label("To", exact=True)
        await begin.fill("2026-01-03T00:00")
        await end.fill("2026-01-02T00:00")
        await page.get_by_role("button", name="Show").click()
        assert await end.evaluate("one => one.validationMessage") == "The end must be after the start"
        await begin.fill("2026-01-01T00:00")
        await page.get_by_role("button", name="Show").click()
        await page.wait_for_url("**from=*")


@pytest.mark.usefixtures("stored_until")
async def test_a_chart_is_moved_by_keys(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=btc_usd&interval=ONE_MINUTE") as page:
        chart = page.locator(".chart")
        await expect(chart).to_have_attribute("data-candles", re.compile("50[01]"))
        await chart.focus()
        await expect(page.get_by_text("Arrow keys scroll")).to_be_visible()
        for _ in range(17):
            await page.keyboard.press("ArrowLeft")
        await page.wait_for_url("**from=*")
        await page.keyboard.press("-")
        await expect(chart).not_to_have_attribute("data-candles", re.compile("50[01]"))  # older candles were loaded
        await page.keyboard.press("End")
        await page.wait_for_url(lambda url: "from=" not in url)
        await expect(page.get_by_role("button", name="Now")).to_have_attribute("aria-pressed", "true")  # it is loaded
        legend = page.locator(".legend")
        for _ in range(10):  # the newest minutes have no price: they began while the page loaded
            await page.keyboard.press("Shift+ArrowLeft")
            if "close" in await legend.inner_text():
                break
        await expect(legend).to_contain_text("close 68,59")


async def test_the_page_of_a_protected_api_asks_for_the_key(browser: Browser, dsn: str, stored_until: int) -> None:
    assert stored_until
    async with run_api(Settings(database_url=dsn, api_keys=(sha256(b"open sesame").hexdigest(),))) as api:
        page = await browser.new_page(service_workers="block")
        await page.goto(f"{api.url}/?ticker=btc_usd")
        await page.get_by_label("Key", exact=True).fill("open sesame")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator(".price.big")).to_have_text("68,599")
        await expect(page.locator("#status")).to_have_text(LIVE)
        await page.close()


@pytest.mark.parametrize(
    ("path", "message"),
    [("/?ticker=nothing_usd", "Unknown ticker: nothing_usd"), ("/?ticker=btc_usd", "Unknown ticker: btc_usd")],
)
async def test_an_unknown_ticker_is_reported(browser: Browser, api: Api, path: str, message: str) -> None:
    async with open_page(browser, api, path) as page:
        await expect(page.get_by_role("alert")).to_contain_text(message)


EVENT_SOURCE_SCRIPT = """query => {
  window.received = [];
  const source = new EventSource(`/graphql?query=${encodeURIComponent(query)}`);
  source.addEventListener("next", (event) => window.received.push(JSON.parse(event.data).data.priceAdded.price));
}"""


async def test_an_event_source_of_the_browser_resumes_at_its_last_event(
    browser: Browser, dsn: str, db: Database, stored_until: int, tmp_path: Path
) -> None:
    port = free_port()
    page = await browser.new_page(service_workers="block")
    async with run_api_process(dsn, tmp_path, port=port) as stand:
        await page.goto(f"{stand.url}/docs")
        await page.evaluate(EVENT_SOURCE_SCRIPT, 'subscription { priceAdded(tickers: ["eth_usd"], after: "0") { price } }')
        await wait_until(lambda: page.evaluate("received.length === 1"))
    await store(db, [row("eth_usd", stored_until, "3")])
    async with run_api_process(dsn, tmp_path, port=port):
        await wait_until(lambda: page.evaluate("received.length === 2"))
        await store(db, [row("eth_usd", stored_until + 60, "4")])
        await wait_until(lambda: page.evaluate("received.length === 3"))
        assert await page.evaluate("received") == ["2536.1", "3", "4"]
    await page.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
async def test_the_modules_of_the_page_pass_their_own_tests() -> None:
    files = sorted(str(path) for path in PAGE.glob("*.test.mjs"))
    process = await asyncio.create_subprocess_exec("node", "--test", *files, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
