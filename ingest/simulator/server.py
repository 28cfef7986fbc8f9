"""The HTTP server of the simulator: Deribit's methods, and `/control/…` to control it while it runs.

GET    /control          the clock and the active faults
PUT    /control/clock    {"offset_s": -30} · {"at": 1700000000.5} · {"at": 1700000000.5, "stands": true} · {"rate": 10}
POST   /control/faults   {"name": "hang", "index": "btc_usd", "method": "get_index_price", "times": 3}
DELETE /control/faults
PUT    /control/steps    {"1d": 300}: seconds from one chart point to the next, by window
GET    /control/served   every served price: {"ticker", "price", "us_out"}
GET    /control/ticks    every served tick: {"ticker", "at_ms", "price"}
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from aiohttp import web

from ingest.simulator import market
from ingest.simulator.faults import FAULTS, Fault, respond
from ingest.simulator.stream import STREAM_FAULTS, IndexStream

PREFIX = "/api/v2/public/"
STREAM_PATH = "/ws/api/v2"


@dataclass(frozen=True)
class ServedPrice:
    """A price in a response without a fault. It is recorded right before it is sent."""

    ticker: str
    price: str
    us_out: int


class SimulatorClock:
    """The exchange's clock: the local clock with an offset, a faster or slower one, or a frozen one."""

    def __init__(self) -> None:
        self._set_at_us = self._instant_us = time.time_ns() // 1000
        self._rate = 1.0

    def set(self, *, at: float | None = None, offset_s: float = 0.0, stands: bool = False, rate: float = 1.0) -> None:
        """Sets the clock to `at` (UNIX seconds) or, without `at`, to the local clock plus `offset_s`.

        It then runs `rate` times as fast as the local clock; `stands` freezes it.
        """
        self._set_at_us = time.time_ns() // 1000
        self._instant_us = self._set_at_us + int(offset_s * 1e6) if at is None else int(at * 1e6)
        self._rate = 0.0 if stands else rate

    def now_us(self) -> int:
        """Returns UNIX microseconds."""
        elapsed_us = time.time_ns() // 1000 - self._set_at_us
        return self._instant_us + (elapsed_us if self._rate == 1 else int(elapsed_us * self._rate))


class Simulator:
    """The simulated exchange: its index names, its clock, the active faults, and the served prices."""

    def __init__(self, names: tuple[str, ...] = market.NAMES) -> None:
        self.names = names
        self.clock = SimulatorClock()
        self.faults: list[Fault] = []
        self.served: list[ServedPrice] = []
        self.stream = IndexStream(lambda: self.names, self.clock.now_us, self.faults)
        self.calls: dict[str, int] = {}
        self.steps_s = dict(market.STEPS_S)
        self.delay_s = 0.0
        """Delay of every response, in seconds."""
        self.raw: dict[str, bytes] = {}
        """Raw response bodies by index. They replace every response about that index."""
        self.chart_holes: list[tuple[int, int]] = []
        """Ranges [from, to) in UNIX seconds without chart points."""

    def fail(self, name: str, *, method: str | None = None, index: str | None = None, times: int | None = None) -> None:
        """Activates a fault. Raises KeyError if the name is unknown."""
        if name not in FAULTS and name not in STREAM_FAULTS:
            raise KeyError(name)
        self.faults.append(Fault(name, method=method, index=index, times=times))

    def clear_faults(self) -> None:
        """Deactivates all faults."""
        self.faults.clear()

    def app(self) -> web.Application:
        """Returns the web application."""
        app = web.Application()
        app.add_routes(
            [
                web.get(PREFIX + "{method}", self._call),
                web.get(STREAM_PATH, self.stream.handle),
                web.get("/control", self._show),
                web.put("/control/clock", self._set_clock),
                web.post("/control/faults", self._add_fault),
                web.delete("/control/faults", self._drop_faults),
                web.put("/control/steps", self._set_steps),
                web.get("/control/served", self._show_served),
                web.get("/control/ticks", self._show_ticks),
            ]
        )
        return app

    async def _call(self, request: web.Request) -> web.StreamResponse:
        method, index = request.match_info["method"], request.query.get("index_name")
        self.calls[method] = self.calls.get(method, 0) + 1
        us_in = self.clock.now_us()
        await asyncio.sleep(self.delay_s)
        payload = self._build_payload(method, index, request.query, us_in)
        us_out = self.clock.now_us()
        envelope = {
            "jsonrpc": "2.0",
            **payload,
            "usIn": us_in,
            "usOut": us_out,
            "usDiff": us_out - us_in,
            "testnet": False,
        }
        if index in self.raw:
            return web.Response(body=self.raw[index], content_type="application/json")
        fault = next((fault for fault in self.faults if fault.name in FAULTS and fault.consume(method, index)), None)
        if fault is not None:
            return await FAULTS[fault.name](request, envelope)
        response = respond(envelope, status=400 if "error" in payload else 200)
        if method == "get_index_price" and "result" in payload:
            self.served.append(ServedPrice(str(index), str(payload["result"]["index_price"]), us_out))
        return response

    def _build_payload(self, method: str, index: str | None, query: Any, us: int) -> dict[str, Any]:
        second = us // 10**6
        if method in ("get_index_price", "get_index_chart_data", "get_delivery_prices") and index not in self.names:
            return _error(-32602, "Invalid params", {"reason": "invalid index", "param": "index_name"})
        match method:
            case "get_index_price":
                price = market.price(str(index), second)
                estimate = market.estimated_delivery_price(str(index), second)
                return {"result": {"index_price": price, "estimated_delivery_price": estimate}}
            case "get_index_chart_data":
                window = query.get("range", "1d")
                if window not in self.steps_s:
                    return _error(-32602, "Invalid params", {"reason": "wrong format", "param": "range"})
                return {"result": self._chart(str(index), window, second)}
            case "get_delivery_prices":
                return {"result": _delivery_prices(str(index), second, query)}
            case "get_supported_index_names" | "get_index_price_names":
                return {"result": sorted(self.names)}
            case "get_time":
                return {"result": us // 1000}
            case "status":
                return {"result": {"locked": "false"}}
            case _:
                return _error(-32601, "Method not found")

    def _chart(self, index: str, window: str, second: int) -> list[tuple[int, Decimal]]:
        points = market.chart(index, window, second, self.steps_s[window])
        return [point for point in points if not any(low * 1000 <= point[0] < high * 1000 for low, high in self.chart_holes)]

    async def _show(self, _request: web.Request) -> web.Response:
        state = {
            "now": self.clock.now_us() / 1e6,
            "faults": [asdict(f) for f in self.faults],
            "calls": self.calls,
        }
        return web.json_response(state | {"known_faults": sorted([*FAULTS, *STREAM_FAULTS])})

    async def _set_clock(self, request: web.Request) -> web.Response:
        try:
            self.clock.set(**await request.json())
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(
                text=f'{error}; send {{"at": 1700000000.5, "stands": true}} or {{"offset_s": -30}}'
            ) from error
        return await self._show(request)

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self.fail(**await request.json())
        except (KeyError, TypeError, ValueError) as error:
            raise web.HTTPBadRequest(
                text=f"invalid fault: {error}; use one of {', '.join(sorted([*FAULTS, *STREAM_FAULTS]))}"
            ) from error
        return await self._show(request)

    async def _drop_faults(self, request: web.Request) -> web.Response:
        self.clear_faults()
        return await self._show(request)

    async def _set_steps(self, request: web.Request) -> web.Response:
        steps = await request.json()
        if (
            not isinstance(steps, dict)
            or not set(steps) <= set(self.steps_s)
            or not all(type(step) is int and step > 0 for step in steps.values())
        ):
            raise web.HTTPBadRequest(text=f'send seconds by window, like {{"1d": 300}}; windows are {", ".join(self.steps_s)}')
        self.steps_s |= steps
        return await self._show(request)

    async def _show_served(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(one) for one in self.served])

    async def _show_ticks(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(one) for one in self.stream.served])


@asynccontextmanager
async def serve(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serves the simulator and yields its `DERIBIT_RPC_URL`. Port 0: any free port. Raises OSError if the port is in use."""
    runner = web.AppRunner(simulator.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://{host}:{port}/api/v2"
    finally:
        await runner.cleanup()


def _error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message} | ({"data": data} if data else {})}


def _delivery_prices(index: str, second: int, query: Any) -> dict[str, Any]:
    offset, count = int(query.get("offset", 0)), min(1000, int(query.get("count", 10)))
    last = (second - 8 * 3600) // 86_400
    days = range(last - offset, max(last - offset - count, 0), -1)
    data = [
        {
            "date": time.strftime("%Y-%m-%d", time.gmtime(day * 86_400)),
            "delivery_price": market.delivery_price(index, day * 86_400 + 8 * 3600),
        }
        for day in days
    ]
    return {"data": data, "records_total": last}
