"""Takes screenshots of the live page in all its states, with simulated prices.

python -m tests.pictures FOLDER            # every state at three widths, dark and light
python -m tests.pictures --readme docs     # the two screenshots in the README
"""

import argparse
import asyncio
import contextlib
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal, get_args

from playwright.async_api import Browser, async_playwright

from db import migrate
from db.pool import Database, open_database
from db.queries import bulk_import, gaps, prices, ranges, write_lock
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


@contextlib.asynccontextmanager
async def _open_browser_and_apis() -> AsyncIterator[tuple[Browser, str, str]]:
    """Yields a browser, the URL of an API with prices, and the URL of an API without prices."""
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
        async with (
            run_api(Settings(database_url=full.url)) as filled_api,
            run_api(Settings(database_url=empty.url)) as empty_api,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            yield browser, filled_api.url, empty_api.url
            await browser.close()


async def _take_screenshot(
    browser: Browser, url: str, path: Path, width: int, scheme: Scheme, *, offline: bool = False, hover: bool = False
) -> None:
    page = await browser.new_page(
        color_scheme=scheme, viewport={"width": width, "height": 900}, device_scale_factor=2 if width == WIDTHS[0] else 1
    )

    def report(text: object) -> None:
        sys.stderr.write(f"{path.name}: {text}\n")

    page.on("console", lambda message: report(message.text) if message.type != "info" else None)
    page.on("pageerror", report)
    await page.goto(url)
    await page.locator(".tickers li .change:not(:empty), .chart[data-candles], .empty").first.wait_for()
    await page.locator('#status[data-state="live"]').wait_for()
    await page.wait_for_timeout(700)  # until the chart is drawn
    if hover:
        box = await page.locator(".chart").bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] / 2)
        await page.wait_for_timeout(200)
    if offline:
        await page.context.set_offline(True)
        await page.locator('#status[data-state="offline"]').wait_for()
    await page.screenshot(path=path, full_page=True)
    await page.close()


async def _main(folder: Path, *, readme: bool) -> None:
    ticker = "/?ticker=btc_usd"
    async with _open_browser_and_apis() as (browser, full, empty):
        if readme:
            await _take_screenshot(browser, f"{full}/", folder / "overview.png", 1_280, "dark")
            await _take_screenshot(browser, full + ticker, folder / "ticker.png", 1_280, "light")
            return
        for width in WIDTHS:
            for scheme in get_args(Scheme):
                await _take_screenshot(browser, f"{full}/", folder / f"overview-{width}-{scheme}.png", width, scheme)
                await _take_screenshot(browser, full + ticker, folder / f"ticker-{width}-{scheme}.png", width, scheme)
        for name, url, options in (
            ("empty", f"{empty}/", {}),
            ("offline", full + ticker, {"offline": True}),
            (
                "gap",
                f"{full}{ticker}&interval=ONE_MINUTE&from={int(time.time()) - 24_000}&to={int(time.time()) - 12_000}",
                {"hover": True},
            ),
            ("unknown", f"{full}/?ticker=nothing_usd", {}),
        ):
            await _take_screenshot(browser, url, folder / f"{name}.png", 1_280, "dark", **options)


def main() -> None:
    """Takes the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", action="store_true", help="only the two screenshots in the README")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(options.folder, readme=options.readme))


if __name__ == "__main__":
    main()
