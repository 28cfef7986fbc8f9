"""The thin shell around `protocol`: one aiohttp session, one limiter, one clock a process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiolimiter import AsyncLimiter

from db.tables import Reason
from ingest import metrics
from ingest.deribit import protocol
from ingest.deribit.models import Envelope
from ingest.errors import AgainError, SourceError
from ingest.settings import Settings
from ingest.source import ChartPoint, ExchangeClock, Quote


class Deribit:
    """A `Source`: Deribit's index prices over HTTP."""

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
        self._spare = max(1.0, limiter.max_rate / 2)
        self._wall_ns = wall_ns

    async def price(self, ticker: str) -> Quote:
        envelope, asked_at, answered_at = await self._get("get_index_price", index_name=ticker)
        return Quote(ticker, protocol.price(envelope), envelope.us_out, asked_at, answered_at)

    def window(self, age_s: float) -> str:
        return protocol.window_reaching(age_s)

    async def chart(self, ticker: str, window: str) -> list[ChartPoint]:
        # Live prices go first: half of the burst is always theirs. The bucket leaks by the clock: no event to wait for.
        while not self._limiter.has_capacity(self._spare):  # noqa: ASYNC110  see above
            await asyncio.sleep(self._limiter.time_period / self._limiter.max_rate)
        envelope, _, _ = await self._get("get_index_chart_data", index_name=ticker, range=window)
        return protocol.chart(envelope)

    async def names(self) -> frozenset[str]:
        envelope, _, _ = await self._get("get_supported_index_names")
        return protocol.names(envelope)

    async def _get(self, method: str, **params: str) -> tuple[Envelope, int, int]:
        outcome = "cancelled"
        try:
            async with self._limiter:
                asked_at = self._wall_ns() // 1000
                with metrics.call_seconds.labels(method).time():
                    status, headers, body = await self._fetch(f"{self._rpc_url}/public/{method}", params)
                answered_at = self._wall_ns() // 1000
            envelope = protocol.open_envelope(status, headers, body)
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
            self.clock.hear(envelope.us_out, asked_at, answered_at, params.get("index_name", method))
        return envelope, asked_at, answered_at

    async def _fetch(self, url: str, params: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        try:
            # A redirect would lead to a host that nobody named.
            async with self._session.get(url, params=params, allow_redirects=False) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > protocol.BODY_LIMIT:
                        break
                return response.status, response.headers, bytes(body)
        except TimeoutError as error:
            raise AgainError(f"no answer in time from DERIBIT_RPC_URL={self._rpc_url}", Reason.TIMEOUT) from error
        except aiohttp.ClientPayloadError as error:
            raise AgainError(f"Deribit's answer broke off: {error}", Reason.MALFORMED) from error
        except aiohttp.ClientError as error:
            message = f"no connection to DERIBIT_RPC_URL={self._rpc_url}: {error or type(error).__name__}"
            raise AgainError(message, Reason.REFUSED) from error


@asynccontextmanager
async def open_deribit(settings: Settings) -> AsyncIterator[Deribit]:
    """Deribit at `DERIBIT_RPC_URL`, connected to when first asked."""
    # A leaky bucket of `burst` calls that empties at `rate`: its period is the time it takes to empty.
    limiter = AsyncLimiter(settings.deribit_burst, settings.deribit_burst / settings.deribit_rate_per_second)
    timeout = aiohttp.ClientTimeout(total=settings.http_timeout_seconds, sock_connect=settings.http_connect_timeout_seconds)
    connector = aiohttp.TCPConnector(limit=settings.deribit_connections)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Deribit(session, settings.deribit_rpc_url, limiter)
