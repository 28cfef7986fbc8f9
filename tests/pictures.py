"""Takes screenshots of the live page in all its states, with simulated prices.

python -m tests.pictures FOLDER                  # every state at three widths, dark and light
python -m tests.pictures FOLDER --only ticker    # the states of a ticker
python -m tests.pictures docs --readme           # the two screenshots in the README
"""

import argparse
import asyncio
import contextlib
import hashlib
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal, get_args

from playwright.async_api import Browser, Page, async_playwright

from db import migrate
from db.pool import Database, open_database
from db.queries import bulk_import, gaps, prices, ranges, worker_report, write_lock
from db.queries.worker_report import WorkerReport
from db.rows import PriceRow, RangeRow, Reason, Source
from db.runtime import embedded
from graph.settings import Settings
from tests.graph.conftest import run_api
from tests.sample_data import set_tracked_tickers

DAYS: Final = 3
START_PRICES: Final = {
    "btc_usd": 91_250.0,
    "eth_usd": 3_020.0,
    "sol_usd": 142.5,
    "xrp_usd": 2.21,
    "paxg_usd": 4_080.0,
    "steth_usd": 3_018.0,
}
ADMIN_TOKEN: Final = "the token of the administrator"  # noqa: S105  of a picture
Scheme = Literal["dark", "light"]
WIDTHS: Final = (360, 768, 1_280)


def _random_walk(start_price: float, minutes: int, seed: int) -> list[Decimal]:
    """Returns the prices of a random walk that ends near its start price."""
    rng, price, values = random.Random(seed), start_price, []  # noqa: S311  no secret
    for number in range(minutes):
        price *= 1 + rng.gauss(0, 0.0005) + 0.00006 * math.sin(number / 180 + seed)
        values.append(Decimal(f"{price:.2f}" if start_price > 10 else f"{price:.4f}"))
    return values


def _range_of(row: PriceRow, seed: int) -> RangeRow:
    """Returns a range around a price, as ticks of a minute leave it."""
    rng = random.Random(row.ts + seed)  # noqa: S311  no secret
    step = Decimal(1).scaleb(int(row.price.as_tuple().exponent))
    ticks = sorted((row.price * Decimal(f"{1 + rng.gauss(0, 0.0004):.6f}")).quantize(step) for _ in range(4))
    low, *inner, high = [*ticks, max(row.price, ticks[-1])]
    low = min(low, row.price)
    return RangeRow(
        ticker=row.ticker,
        ts=row.ts,
        open=row.price,
        high=high,
        low=low,
        close=inner[rng.randrange(len(inner))],
        opened_ms=300,
        closed_ms=59_300,
        twap=row.price,
        ticks=60,
        watched_s=60,
        longest_silence_ms=1_000,
        source=Source.LIVE,
    )


async def store_sample_history(db: Database, now: int) -> None:
    """Stores live prices up to now, with missing and backfilled minutes of btc_usd, and imported prices before them."""
    begin = now - DAYS * 86_400
    async with write_lock.write_transaction(db) as connection:
        await set_tracked_tickers(connection, list(START_PRICES), begin)
    for seed, (name, price) in enumerate(START_PRICES.items()):
        walk = _random_walk(price, DAYS * 1_440 + 1, seed)
        missing = set(range(len(walk) - 300, len(walk) - 282)) if name == "btc_usd" else set()
        backfilled = set(range(len(walk) - 150, len(walk) - 90)) if name == "btc_usd" else set()
        rows = [
            PriceRow(
                ticker=name,
                ts=begin + 60 * number,
                price=value.normalize() if value % 10 else value,
                source=Source.BACKFILL if number in backfilled else Source.LIVE,
            )
            for number, value in enumerate(walk)
            if number not in missing
        ]
        rows = [PriceRow.model_validate(one.model_dump()) for one in rows]
        async with write_lock.write_transaction(db) as connection:
            if missing | backfilled:
                reasons = {
                    (name, begin + 60 * n): Reason.TIMEOUT if n in missing else Reason.MAINTENANCE for n in missing | backfilled
                }
                await gaps.open_gaps(connection, reasons)
            await prices.store(connection, rows)
            await ranges.store(connection, [_range_of(one, seed) for one in rows if one.source is Source.LIVE], {})
        imported_rows = [
            (begin - 60 * (n + 1), f"{value.normalize():f}", None, None, None)
            for n, value in enumerate(_random_walk(price, 2_000, seed + 50))
        ]
        async with write_lock.write_transaction(db) as connection:
            await bulk_import.merge(connection, name, imported_rows)


Action = Callable[[Page], Awaitable[None]]


async def _do_nothing(_page: Page) -> None:
    pass


async def _hover(page: Page) -> None:
    box = await page.locator(".chart").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] / 2)


async def _measure(page: Page) -> None:
    box = await page.locator(".chart").bounding_box()
    assert box is not None
    await page.keyboard.down("Shift")
    await page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.7)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.3, steps=4)
    await page.mouse.up()
    await page.keyboard.up("Shift")


async def _open_details(page: Page) -> None:
    for summary in await page.locator("main details > summary").all():
        await summary.click()


async def _show_keys(page: Page) -> None:
    await page.keyboard.press("?")


async def _go_offline(page: Page) -> None:
    await page.context.set_offline(True)
    await page.locator('#status[data-state="offline"]').wait_for()


async def _fail_to_load(page: Page) -> None:
    await page.route("**/graphql", lambda route: route.abort())
    await page.locator('[data-key="ONE_HOUR"]').click()


async def _list_alerts(page: Page) -> None:
    await page.get_by_label("Token").fill(ADMIN_TOKEN)
    await page.get_by_role("button", name="Show alerts").click()
    await page.get_by_label("Level", exact=True).fill("95000")
    await page.get_by_label("URL of the webhook").fill("https://hooks.example.org/prices")
    await page.get_by_role("button", name="Create alert").click()


@dataclass(frozen=True)
class State:
    """A state of the page: an address of an API, what must be visible, and what the user does."""

    name: str
    path: str
    ready: str = "h1"
    action: Action = _do_nothing
    api: Literal["filled", "empty", "protected"] = "filled"


def _states(now: int) -> list[State]:
    ticker = "/?ticker=btc_usd"
    chart = ".chart[data-candles]"
    return [
        State("overview", "/", ".tickers .spark path[d^=M]"),
        State("overview-grouped", "/?group=quote&sort=change&order=down", ".tickers .spark path[d^=M]", _open_details),
        State("overview-filtered", "/?filter=nothing", ".no-match"),
        State("ticker", ticker, chart),
        State("ticker-hover", f"{ticker}&interval=ONE_MINUTE&from={now - 24_000}&to={now - 12_000}", chart, _hover),
        State(
            "ticker-compare", f"{ticker}&compare=eth_usd,sol_usd&scale=percent&interval=FIFTEEN_MINUTES", ".compared li", _hover
        ),
        State("ticker-area", f"{ticker}&style=area&scale=log&interval=FOUR_HOURS", chart),
        State("ticker-measure", ticker, chart, _measure),
        State("ticker-statistics", ticker, chart, _open_details),
        State("ticker-keys", ticker, chart, _show_keys),
        State("ticker-failed", ticker, chart, _fail_to_load),
        State("ticker-no-prices", f"{ticker}&from=1200000000&to=1200600000", ".chart-message button"),
        State("ticker-unknown", "/?ticker=nothing_usd", "[role=alert]"),
        State("wrong-address", f"{ticker}&interval=nope&from=x", ".problems li"),
        State("offline", ticker, chart, _go_offline),
        State("health", "/?view=health", ".calendar"),
        State("alerts", "/?view=alerts", "[name=token]", _list_alerts),
        State("alerts-token", "/?view=alerts", "[name=token]"),
        State("empty", "/", ".empty", api="empty"),
        State("key", "/", "#key", api="protected"),
        State("graphiql", "/graphql", ".graphiql-container"),
        State("swagger", "/docs", ".opblock"),
        State("redoc", "/redoc", "#redoc h1"),
    ]


@contextlib.asynccontextmanager
async def _open_browser_and_apis() -> AsyncIterator[tuple[Browser, dict[str, str]]]:
    """Yields a browser, and the URLs of three APIs: with prices, without prices, and one that requires a key."""
    now = int(time.time()) // 60 * 60
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.postgres(Path(folder) / "one") as full,
        embedded.postgres(Path(folder) / "other") as empty,
    ):
        await asyncio.to_thread(migrate.upgrade, full.url)
        await asyncio.to_thread(migrate.upgrade, empty.url)
        async with open_database(full.url, application_name="pictures") as db:
            await store_sample_history(db, now)
            await worker_report.store(db, WorkerReport(2, 0, 0, -0.021, 1, 1, time.time(), []))
            await db.execute("ANALYZE")
        async with (
            run_api(Settings(database_url=full.url, admin_token=ADMIN_TOKEN)) as filled_api,
            run_api(Settings(database_url=empty.url)) as empty_api,
            run_api(Settings(database_url=full.url, api_keys=(hashlib.sha256(b"key").hexdigest(),))) as protected_api,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            yield browser, {"filled": filled_api.url, "empty": empty_api.url, "protected": protected_api.url}
            await browser.close()


async def _take_screenshot(
    browser: Browser, urls: dict[str, str], state: State, path: Path, width: int, scheme: Scheme
) -> None:
    page = await browser.new_page(
        color_scheme=scheme,
        viewport={"width": width, "height": 740 if width == WIDTHS[0] else 900},
        device_scale_factor=2 if width == WIDTHS[0] else 1,
        service_workers="block",
    )

    def report(text: object) -> None:
        if state.action not in (_go_offline, _fail_to_load):  # these have errors on purpose
            sys.stderr.write(f"{path.name}: {text}\n")

    page.on("console", lambda message: report(message.text) if message.type == "error" and "401" not in message.text else None)
    page.on("pageerror", report)
    await page.goto(urls[state.api] + state.path)
    await page.locator(state.ready).first.wait_for()
    await page.wait_for_timeout(900)  # until the chart is drawn
    await state.action(page)
    await page.wait_for_timeout(500)
    await page.screenshot(path=path, full_page=state.action is not _show_keys)
    await page.close()


async def _main(folder: Path, *, readme: bool, only: str) -> None:
    async with _open_browser_and_apis() as (browser, urls):
        states = _states(int(time.time()))
        if readme:
            by_name = {state.name: state for state in states}
            await _take_screenshot(browser, urls, by_name["overview"], folder / "overview.png", 1_280, "dark")
            await _take_screenshot(browser, urls, by_name["ticker"], folder / "ticker.png", 1_280, "light")
            return
        chosen = [state for state in states if only in state.name]
        for number, state in enumerate(chosen, start=1):
            sys.stderr.write(f"{number} of {len(chosen)}: {state.name}\n")
            for width in WIDTHS:
                for scheme in get_args(Scheme):
                    path = folder / f"{state.name}-{width}-{scheme}.png"
                    await _take_screenshot(browser, urls, state, path, width, scheme)


def main() -> None:
    """Takes the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", action="store_true", help="only the two screenshots in the README")
    parser.add_argument("--only", default="", help="only states whose name contains this text")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(options.folder, readme=options.readme, only=options.only))


if __name__ == "__main__":
    main()
