"""GraphiQL in a real Chromium, without any other host."""

import shutil
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Request, async_playwright

from db.pool import Database
from graph.settings import Settings
from tests.graph.conftest import serving
from tests.stored import MINUTE, row, store, track

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_graphiql_opens_on_a_working_example(
    dsn: str, db: Database, scheme: Literal["dark", "light"], tmp_path: Path
) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", MINUTE, "68241.5"), row("eth_usd", MINUTE, "2536.1")])
    async with serving(Settings(database_url=dsn)) as api, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )
        page = await browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 800})
        asked: list[str] = []
        failures: list[str] = []

        def note(request: Request) -> None:
            asked.append(request.url)

        page.on("request", note)
        page.on("pageerror", lambda error: failures.append(str(error)))
        await page.goto(f"{api.url}/graphql")
        await page.click("button.graphiql-execute-button")
        await page.wait_for_function("document.querySelector('.result-window')?.textContent.includes('68241.5')")
        await page.screenshot(path=tmp_path / f"graphiql-{scheme}.png")
        background = await page.evaluate("getComputedStyle(document.querySelector('.graphiql-container')).backgroundColor")
        await browser.close()
    assert failures == []
    assert [url for url in asked if not url.startswith((api.url, "data:"))] == []
    dark = sum(map(float, background.replace("rgba", "rgb").removeprefix("rgb(").removesuffix(")").split(",")[:3])) < 380
    assert dark == (scheme == "dark"), background
