"""Identifies callers by API key, admin token or address, and builds the context of their requests."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from secrets import compare_digest

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Scope

from graph.http.cache_control import DEFAULT_MAX_AGE_S, IMMUTABLE
from graph.http.request_state import state_of
from graph.schema.context import Context


@dataclass(frozen=True)
class Caller:
    """A client of the API. `name` identifies it for rate limits: its key's shortened digest, or its address."""

    name: str
    may_read: bool
    may_fetch: bool
    requires_key: bool = False
    """Whether the API requires a key, so that shared caches must not store responses."""
    needs_admin_token: bool = False
    """Whether a fetch request requires the ADMIN_TOKEN."""


class Authenticator:
    """Identifies callers by the API keys and the admin token of the settings. Without these, every caller has access."""

    def __init__(self, keys: Collection[str], admin_token: str | None) -> None:
        """`keys` are SHA-256 digests in hex."""
        self._keys = keys
        self._admin_digest = None if admin_token is None else _digest(admin_token)

    def identify(self, scope: Scope, headers: Mapping[str, str] | None = None) -> Caller:
        """Returns the caller of a connection. `headers` replace those of the scope; their names must be in lower case."""
        if not self._keys and self._admin_digest is None:
            return _unrestricted_caller(address_of(scope))
        headers = Headers(scope=scope) if headers is None else headers
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        secret = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(secret) if secret else ""
        is_admin = self._admin_digest is not None and compare_digest(digest, self._admin_digest)
        # Compares all keys, so that the duration does not reveal which key matches.
        is_known = sum(compare_digest(digest, key) for key in self._keys) > 0 or is_admin
        return Caller(
            name=digest[:16] if is_known else address_of(scope),
            may_read=is_known or not self._keys,
            may_fetch=is_admin or self._admin_digest is None,
            requires_key=bool(self._keys),
            needs_admin_token=self._admin_digest is not None,
        )


def address_of(scope: Scope) -> str:
    """Returns the client's address; for IPv6 its /64 network, because one client owns a whole /64."""
    return _network(scope["client"][0]) if scope.get("client") else ""


@lru_cache(4096)
def _unrestricted_caller(address: str) -> Caller:
    return Caller(address, may_read=True, may_fetch=True)


@lru_cache(4096)
def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address  # a UNIX socket
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Network((int(parsed), 64), strict=False))


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def caching_headers(request: HTTPConnection, *, is_repeatable: bool = False) -> dict[str, str]:
    """Returns the Vary and Cache-Control headers of a REST response with prices; `is_repeatable`: it never changes."""
    lifetime = IMMUTABLE if is_repeatable else f"max-age={DEFAULT_MAX_AGE_S}"
    if state_of(request.scope).caller.requires_key:
        return {"Vary": "Accept-Encoding, Authorization, X-API-Key", "Cache-Control": f"private, {lifetime}"}
    return {"Vary": "Accept-Encoding", "Cache-Control": f"public, {lifetime}"}


def context_of(connection: HTTPConnection, caller: Caller | None = None) -> Context:
    """Returns the context of a request: the application's resources and the caller's permissions.

    The default caller is the one that AdmissionMiddleware identified.
    """
    caller = caller or state_of(connection.scope).caller
    return Context(
        connection.app.state.resources,
        caller.name,
        may_read=caller.may_read,
        may_fetch=caller.may_fetch,
        needs_admin_token=caller.needs_admin_token,
        last_event_id=connection.headers.get("Last-Event-ID"),
    )
