"""The HTTP client for Deribit: one aiohttp session, one rate limiter and one clock per process. `protocol` parses responses."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp
from aiolimiter import AsyncLimiter

from db.rows import Reason
from ingest import metrics
from ingest.deribit import protocol
from ingest.deribit.models import Envelope
from ingest.errors import RetryableError, SourceError
from ingest.settings import Settings
from ingest.source import ChartPoint, ExchangeClock, Quote


class Deribit:
    """An `Exchange`: Deribit's index prices over HTTP."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        rpc_url: str,
        limiter: AsyncLimiter,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.clock = ExchangeClock()
        self._session = session
        self._rpc_url = rpc_url
        self._limiter = limiter
        self._live_reserve = max(1.0, limiter.max_rate / 2)
        self._wall_ns = wall_ns

    async def price(self, ticker: str) -> Quote:
        envelope, requested_at, received_at = await self._get("get_index_price", index_name=ticker)
        price, estimate = protocol.price(envelope)
        return Quote(ticker, price, envelope.us_out, requested_at, received_at, estimate)

    def window(self, age_s: float) -> str:
        return protocol.finest_window(age_s)

    async def chart(self, ticker: str, window: str) -> list[ChartPoint]:
        await self._wait_behind_live_prices()
        envelope, _, _ = await self._get("get_index_chart_data", index_name=ticker, range=window)
        return protocol.chart(envelope)

    async def delivery_prices(self, ticker: str, count: int) -> dict[int, Decimal]:
        await self._wait_behind_live_prices()
        envelope, _, _ = await self._get("get_delivery_prices", index_name=ticker, count=str(count))
        return protocol.delivery_prices(envelope)

    async def _wait_behind_live_prices(self) -> None:
        # Half of the burst is reserved for live prices. The bucket leaks by the clock, so there is no event to wait for.
        while not self._limiter.has_capacity(self._live_reserve):  # noqa: ASYNC110  see above
            await asyncio.sleep(self._limiter.time_period / self._limiter.max_rate)

    async def names(self) -> frozenset[str]:
        envelope, _, _ = await self._get("get_supported_index_names")
        return protocol.names(envelope)

    async def _get(self, method: str, **params: str) -> tuple[Envelope, int, int]:
        outcome = "cancelled"
        try:
            async with self._limiter:
                requested_at = self._wall_ns() // 1000
                with metrics.call_seconds.labels(method).time():
                    status, headers, body = await self._fetch(f"{self._rpc_url}/public/{method}", params)
                received_at = self._wall_ns() // 1000
            envelope = protocol.parse_envelope(status, headers, body)
            outcome = "ok"
        except SourceError as error:
            outcome = str(getattr(error, "reason", "refused"))
            raise
        except Exception:
            outcome = "error"
            raise
        finally:
            metrics.calls.labels(method, outcome).inc()
        if envelope.us_out is not None:
            self.clock.observe(envelope.us_out, requested_at, received_at, params.get("index_name", method))
        return envelope, requested_at, received_at

    async def _fetch(self, url: str, params: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        try:
            # A redirect could lead to a host that is not configured.
            async with self._session.get(url, params=params, allow_redirects=False) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > protocol.MAX_BODY_BYTES:
                        break
                return response.status, response.headers, bytes(body)
        except TimeoutError as error:
            raise RetryableError(f"no response in time from DERIBIT_RPC_URL={self._rpc_url}", Reason.TIMEOUT) from error
        except aiohttp.ClientPayloadError as error:
            raise RetryableError(f"connection closed during Deribit's response: {error}", Reason.MALFORMED) from error
        except aiohttp.ClientError as error:
            message = f"no connection to DERIBIT_RPC_URL={self._rpc_url}: {error or type(error).__name__}"
            raise RetryableError(message, Reason.REFUSED) from error


@asynccontextmanager
async def open_deribit(settings: Settings) -> AsyncIterator[Deribit]:
    """Opens the client for `DERIBIT_RPC_URL`. Its first call connects."""
    # A leaky bucket of `burst` calls that empties at `rate`: its period is the time it takes to empty.
    limiter = AsyncLimiter(settings.deribit_burst, settings.deribit_burst / settings.deribit_rate_per_second)
    timeout = aiohttp.ClientTimeout(total=settings.http_timeout_seconds, sock_connect=settings.http_connect_timeout_seconds)
    connector = aiohttp.TCPConnector(limit=settings.deribit_connections)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Deribit(session, settings.deribit_rpc_url, limiter)
