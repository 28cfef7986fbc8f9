"""Who calls, what that one may do, and the context of its request."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from secrets import compare_digest

from starlette.requests import HTTPConnection
from starlette.types import Scope

from graph.schema.context import Context


@dataclass(frozen=True)
class Caller:
    """One who calls; `name` is what is counted of it: its key's digest, shortened, or its address."""

    name: str
    may_read: bool
    may_fetch: bool
    is_keyed: bool = False
    """Whether reading needs a key here, so that nothing on the way may keep an answer for others."""
    needs_token: bool = False
    """Whether asking for prices needs the ADMIN_TOKEN here."""


class Callers:
    """Tells them apart by the keys and the admin's token of the settings; where none are set, everybody may."""

    def __init__(self, keys: Collection[str], admin_token: str | None) -> None:
        """`keys` by their SHA-256 digests in hex."""
        self._keys = keys
        self._admin = None if admin_token is None else _digest(admin_token)

    def who(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        """Of a connection and its headers, whose names are in lower case."""
        if not self._keys and self._admin is None:
            return Caller(address_of(scope), may_read=True, may_fetch=True)
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        secret = sent.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(secret) if secret else ""
        is_admin = self._admin is not None and compare_digest(digest, self._admin)
        # All are compared, so that the time tells nothing of which was near.
        is_known = sum(compare_digest(digest, key) for key in self._keys) > 0 or is_admin
        return Caller(
            name=digest[:16] if is_known else address_of(scope),
            may_read=is_known or not self._keys,
            may_fetch=is_admin or self._admin is None,
            is_keyed=bool(self._keys),
            needs_token=self._admin is not None,
        )


def address_of(scope: Scope) -> str:
    """The client's address; of IPv6 its network, for one client has all addresses of a /64."""
    return _network(scope["client"][0]) if scope.get("client") else ""


@lru_cache(4096)
def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address  # a UNIX socket's
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Network((int(parsed), 64), strict=False))


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def caching_headers(request: HTTPConnection) -> dict[str, str]:
    """Of an answer of prices over REST: what it depends on, and who may keep it."""
    if request.scope["caller"].is_keyed:
        return {"Vary": "Accept-Encoding, Authorization, X-API-Key", "Cache-Control": "private"}
    return {"Vary": "Accept-Encoding"}


def context_of(connection: HTTPConnection, caller: Caller | None = None) -> Context:
    """The application's resources, with what the caller may do; by default who `admission.Known` found."""
    caller = caller or connection.scope["caller"]
    return Context(
        connection.app.state.resources,
        caller.name,
        may_read=caller.may_read,
        may_fetch=caller.may_fetch,
        needs_token_to_fetch=caller.needs_token,
        last_event_id=connection.headers.get("Last-Event-ID"),
    )
