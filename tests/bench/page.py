"""Measures the live page in Chromium: size, first paint, time until prices are shown, and what blocks it while prices arrive.

python -m tests.bench.page                 # 200 tickers, 20 rounds of prices for all of them
python -m tests.bench.page --tickers 20
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, async_playwright
from rich.console import Console
from rich.table import Table

from db import migrate
from db.pool import Database, open_database
from db.runtime import embedded
from graph.settings import Settings
from tests.graph.conftest import run_api
from tests.sample_data import row, store, track

VISITS: Final = 9
MINUTES: Final = 180
OBSERVE: Final = """() => {
  window.long = []; window.frames = [];
  new PerformanceObserver((list) => long.push(...list.getEntries().map((one) => one.duration))).observe({ type: "longtask" });
  let last = performance.now();
  const frame = (now) => { frames.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""
PAINT: Final = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SIZES: Final = """() => {
  const all = [performance.getEntriesByType("navigation")[0], ...performance.getEntriesByType("resource")];
  const files = all.filter((one) => !one.name.endsWith("/graphql"));
  return { files: files.length, decoded: sum(files, "decodedBodySize"), sent: sum(files, "transferSize") };
  function sum(list, name) { return list.reduce((total, one) => total + one[name], 0); }
}"""


async def _fill(db: Database, names: list[str], now: int) -> None:
    await track(db, *names, since=now - 60 * MINUTES)
    for name in names:
        await store(db, [row(name, now - 60 * n, f"{1_000 + n}") for n in range(1, MINUTES)])


async def _visit(browser: Browser, url: str, ready: str) -> dict[str, Any]:
    """Opens the page without anything cached. Returns sizes, and milliseconds until first paint and `ready`."""
    page = await browser.new_page(viewport={"width": 1_280, "height": 900}, service_workers="block")
    await page.goto(url)
    await page.locator(ready).first.wait_for()
    shown = await page.evaluate("performance.now()")
    found = {"paint": await page.evaluate(PAINT), "shown": shown, **(await page.evaluate(SIZES))}
    await page.close()
    return found


async def _follow(browser: Browser, url: str, ready: str, db: Database, names: list[str], rounds: int) -> dict[str, float]:
    """Stores a price of every ticker in each round while the page is open. Returns its long tasks and frames."""
    page = await browser.new_page(viewport={"width": 1_280, "height": 900}, service_workers="block")
    await page.goto(url)
    await page.locator(ready).first.wait_for()
    await page.wait_for_timeout(2_000)
    await page.evaluate(OBSERVE)
    now = int(time.time()) // 60 * 60
    for number in range(rounds):
        await store(db, [row(name, now + 60 * number, f"{2_000 + number}") for name in names])
        await page.wait_for_timeout(500)
    long, frames = await page.evaluate("[long, frames]")
    await page.close()
    return {
        "long tasks": len(long),
        "longest task": max(long, default=0),
        "frames over 34 ms": sum(one > 34 for one in frames),
        "median frame": statistics.median(frames),
    }


async def _measure(ticker_count: int, rounds: int, console: Console) -> None:
    names = [f"t{number:03}_usd" for number in range(ticker_count)]
    pages = {"prices": ("/", ".tickers .spark path[d^=M]"), "ticker": (f"/?ticker={names[0]}", ".chart[data-candles]")}
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder)) as postgres:
        await asyncio.to_thread(migrate.upgrade, postgres.url)
        async with open_database(postgres.url, application_name="bench page") as db:
            with console.status(f"storing {MINUTES} minutes of {ticker_count} tickers"):
                await _fill(db, names, int(time.time()) // 60 * 60)
                await db.execute("ANALYZE")
            async with run_api(Settings(database_url=postgres.url)) as api, async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                table = Table(
                    "page", "files", "KB", "KB sent", "first paint ms", "shown ms", title=f"Medians of {VISITS} visits"
                )
                for name, (path, ready) in pages.items():
                    with console.status(f"opening {name}"):
                        visits = [await _visit(browser, api.url + path, ready) for _ in range(VISITS)]
                    median = {key: statistics.median(one[key] for one in visits) for key in visits[0]}
                    table.add_row(
                        name,
                        f"{median['files']:.0f}",
                        *(f"{median[key] / 1_000:.0f}" for key in ("decoded", "sent")),
                        *(f"{median[key]:.0f}" for key in ("paint", "shown")),
                    )
                console.print(table)
                table = Table(
                    "page", "long tasks", "longest task", "frames over 34 ms", "median frame", title=f"{rounds} rounds"
                )
                for name, (path, ready) in pages.items():
                    with console.status(f"storing prices while {name} is open"):
                        found = await _follow(browser, api.url + path, ready, db, names, rounds)
                    table.add_row(name, *(f"{value:.0f}" for value in found.values()))
                console.print(table)
                await browser.close()


def main() -> None:
    """Measures the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickers", type=int, default=200, help="number of tickers (200)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of new prices (20)")
    options = parser.parse_args()
    asyncio.run(_measure(options.tickers, options.rounds, Console()))


if __name__ == "__main__":
    main()
