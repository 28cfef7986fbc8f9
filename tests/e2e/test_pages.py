"""GraphiQL, Swagger UI and ReDoc in a real Chromium, without requests to any other host."""

import contextlib
import re
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from playwright.async_api import TimeoutError as PlaywrightTimeoutError

from db.pool import Database
from graph.settings import Settings
from tests.conftest import ROOT
from tests.e2e.conftest import CHROMIUM
from tests.graph.conftest import Api, api, run_api
from tests.sample_data import START_TS, row, store, track
from tests.wait import wait_until

__all__ = ["api"]  # a fixture of the API's tests

AXE = ROOT / "tests" / "clients" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

Scheme = Literal["dark", "light"]


@pytest.fixture
async def prices(db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5"), row("eth_usd", START_TS, "2536.1")])


class Visit:
    """A page with its requests and errors."""

    def __init__(self, page: Page, api: Api) -> None:
        self.page = page
        self._api = api
        self._requested_urls: list[str] = []
        self._failures: list[str] = []
        page.on("requestfinished", lambda request: self._requested_urls.append(request.url))
        page.on("requestfailed", lambda request: self._requested_urls.append(request.url))
        page.on("pageerror", lambda error: self._failures.append(str(error)))

    def require_no_errors(self) -> None:
        """Fails on an error, or on a request to another host."""
        assert self._failures == []
        assert [url for url in self._requested_urls if not url.startswith((self._api.url, "data:", "blob:"))] == []


async def _open_page(browser: Browser, api: Api, path: str, scheme: Scheme = "light") -> Visit:
    page = await browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 800})
    visit = Visit(page, api)
    await page.goto(f"{api.url}{path}")
    return visit


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_graphiql_opens_with_a_working_example(browser: Browser, api: Api, scheme: Scheme, tmp_path: Path) -> None:
    visit = await _open_page(browser, api, "/graphql", scheme)
    await visit.page.click("button.graphiql-execute-button")
    await visit.page.locator(".result-window", has_text="68241.5").wait_for()
    await visit.page.screenshot(path=tmp_path / "graphiql.png")
    color = await visit.page.evaluate("getComputedStyle(document.querySelector('.graphiql-container')).backgroundColor")
    visit.require_no_errors()
    dark = sum(map(float, color.replace("rgba", "rgb").removeprefix("rgb(").removesuffix(")").split(",")[:3])) < 380
    assert dark == (scheme == "dark"), color


FIELDS = {"Tickers": "tickers", "Candles": "candles", "Coverage": "coverage", "PriceAt": "priceAt"}


@pytest.mark.usefixtures("prices")
async def test_each_example_of_graphiql_runs(browser: Browser, api: Api) -> None:
    visit = await _open_page(browser, api, "/graphql")
    tabs = visit.page.locator(".graphiql-tab-button")
    await expect(tabs).to_have_text(["Tickers", "Candles", "Coverage", "PriceAt", "Prices"])
    for name, response_field in FIELDS.items():
        await tabs.filter(has_text=re.compile(f"^{name}$")).click()
        result = visit.page.locator(".result-window", has_text=f'"{response_field}"')

        async def returns_data(result: Locator = result) -> bool:
            """Runs the operation. GraphiQL knows that of another tab only after it has parsed the document."""
            await visit.page.click("button.graphiql-execute-button")
            with contextlib.suppress(PlaywrightTimeoutError):
                await result.wait_for(timeout=1_000)
            return await result.is_visible()

        await wait_until(returns_data)
    visit.require_no_errors()


@pytest.mark.usefixtures("prices")
async def test_graphiql_subscribes(browser: Browser, api: Api, db: Database) -> None:
    query = 'subscription { priceAdded(tickers: ["btc_usd"], after: 0) { price } }'
    visit = await _open_page(browser, api, f"/graphql#{quote(query)}")
    await visit.page.click("button.graphiql-execute-button")
    await visit.page.locator(".result-window", has_text="68241.5").wait_for()
    await store(db, [row("btc_usd", START_TS + 60, "69999.5")])
    await visit.page.locator(".result-window", has_text="69999.5").wait_for()
    visit.require_no_errors()


@pytest.mark.usefixtures("prices")
async def test_swagger_ui_executes_an_endpoint(browser: Browser, api: Api, tmp_path: Path) -> None:
    visit = await _open_page(browser, api, "/docs")
    await visit.page.click("#operations-prices-prices_last .opblock-summary")
    await visit.page.fill("#operations-prices-prices_last input[placeholder='ticker']", "btc_usd")
    await visit.page.click("#operations-prices-prices_last button.execute")
    await visit.page.locator("#operations-prices-prices_last .live-responses-table", has_text="68241.5").wait_for()
    await visit.page.screenshot(path=tmp_path / "swagger-ui.png")
    visit.require_no_errors()


async def test_redoc_shows_every_path(browser: Browser, api: Api, tmp_path: Path) -> None:
    visit = await _open_page(browser, api, "/redoc")
    await visit.page.get_by_role("heading", name="Returns the state of the API").wait_for()
    await visit.page.screenshot(path=tmp_path / "redoc.png")
    assert "/prices/by-date" in await visit.page.content()
    visit.require_no_errors()


@pytest.mark.usefixtures("prices")
async def test_graphiql_opens_the_query_of_its_url_and_updates_the_url(browser: Browser, api: Api) -> None:
    query = "query One($t: String!) { latest(ticker: $t) { price } }"
    path = "/graphql?" + urlencode({"query": query, "variables": '{"t": "btc_usd"}', "operationName": "One"}, quote_via=quote)
    visit = await _open_page(browser, api, path)
    await visit.page.click("button.graphiql-execute-button")
    await visit.page.locator(".result-window", has_text="68241.5").wait_for()
    await visit.page.locator(".graphiql-query-editor textarea").first.focus()
    await visit.page.keyboard.type("# a note")
    await wait_until(lambda: "note" in visit.page.url)
    visit.require_no_errors()
    async with api.session.get(f"{api.url}{path}") as response:
        assert (await response.json())["data"] == {"latest": {"price": "68241.5"}}, (
            "a client that does not accept HTML gets JSON"
        )


@pytest.mark.parametrize(
    ("path", "scheme"),
    [("/graphql", "light"), ("/graphql", "dark"), ("/docs", "light"), ("/docs", "dark"), ("/redoc", "light")],
)
async def test_every_page_has_a_way_back_and_labels(
    browser: Browser, api: Api, tmp_path: Path, path: str, scheme: Scheme
) -> None:
    context = await browser.new_context(bypass_csp=True, color_scheme=scheme)  # bypass_csp: so that axe can be evaluated
    page = await context.new_page()
    await page.goto(f"{api.url}{path}")
    await page.locator("h1").first.wait_for()
    await page.locator(".graphiql-container, #operations-tag-health, #redoc h5").first.wait_for()
    await page.screenshot(path=tmp_path / "page.png")
    if path == "/docs":
        assert await page.evaluate("document.documentElement.classList.contains('dark-mode')") == (scheme == "dark")
    if AXE.exists():
        await page.evaluate(AXE.read_text())
        found = await page.evaluate("axe.run()")
        serious = [one["id"] for one in found["violations"] if one["impact"] in ("serious", "critical")]
        # A tab of GraphiQL contains a button, and an operation of Swagger UI a link.
        assert set(serious) <= {"nested-interactive"}, [one["nodes"][0]["html"] for one in found["violations"]]
    await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Prices").click()
    await page.wait_for_url(f"{api.url}/")
    await context.close()


async def test_graphiql_says_where_a_key_is_entered(browser: Browser, dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, api_keys=(sha256(b"key").hexdigest(),))) as api:
        visit = await _open_page(browser, api, "/graphql")
        notice = visit.page.locator("#notice")
        await expect(notice).to_contain_text('Open the "Headers" tab')  # also the schema needs the key
        await visit.page.close()


@pytest.mark.usefixtures("prices")
async def test_graphiql_shows_query_and_response_on_a_phone(browser: Browser, api: Api) -> None:
    page = await browser.new_page(viewport={"width": 360, "height": 740})
    await page.goto(f"{api.url}/graphql?query={{tickers{{name}}}}")
    await page.click("button.graphiql-execute-button")
    response = page.locator(".result-window", has_text="eth_usd")
    await response.wait_for()
    box = await response.bounding_box()
    assert box is not None
    assert box["width"] > 200
    await page.close()
