"""What proxies say of their clients, where they are trusted: address, scheme, and the host that was asked for."""

from typing import Any, Final

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FORWARDED_HOST: Final = b"x-forwarded-host"


class Forwarded(ProxyHeadersMiddleware):
    """Uvicorn's middleware, which believes `X-Forwarded-For` and `-Proto` of trusted proxies; and `-Host`, too."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes the request on as its client made it."""
        client = scope.get("client")
        if scope["type"] != "lifespan" and client and client[0] in self.trusted_hosts:
            asked_for = next((value for name, value in scope["headers"] if name == FORWARDED_HOST), None)
            if asked_for:
                # Of several proxies the first one was asked by the client.
                host = (b"host", asked_for.partition(b",")[0].strip())
                scope["headers"] = [host, *(header for header in scope["headers"] if header[0] != b"host")]
        await super().__call__(scope, receive, send)
