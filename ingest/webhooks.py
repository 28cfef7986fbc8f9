"""Sends webhooks. Their URLs come from users, so they reach no private address, and no receiver delays or fills the worker."""

import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from standardwebhooks import Webhook
from yarl import URL

from db.rows import AlertFormat
from ingest.settings import Settings

TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 2_000
"""Bytes of a response that are read, for the message of an error."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC: Final = [
    ipaddress.ip_network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "192.88.99.0/24")
]
"""Networks that contain addresses of other networks, or lead to them, which `is_global` does not exclude."""


class WebhookError(Exception):
    """Raised when a receiver did not accept a webhook. The message says why."""


class PrivateAddressError(OSError):
    """Raised when the host of a webhook has only addresses that are not public."""


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the public internet. Addresses that contain another one count as that one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64:
            embedded = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


class PublicResolver(AbstractResolver):
    """Resolves host names to their public addresses. The connection uses these, so a second answer of the DNS has no effect."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """See aiohttp. Raises PrivateAddressError."""
        found = [one for one in await self._resolver.resolve(host, port, family) if is_public(one["host"])]
        if not found:
            raise PrivateAddressError(f"{host} has no public address; WEBHOOK_PRIVATE_ADDRESSES=true allows private ones")
        return found

    async def close(self) -> None:
        """See aiohttp."""
        await self._resolver.close()


class WebhookSender:
    """Posts webhooks, signed with each of `secrets`."""

    def __init__(self, session: aiohttp.ClientSession, secrets: Sequence[str], *, allows_private: bool) -> None:
        self._session = session
        self._signers = [Webhook(secret) for secret in secrets]
        self._allows_private = allows_private

    async def send(self, url: str, body_format: AlertFormat, delivery_id: str, event: Mapping[str, Any]) -> None:
        """Posts an event. Raises WebhookError unless the receiver responds with a status from 200 to 299."""
        body, media_type = encode(body_format, event)
        signed_at = datetime.now(UTC)  # receivers compare it with their own clock, not with the exchange's
        headers = {
            "Content-Type": media_type,
            "User-Agent": "tickgraph",
            "webhook-id": delivery_id,
            "webhook-timestamp": str(int(signed_at.timestamp())),
        }
        if self._signers:
            # One signature for each secret, so that a receiver may know either one while they are rotated.
            headers["webhook-signature"] = " ".join(signer.sign(delivery_id, signed_at, body) for signer in self._signers)
        try:
            self._require_public_literal(url)
            async with self._session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as response:
                if response.ok and response.status < 300:  # noqa: PLR2004  the first status that is no success
                    return
                text = _printable((await response.content.read(MAX_BODY_BYTES)).decode(errors="replace"))
                raise WebhookError(f"HTTP {response.status}{': ' if text else ''}{text}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise WebhookError(_describe(error, url)) from error

    def _require_public_literal(self, url: str) -> None:
        """Raises PrivateAddressError for an IP address in the URL that is not public: aiohttp does not resolve it."""
        host = URL(url).host or ""
        try:
            is_allowed = self._allows_private or is_public(host)
        except ValueError:
            return  # a name, which PublicResolver checks
        if not is_allowed:
            raise PrivateAddressError(f"{host} is not a public address; WEBHOOK_PRIVATE_ADDRESSES=true allows private ones")


@asynccontextmanager
async def open_sender(settings: Settings) -> AsyncIterator[WebhookSender]:
    """Opens a sender with its connections."""
    allows_private = settings.webhook_private_addresses
    connector = aiohttp.TCPConnector(
        resolver=None if allows_private else PublicResolver(), use_dns_cache=False, limit=20, force_close=True
    )
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        secrets = [secret.get_secret_value() for secret in settings.webhook_secrets]
        yield WebhookSender(session, secrets, allows_private=allows_private)


def encode(body_format: AlertFormat, event: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the body of a webhook and its media type."""
    text = str(event["text"])
    match body_format:
        case AlertFormat.SLACK:
            return orjson.dumps({"text": text}).decode(), "application/json"
        case AlertFormat.DISCORD:
            return orjson.dumps({"content": text, "allowed_mentions": {"parse": []}}).decode(), "application/json"
        case AlertFormat.NTFY:
            return text, "text/plain; charset=utf-8"
        case _:
            standard = {"type": f"alert.{str(event['kind']).lower()}", "timestamp": event["timestamp"], "data": event}
            return orjson.dumps(standard).decode(), "application/json"


def _describe(error: BaseException, url: str) -> str:
    """Returns the reason without the path of the URL, which may be a secret."""
    if isinstance(error, TimeoutError):
        return f"no response within {TIMEOUT_S:g} s"
    if isinstance(error.__cause__, PrivateAddressError):
        return str(error.__cause__)
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return _printable(text.replace(url, "the URL")) or type(error).__name__


def _printable(text: str) -> str:
    """Returns a text of a receiver in one line, without characters that PostgreSQL or a terminal does not show."""
    return "".join(one if one.isprintable() else " " for one in text).strip()[:200]
