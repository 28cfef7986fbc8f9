"""The page in a real Chromium behind proxies that let no WebSocket through, lose the API, or let it through again."""

import asyncio
import datetime as dt
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from playwright.async_api import Browser, Page, Request, expect

from db.pool import Database
from graph.settings import Settings
from tests.e2e.conftest import CHROMIUM
from tests.e2e.live_page import LIVE, OFFLINE, stored_until
from tests.graph.conftest import Api, api, run_api
from tests.sample_data import row, store
from tests.wait import wait_until

__all__ = ["api", "stored_until"]  # fixtures of other tests

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@dataclass
class Proxy:
    """What a proxy lets through."""

    url: str
    has_streams: bool = True
    has_websockets: bool = False
    has_api: bool = True
    transports: set[asyncio.BaseTransport] = field(default_factory=set)

    def lose_api(self) -> None:
        """Closes all connections, and from now on each one without a response."""
        self.has_api = False
        for transport in self.transports:
            transport.close()


WebSocket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pass_on(source: WebSocket, target: WebSocket) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await target.send_str(message.data)
    await target.close()


@asynccontextmanager
async def _proxy(api: Api, *, has_streams: bool = True) -> AsyncIterator[Proxy]:
    """Runs an HTTP/1.1 proxy that upgrades no connection, and without `has_streams` passes no event stream on."""
    proxy = Proxy("", has_streams=has_streams)

    async def forward(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        proxy.transports.add(request.transport)
        if not proxy.has_api:
            request.transport.close()
            return web.Response()
        if "Upgrade" in request.headers:
            return await upgrade(request) if proxy.has_websockets else web.Response(status=502)
        if not proxy.has_streams and "event-stream" in request.headers.get("Accept", ""):
            return web.Response(status=502)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with api.session.request(
            request.method, f"{api.url}{request.path_qs}", headers=headers, data=await request.read(), auto_decompress=False
        ) as upstream:
            response = web.StreamResponse(status=upstream.status, headers=upstream.headers)
            await response.prepare(request)
            async for part in upstream.content.iter_any():
                await response.write(part)
            return response

    async def upgrade(request: web.Request) -> web.WebSocketResponse:
        downstream = web.WebSocketResponse(protocols=("graphql-transport-ws",))
        await downstream.prepare(request)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as upstream,
        ):
            await asyncio.gather(_pass_on(downstream, upstream), _pass_on(upstream, downstream))
        return downstream

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        await runner.cleanup()


async def _open_with_clock(browser: Browser, url: str) -> Page:
    """Opens a page whose clock stands still, and lets it run until the page asks for a stream."""
    page = await browser.new_page(service_workers="block")
    streams: list[str] = []

    def note(request: Request) -> None:
        if "event-stream" in request.headers.get("accept", ""):
            streams.append(request.url)

    page.on("request", note)
    now = dt.datetime.now(dt.UTC)
    await page.clock.install(time=now)
    await page.clock.pause_at(now + dt.timedelta(minutes=1))  # it runs until here
    await page.goto(f"{url}/?ticker=btc_usd")
    await _run_until(page, ".price.big", "68,599")

    async def requests_a_stream() -> bool:
        await page.clock.run_for(250)
        return bool(streams)

    await wait_until(requests_a_stream)
    return page


async def _run_until(page: Page, selector: str, text: str | re.Pattern[str], *, within_s: float = 120) -> None:
    """Lets the clock of the page run until an element has the text. Fails after so many seconds of that clock."""
    steps = itertools.count(1)

    async def has_text() -> bool:
        assert next(steps) <= within_s * 4, f"{selector} does not have the text {text} within {within_s} s"
        await page.clock.run_for(250)
        found = (await page.locator(selector).all_inner_texts() or [""])[0].strip()
        return found == text if isinstance(text, str) else text.search(found) is not None

    await wait_until(has_text)


@pytest.mark.parametrize(("has_streams", "status"), [(True, "Live over HTTP"), (False, "Updated every 15 seconds")])
async def test_without_websockets_the_page_is_updated_over_http(
    browser: Browser, api: Api, db: Database, stored_until: int, has_streams: bool, status: str
) -> None:
    async with _proxy(api, has_streams=has_streams) as proxy:
        page = await _open_with_clock(browser, proxy.url)
        await _run_until(page, "#status", status)
        await store(db, [row("btc_usd", stored_until, "71234.5")])
        # A poll would come after 15 seconds.
        await _run_until(page, ".price.big", "71,234.5", within_s=12 if has_streams else 20)
        await expect(page.locator("#status")).to_have_text(status)
        await page.close()


@pytest.mark.parametrize("has_streams", [True, False])
@pytest.mark.usefixtures("stored_until")
async def test_an_api_that_is_gone_is_noticed_over_http_and_found_again(browser: Browser, api: Api, has_streams: bool) -> None:
    async with _proxy(api, has_streams=has_streams) as proxy:
        page = await _open_with_clock(browser, proxy.url)
        status = "Live over HTTP" if has_streams else "Updated every 15 seconds"
        await _run_until(page, "#status", status)
        proxy.lose_api()
        await _run_until(page, "#status", OFFLINE)
        proxy.has_api = True
        await _run_until(page, "#status", status)
        await page.close()


async def test_a_websocket_that_gets_through_again_replaces_http(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    async with _proxy(api) as proxy:
        page = await _open_with_clock(browser, proxy.url)
        await _run_until(page, "#status", "Live over HTTP")
        proxy.has_websockets = True
        await _run_until(page, "#status", LIVE)
        await store(db, [row("btc_usd", stored_until, "71234.5")])
        await _run_until(page, ".price.big", "71,234.5")
        await page.close()


async def test_many_tabs_over_http_leave_connections_for_queries(
    browser: Browser, api: Api, db: Database, stored_until: int
) -> None:
    async with _proxy(api) as proxy:
        context = await browser.new_context(service_workers="block")
        open_streams: set[Request] = set()
        max_streams = 0

        def begin(request: Request) -> None:
            nonlocal max_streams
            if "event-stream" in request.headers.get("accept", ""):
                open_streams.add(request)
                max_streams = max(max_streams, len(open_streams))

        def end(request: Request) -> None:
            open_streams.discard(request)

        context.on("request", begin)
        context.on("requestfinished", end)
        context.on("requestfailed", end)
        pages = []
        for _ in range(3):  # each has three subscriptions; a browser opens six connections to the host
            page = await context.new_page()
            await page.goto(f"{proxy.url}/?ticker=btc_usd")
            await expect(page.locator("#status")).to_have_text(re.compile("Live over HTTP|Updated every"))
            pages.append(page)
        await store(db, [row("btc_usd", stored_until, "71234.5")])
        for page in pages:
            await expect(page.locator(".price.big")).to_have_text("71,234.5")
            await page.get_by_role("button", name="one hour").click()
            await expect(page.locator(".chart")).to_have_attribute("data-interval", "ONE_HOUR")
        assert 1 <= max_streams <= 4
        await context.close()


@pytest.mark.usefixtures("stored_until")
async def test_without_a_key_the_page_is_not_called_offline(browser: Browser, dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, api_keys=(sha256(b"open sesame").hexdigest(),))) as api:
        page = await browser.new_page(service_workers="block")
        await page.goto(api.url)
        await expect(page.get_by_label("Key", exact=True)).to_be_visible()
        await expect(page.locator("#status")).to_have_text("API key needed")
        await page.close()
