"""The client for peers: other Tickgraphs that collect on their own. Their answers are checked like those of the exchange."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, NamedTuple

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from db import times
from db.rows import Minute, Price, Source
from ingest.settings import Settings

TIMEOUT_S: Final = 5.0
MAX_BODY_BYTES: Final = 1_000_000
"""A day of a ticker takes about 200 kB."""
MAX_WINDOW_S: Final = times.DAY
"""Longest window of a request."""

UNKNOWN_TICKER: Final = "UNKNOWN_TICKER"
"""Error code of a peer that does not have the ticker."""

QUERY: Final = """query Peer($ticker: String!, $from: UnixTime!, $to: UnixTime!) {
  range(ticker: $ticker, from: $from, to: $to) { ts price observedAt source }
}"""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PeerError(Exception):
    """Raised when a peer returned no usable response. The message says why."""


class PeerMinute(BaseModel):
    """A stored minute of a peer."""

    model_config = ConfigDict(frozen=True)

    ts: Annotated[Minute, Field(strict=True)]
    price: Price
    source: str
    observed: datetime | None = Field(alias="observedAt")

    @property
    def observed_at(self) -> int | None:
        """When the exchange published the price, in UNIX microseconds."""
        if self.observed is None or self.observed.tzinfo is None:
            return None
        return (self.observed - _EPOCH) // timedelta(microseconds=1)

    @property
    def is_live(self) -> bool:
        """Whether the peer fetched the price in its own minute. Its other prices are copies, averages or imports."""
        return self.source == Source.LIVE


_MINUTES: Final = TypeAdapter(Annotated[list[PeerMinute], Field(max_length=MAX_WINDOW_S // times.MINUTE)])


@dataclass(frozen=True)
class Peer:
    """A peer at a base URL."""

    url: str
    session: aiohttp.ClientSession
    key: str = ""
    """API key; empty if it needs none."""

    async def minutes(self, ticker: str, low: int, high: int) -> dict[int, PeerMinute]:
        """Returns the stored minutes of [low, high), at most MAX_WINDOW_S. Raises PeerError."""
        body = await self._post({"query": QUERY, "variables": {"ticker": ticker, "from": low, "to": high}})
        try:
            found = parse_response(body)
        except PeerError as error:
            raise PeerError(f"{self.url}: {error}") from error
        outside = [minute.ts for minute in found if not low <= minute.ts < high]
        if outside:
            raise PeerError(f"{self.url}: malformed response: the minute {times.iso(outside[0])} was not requested")
        return {minute.ts: minute for minute in found}

    async def _post(self, request: dict[str, Any]) -> bytes:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["X-API-Key"] = self.key
        try:
            # A redirect could lead to a host that is not configured.
            async with self.session.post(
                f"{self.url}/graphql", json=request, headers=headers, allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise PeerError(f"{self.url}: the response exceeds {MAX_BODY_BYTES:,} bytes")
                if response.content_type != "application/json":
                    raise PeerError(f"{self.url}: HTTP {response.status} with {response.content_type}; is it a Tickgraph?")
                return bytes(body)
        except TimeoutError as error:
            raise PeerError(f"{self.url}: no response within {TIMEOUT_S:g} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise PeerError(f"{self.url}: {error or type(error).__name__}") from error


def parse_response(body: bytes) -> list[PeerMinute]:
    """Returns the minutes of a response; none if the peer does not know the ticker. Raises PeerError."""
    try:
        response = orjson.loads(body)
        if isinstance(response, dict) and response.get("errors"):
            error = _first_error(response["errors"])
            if error.code == UNKNOWN_TICKER:
                return []
            raise PeerError(error.message)
        return _MINUTES.validate_python(response["data"]["range"])
    except ValidationError as error:
        raise PeerError(f"malformed response: {error.errors()[0]['msg']}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PeerError(f"malformed response: {type(error).__name__}") from error


class _GraphQLError(NamedTuple):
    message: str
    code: object


def _first_error(errors: Any) -> _GraphQLError:
    error = errors[0] if isinstance(errors, list) and errors else errors
    content = error if isinstance(error, dict) else {"message": error}
    text = content.get("message")
    # The message is printed on terminals, so it must not control them. Text of something nested deeply would exceed the stack.
    message = "".join(one for one in text[:200] if one.isprintable()) if isinstance(text, str) else "an error without a message"
    extensions = content.get("extensions")
    return _GraphQLError(message, extensions.get("code") if isinstance(extensions, dict) else None)


@asynccontextmanager
async def open_peers(settings: Settings) -> AsyncIterator[list[Peer]]:
    """Opens the clients for the peers of the settings. A call connects."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    # A compressed response could expand to any size, so none is decompressed.
    # Cookies of one peer must not reach another one.
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        keys = [key.get_secret_value() for key in settings.peer_keys] or [""] * len(settings.peers)
        yield [Peer(url, session, key) for url, key in zip(settings.peers, keys, strict=True)]
