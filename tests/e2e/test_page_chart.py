"""The tools of a ticker's page in a real Chromium: drawing, comparing, measuring, statistics, copying."""

import asyncio
import datetime as dt
import json
import re
import time

import pytest
from playwright.async_api import Browser, Page, Route, expect

from db.pool import Database
from tests.e2e.conftest import CHROMIUM
from tests.e2e.live_page import REPORT, click_and_read, open_page, stored_until, wait_until_drawn
from tests.graph.conftest import Api, api
from tests.sample_data import range_row, row, store, store_ranges, track

__all__ = ["api", "stored_until"]  # fixtures of other tests

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

TICKER = "/?ticker=btc_usd"
MINUS = "\N{MINUS SIGN}"
CLIPBOARD = ["clipboard-read", "clipboard-write"]


async def _wait_for_chart(page: Page) -> None:
    await expect(page.locator(".chart")).to_have_attribute("data-candles", re.compile(r"\d+"))
    await expect(page.locator(".coverage .words")).to_contain_text("minutes")


@pytest.mark.usefixtures("stored_until")
async def test_style_and_scale_are_chosen_by_buttons_and_keys_and_stay_after_a_reload(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER) as page:
        await _wait_for_chart(page)
        chart = page.locator(".chart")
        for name, key, style in (("Line", "l", "line"), ("Area", "a", "area"), ("Candles", "c", "candles")):
            await page.get_by_role("button", name=name, exact=True).click()
            await expect(chart).to_have_attribute("data-style", style)
            await page.keyboard.press("l" if style != "line" else "c")
            await page.keyboard.press(key)
            await expect(chart).to_have_attribute("data-style", style)
        await page.keyboard.press("g")
        await expect(chart).to_have_attribute("data-scale", "log")
        await page.keyboard.press("g")
        await expect(chart).to_have_attribute("data-scale", "linear")
        await page.get_by_role("button", name="Percent").click()
        await page.keyboard.press("a")
        await page.reload()
        await expect(chart).to_have_attribute("data-style", "area")
        await expect(chart).to_have_attribute("data-scale", "percent")
        await expect(page.get_by_role("button", name="Area", exact=True)).to_have_attribute("aria-pressed", "true")


async def test_other_tickers_are_compared_in_percent(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    await track(db, "btc_usd", "eth_usd", "sol_usd", since=stored_until - 36_000)
    await store(db, [row("eth_usd", stored_until - 60 * n, f"{2_000 + n}") for n in range(2, 600)])
    async with open_page(browser, api, TICKER) as page:
        await _wait_for_chart(page)
        await page.get_by_label("Compare with").select_option("eth_usd")
        compared = page.locator(".compared li")
        await expect(compared).to_contain_text(re.compile(rf"eth_usd [{MINUS}+]\d+\.\d\d %"))
        await expect(page.locator(".chart")).to_have_attribute("data-scale", "percent")
        assert "compare=eth_usd" in page.url
        await expect(page.get_by_role("button", name="Linear")).to_be_disabled()  # prices of two tickers have no common scale
        await page.reload()
        await expect(compared).to_contain_text(re.compile(rf"eth_usd [{MINUS}+]\d+\.\d\d %"))
        before = await compared.inner_text()
        await store(db, [row("eth_usd", int(time.time()) // 60 * 60, "4000")])
        await expect(compared).not_to_have_text(before)  # its newest price moves it
        await page.get_by_role("button", name="Remove eth_usd").click()
        await expect(compared).to_have_count(0)
        await expect(page.locator(".chart")).to_have_attribute("data-scale", "linear")


@pytest.mark.usefixtures("stored_until")
async def test_an_unknown_ticker_to_compare_is_reported(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, f"{TICKER}&compare=nothing_usd,eth_usd") as page:
        await expect(page.locator(".problem")).to_contain_text("Unknown, and not compared: nothing_usd")
        await expect(page.locator(".compared li")).to_have_count(1)  # the other one is
        await _wait_for_chart(page)


@pytest.mark.usefixtures("stored_until")
async def test_the_legend_tells_the_change_since_the_left_edge(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, f"{TICKER}&interval=FIFTEEN_MINUTES") as page:
        await _wait_for_chart(page)
        legend = page.locator(".legend")
        box = await page.locator(".chart").bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 100)
        await expect(legend).to_contain_text(re.compile(r"candle \+0\.0\d %.*since [\w ]*\d\d:\d\d \+0\.\d\d %"))
        half = await legend.inner_text()
        await page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 100)
        await expect(legend).not_to_have_text(half)


async def test_the_edges_of_the_chart_are_those_of_its_window(browser: Browser, api: Api, stored_until: int) -> None:
    begin = stored_until // 900 * 900 - 6 * 3_600
    async with open_page(browser, api, f"{TICKER}&interval=FIFTEEN_MINUTES&from={begin}&to={begin + 3_600}") as page:
        await _wait_for_chart(page)
        box = await page.locator(".chart").bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + 5, box["y"] + 100)  # a candle is some 280 pixels wide
        await expect(page.locator(".legend")).to_contain_text(f"{dt.datetime.fromtimestamp(begin, dt.UTC):%H:%M}")


@pytest.mark.usefixtures("stored_until")
async def test_a_distance_is_measured_by_dragging_and_by_keys(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, f"{TICKER}&interval=FIFTEEN_MINUTES") as page:
        await _wait_for_chart(page)
        chart = page.locator(".chart")
        box = await chart.bounding_box()
        assert box is not None
        await page.keyboard.down("Shift")
        await page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 250)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 100, steps=4)
        await page.mouse.up()
        await page.keyboard.up("Shift")
        text = page.locator(".measure-text")
        await expect(text).to_contain_text(re.compile(r"^\+\d+\.\d\d, \+\d\.\d\d %, \d+ minutes \(\d+ h( \d+ min)?\)"))
        assert "from=" not in page.url  # the chart was not moved
        await page.keyboard.press("Escape")
        await expect(text).to_have_count(0)
        await chart.focus()
        for _ in range(3):
            await page.keyboard.press("Shift+ArrowLeft")
        await page.keyboard.press("m")
        await page.keyboard.press("Shift+ArrowLeft")
        await page.keyboard.press("Shift+ArrowLeft")
        await expect(text).to_contain_text(re.compile(r"^\+\d+\.\d\d, .*, 30 minutes$"))  # from the earlier to the later one


@pytest.mark.usefixtures("stored_until")
async def test_the_sheet_lists_all_keys_and_turns_those_of_one_character_off(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER) as page:
        await _wait_for_chart(page)
        await page.keyboard.press("?")
        sheet = page.get_by_role("dialog", name="Keys")
        for text in ("Scroll", "Measure", "Full screen", "Candles of one hour", "Compare with another ticker"):
            await expect(sheet).to_contain_text(text)
        await sheet.get_by_role("checkbox").uncheck()
        await page.keyboard.press("Escape")
        await expect(sheet).to_be_hidden()
        await page.keyboard.press("l")
        await page.locator(".chart").focus()
        await page.keyboard.press("a")  # in the chart, keys work always
        await expect(page.locator(".chart")).to_have_attribute("data-style", "area")
        await page.keyboard.press("5")
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "ONE_HOUR")
        await page.get_by_label("Level").fill("l5")
        await expect(page.locator(".chart")).to_have_attribute("data-style", "area")


async def test_changes_are_those_of_their_periods_or_since_the_first_price(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    # The prices of a line, so that each change is known.
    begin = stored_until - 40 * 86_400
    await track(db, "sol_usd", since=begin)
    await store(db, [row("sol_usd", stored_until - 600 * n, f"{1_000_000 - 100 * n}") for n in range(1, 40 * 144)])
    async with open_page(browser, api, "/?ticker=sol_usd") as page:
        cells = page.locator(".changes tbody tr")
        await expect(cells).to_have_count(5)
        rows = [re.split(r"\s*\t\s*|\n", text.strip()) for text in await cells.all_inner_texts()]
        names = [one[0] for one in rows]
        assert names[:4] == ["1 hour", "24 hours", "7 days", "30 days"]
        assert names[4].lower().startswith("since ")  # January, or the first price if that is later
        assert rows[2][2] in {"899,200", "899,300"}
        assert {one[3] for one in rows} == {"999,900"}
        await expect(page.locator(".head .change")).to_contain_text("in 24 h")


@pytest.mark.usefixtures("stored_until")
async def test_statistics_are_copied_as_text(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER, permissions=CLIPBOARD) as page:
        await _wait_for_chart(page)
        await page.get_by_text("Statistics of the view").click()
        minutes = page.get_by_role("row", name="Minutes")
        await expect(minutes).to_contain_text("59")
        button = page.get_by_role("button", name="Copy as text")
        assert await click_and_read(button) == "Copied"
        lines = (await page.evaluate("navigator.clipboard.readText()")).split("\n")
        assert lines[0].startswith("btc_usd, ")
        assert [line.split("\t")[0] for line in lines[1:5]] == ["", "Minutes", "Hours", "Days"]
        assert lines[2].split("\t")[1] == (await minutes.get_by_role("cell").all_inner_texts())[0]


@pytest.mark.usefixtures("stored_until")
async def test_the_view_is_copied_as_query_command_and_program(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER, permissions=CLIPBOARD) as page:
        await _wait_for_chart(page)

        async def copied(name: str) -> str:
            assert await click_and_read(page.get_by_role("button", name=f"Copy {name}")) == "Copied"
            text: str = await page.evaluate("navigator.clipboard.readText()")
            return text

        found = await api.execute(await copied("GraphQL"))
        assert found["data"]["candles"][-1]["close"].startswith("685")  # of the last closed candle
        command = await asyncio.create_subprocess_shell(f"{await copied('curl')} --silent", stdout=asyncio.subprocess.PIPE)
        out, _ = await command.communicate()
        assert out.decode().strip().split("\n")[-1].startswith("btc_usd,")
        compile(await copied("Python"), "copied", "exec")
        assert await copied("link") == page.url
        async with page.expect_download() as download:
            await page.get_by_role("button", name="PNG of the chart").click()
        file = await (await download.value).path()
        assert file.read_bytes().startswith(b"\x89PNG")
        assert (await download.value).suggested_filename.startswith("btc_usd-5m-20")


@pytest.mark.usefixtures("stored_until")
async def test_the_candles_in_view_are_a_table(browser: Browser, api: Api) -> None:
    begin = int(time.time()) // 900 * 900 - 7_140  # one minute after the start of a candle
    address = f"{TICKER}&interval=FIFTEEN_MINUTES&from={begin}&to={begin + 3_600}"
    async with open_page(browser, api, address) as page:
        await _wait_for_chart(page)
        await page.get_by_text("Table of the candles in view").click()
        rows = page.locator(".candle-table tbody tr")
        await expect(rows).to_have_count(5)
        await expect(rows.last).to_contain_text("15 of 15")


@pytest.mark.usefixtures("stored_until")
async def test_the_highest_price_in_view_is_marked_and_a_stretch_is_one_bar(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, f"{TICKER}&interval=ONE_MINUTE") as page:
        await _wait_for_chart(page)
        await expect(page.locator(".chart")).to_have_attribute("data-high", "68599")
        await page.get_by_role("button", name="All: all prices").click()
        await expect(page.locator(".chart")).to_have_attribute("data-parts", "1")  # two backfilled minutes


@pytest.mark.usefixtures("stored_until")
async def test_the_chart_fills_the_screen(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER) as page:
        await _wait_for_chart(page)
        await page.keyboard.press("f")
        await page.wait_for_function("document.fullscreenElement?.classList.contains('stage')")
        await page.get_by_role("button", name="Leave full screen").click()
        await page.wait_for_function("document.fullscreenElement === null")


@pytest.mark.usefixtures("stored_until")
async def test_a_tap_shows_a_candle_and_controls_are_large_enough_on_a_phone(browser: Browser, api: Api) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    async with open_page(browser, api, TICKER, **phone) as page:
        await _wait_for_chart(page)
        legend = page.locator(".legend")
        before = await legend.inner_text()
        chart = page.locator(".chart")
        box = await chart.bounding_box()
        assert box is not None
        assert box["y"] < 740 / 2  # the chart is on the first screen
        await chart.tap(position={"x": 60, "y": 100})
        await expect(legend).not_to_have_text(before)
        small = await page.evaluate(
            "[...document.querySelectorAll('main button, main select, main summary, main input:not([type=checkbox])')]"
            ".filter((one) => one.offsetHeight && one.offsetHeight < 44).map((one) => one.outerHTML)"
        )
        assert small == []


async def test_a_crossed_level_is_reported(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    async with open_page(browser, api, TICKER, permissions=["notifications"]) as page:
        await _wait_for_chart(page)
        await page.get_by_label("Level").fill("70,000")
        await page.get_by_role("button", name="Add level").click()
        await expect(page.locator(".levels .chips")).to_contain_text("70,000")
        await page.reload()  # levels stay in this browser
        await expect(page.locator(".levels .chips")).to_contain_text("70,000")
        await expect(page.get_by_label("Ticker", exact=True)).to_be_visible()  # the prices so far are loaded
        await store(db, [row("btc_usd", stored_until, "70000.5")])
        await expect(page.locator(".crossings")).to_contain_text("btc_usd crossed 70,000: 70,000.5")
        await page.get_by_role("button", name="Remove level 70000").click()
        await expect(page.locator(".levels .chips")).to_have_count(0)
        await page.get_by_label("Level").fill("cheap")
        await page.get_by_role("button", name="Add level").click()
        message = await page.get_by_label("Level").evaluate("one => one.validationMessage")
        assert message == "Enter a price like 68000.5"
        for count, style in enumerate(("Candles", "Line", "Area"), start=1):
            await page.get_by_role("button", name=style, exact=True).click()
            await page.locator(".chart").dblclick(position={"x": 200, "y": 120 + 20 * count})
            await expect(page.locator(".levels .chips li")).to_have_count(count)


@pytest.mark.usefixtures("stored_until")
async def test_the_price_is_in_the_title(browser: Browser, api: Api, db: Database) -> None:
    async with open_page(browser, api, TICKER) as page:
        await expect(page).to_have_title(re.compile("^(Stale: )?68,599 btc_usd · Tickgraph$"))
        await store(db, [row("btc_usd", int(time.time()) // 60 * 60, "70000.5")])
        await expect(page).to_have_title("70,000.5 btc_usd · Tickgraph")
        await page.get_by_role("link", name="← All tickers").click()
        await expect(page).to_have_title("Tickgraph")


MODULE_CHECK = """async () => {
  const { describeMeasure } = await import("/static/live/measure.mjs");
  const { levelOf, placeDays } = await import("/static/live/calendar.mjs");
  const { isCrossed } = await import("/static/live/levels.mjs");
  const point = (time, price) => ({ time, price });
  const places = placeDays(Date.UTC(2026, 10, 26, 15) / 1000, 2);
  const days = [[0, 0], [10, 0], [10, 10], [1440, 1439], [10, 5]].map(([expected, stored]) => ({ expected, stored }));
  return {
    measures: [describeMeasure(point(0, 100), point(7200, 110)), describeMeasure(point(120, 0.5), point(60, 0.4))],
    days: [places.length, places[0].day / 86400, places.at(-1)],
    levels: [undefined, ...days].map(levelOf),
    crossed: ["5 4 6", "5 6 4", "5 4 5", "5 5 6", "5 6 7", "10 9 11"].map((text) => isCrossed(...text.split(" "))),
  };
}"""


async def test_the_modules_that_need_a_browser(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/") as page:
        found = await page.evaluate(MODULE_CHECK)
    assert found["measures"] == [
        "+10.00, +10.00 %, 120 minutes (2 h)",
        "+0.1000, +25.00 %, 1 minute",
    ]
    assert found["days"] == [11, 20_773, {"day": 1_795_651_200, "week": 1, "weekday": 3}]
    assert found["levels"] == ["unexpected", "unexpected", "none", "complete", "almost", "partial"]
    assert found["crossed"] == [True, True, True, False, False, True]


async def test_a_range_follows_new_prices_until_the_chart_is_moved(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    async with open_page(browser, api, TICKER) as page:
        await _wait_for_chart(page)
        day = page.get_by_role("button", name="1D: one day").first
        week = page.get_by_role("button", name="1W: one week").last
        await week.click()
        await page.wait_for_url("**range=1W*")
        assert "from=" not in page.url
        await expect(week).to_have_attribute("aria-pressed", "true")
        # The history is shorter than a week: the chart begins with it.
        first = [f"{dt.datetime.fromtimestamp(stored_until - 36_000 - 60 * n, dt.UTC):%Y-%m-%d %H:%M}" for n in (0, 1)]
        await expect(page.get_by_label("From", exact=True)).to_have_value(re.compile("|".join(first)))
        await wait_until_drawn(page)
        begin = await page.get_by_label("From", exact=True).input_value()
        await store(db, [row("btc_usd", stored_until, "71234567.25")])  # its label makes the chart narrower
        await expect(page.locator(".legend")).to_contain_text("71,234,567.25")
        await expect(week).to_have_attribute("aria-pressed", "true")
        await page.evaluate(REPORT)
        assert await page.get_by_label("From", exact=True).input_value() == begin
        await page.reload()
        await expect(week).to_have_attribute("aria-pressed", "true")
        await expect(page.locator(".legend")).to_contain_text("71,234,567.25")
        await page.locator(".chart").focus()
        for _ in range(3):
            await page.keyboard.press("ArrowLeft")
        await page.wait_for_url("**from=*")
        assert "range=" not in page.url
        await expect(week).to_have_attribute("aria-pressed", "false")
        assert day


async def test_a_window_in_the_future_shows_the_newest_prices(browser: Browser, api: Api, stored_until: int) -> None:
    begin = stored_until + 30 * 86_400
    async with open_page(browser, api, f"{TICKER}&from={begin}&to={begin + 3_600}") as page:
        await page.wait_for_url(lambda url: "from=" not in url)
        await _wait_for_chart(page)
        await page.get_by_label("From", exact=True).fill("2090-01-01")
        await page.get_by_label("To", exact=True).fill("2090-01-02")
        await page.get_by_role("button", name="Show", exact=True).click()
        message = await page.get_by_label("To", exact=True).evaluate("one => one.validationMessage")
        assert message == "The start must not be in the future"


async def test_lows_and_highs_are_those_of_the_chart(browser: Browser, api: Api, db: Database, stored_until: int) -> None:
    await store_ranges(db, [range_row("btc_usd", stored_until - 600, twap="100")])  # ticks of 90 to 110
    async with open_page(browser, api, "/?ticker=btc_usd&interval=ONE_MINUTE") as page:
        await expect(page.locator(".changes tbody tr").first).to_contain_text("90")
        await expect(page.locator(".dayrange")).to_have_text(re.compile(r"^since [\w ]*\d\d:\d\d: 90 to 68,599$"))
    async with open_page(browser, api, "/") as page:
        await expect(page.locator('[data-ticker="btc_usd"] td.low')).to_have_text("90")


async def test_an_earlier_or_later_view_does_not_disturb_the_current_one(browser: Browser, api: Api, stored_until: int) -> None:
    async with open_page(browser, api, TICKER + "&zone=Asia%2FTokyo") as page:
        await _wait_for_chart(page)
        released = asyncio.Event()

        async def hold(route: Route) -> None:
            if "workers" in (route.request.post_data or ""):
                await released.wait()
            await route.continue_()

        await page.route("**/graphql", hold)
        await page.get_by_role("link", name="Health").click()
        await page.get_by_role("link", name="Prices", exact=True).click()
        await expect(page.locator(".tickers .row")).to_have_count(2)
        released.set()
        await page.get_by_role("link", name="Health").click()
        # The zone of the ticker is not that of other views.
        gap = time.strftime("%H:%M", time.gmtime(stored_until - 64 * 60))
        await expect(page.locator('[data-ticker="btc_usd"] .outages')).to_contain_text(re.compile(rf"{gap[:2]}:\d\d to"))


@pytest.mark.usefixtures("stored_until")
async def test_invalid_settings_of_the_browser_are_ignored(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/") as page:
        garbage = {"columns": {}, "pinned": 5, "levels": [{"ticker": "a", "price": 5}], "lastSeen": "x", "theme": 1, "keys": []}
        for name, value in garbage.items():
            await page.evaluate("([name, text]) => { localStorage[`tickgraph.${name}`] = text }", [name, json.dumps(value)])
        await page.evaluate("sessionStorage['tickgraph.key'] = 'key…'")
        await page.reload()
        await expect(page.locator(".tickers .row")).to_have_count(2)
        await expect(page.get_by_role("columnheader", name="Age")).to_be_visible()


@pytest.fixture
async def ended(db: Database) -> int:
    """Stores a history of sol_usd that ended four days ago, next to one of btc_usd that goes on. Returns its last minute."""
    now = int(time.time()) // 60 * 60
    last = now - 4 * 86_400
    await track(db, "btc_usd", "sol_usd", since=last - 86_400)
    await store(db, [row("sol_usd", last - 600 * n, f"{100 + n % 7}") for n in range(144)])
    await store(db, [row("btc_usd", now - 600 * n, f"{68_000 + n}") for n in range(1, 720)])
    return last


async def test_a_history_that_has_ended_opens_at_its_end(browser: Browser, api: Api, ended: int) -> None:
    async with open_page(browser, api, "/?ticker=sol_usd") as page:
        await expect(page.locator(".coverage .words")).to_contain_text("minutes are stored")
        await expect(page.locator(".chart-message")).to_have_count(0)
        end = await page.get_by_label("To", exact=True).input_value()
        assert abs(int(dt.datetime.fromisoformat(f"{end}Z").timestamp()) - ended) <= 60
        day = page.get_by_role("button", name="1D: one day").last
        await day.click()
        await expect(day).to_have_attribute("aria-pressed", "true")
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "FIFTEEN_MINUTES")
        await wait_until_drawn(page)
        await page.locator(".chart").focus()
        for _ in range(3):
            await page.keyboard.press("ArrowLeft")
        await page.wait_for_url("**from=*")
        await expect(day).to_have_attribute("aria-pressed", "false")  # the range is not what is shown


@pytest.mark.usefixtures("ended")
async def test_a_compared_chart_keeps_its_window_when_candles_change(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=btc_usd&range=1D&interval=FIVE_MINUTES&compare=sol_usd") as page:
        await _wait_for_chart(page)
        await expect(page.locator(".compared li")).to_contain_text("sol_usd")
        for interval in ("ONE_HOUR", "FIFTEEN_MINUTES", "THIRTY_MINUTES", "ONE_HOUR", "FIVE_MINUTES"):
            await page.locator(f'[data-key="{interval}"]').click()
            await expect(page.locator(".chart")).to_have_attribute("data-interval", interval)
            await expect(page.locator(".compared li")).not_to_contain_text("…")
            await page.evaluate(REPORT)
            assert "range=1D" in page.url
            begin = await page.get_by_label("From", exact=True).input_value()
            age = time.time() - dt.datetime.fromisoformat(f"{begin}Z").timestamp()
            assert abs(age - 86_400) < 7_300, (interval, begin)


@pytest.mark.usefixtures("ended")
async def test_a_range_with_too_short_candles_gets_longer_ones(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, "/?ticker=btc_usd&range=All&interval=ONE_MINUTE") as page:
        await expect(page.get_by_role("button", name="All: all prices")).to_have_attribute("aria-pressed", "true")
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "FIFTEEN_MINUTES")


@pytest.mark.usefixtures("stored_until")
async def test_a_load_that_failed_offline_is_repeated_online(browser: Browser, api: Api) -> None:
    async with open_page(browser, api, TICKER) as page:
        await _wait_for_chart(page)
        await page.context.set_offline(True)
        await page.get_by_role("button", name="one hour").click()
        await expect(page.locator(".chart-message")).to_contain_text("no connection")
        await page.context.set_offline(False)
        await expect(page.locator(".chart")).to_have_attribute("data-interval", "ONE_HOUR")
        await expect(page.locator(".chart-message")).to_have_count(0)
        entries = await page.evaluate("history.length")
        await page.get_by_role("button", name="one hour").click()
        assert await page.evaluate("history.length") == entries  # the same view is no new entry


async def test_the_focus_stays_on_its_ticker_when_rows_move(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    async with open_page(browser, api, "/?sort=price&order=down") as page:
        link = page.get_by_role("link", name="eth_usd")
        await link.focus()
        await store(db, [row("eth_usd", stored_until, "90000")])
        await expect(page.locator(".tickers .row").first).to_contain_text("eth_usd")
        await expect(link).to_be_focused()
