"""Applies the forwarded headers of trusted proxies: client address, scheme and host."""

from typing import Any, Final

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FORWARDED_HOST: Final = b"x-forwarded-host"


class ForwardedHeadersMiddleware(ProxyHeadersMiddleware):
    """Uvicorn's middleware for `X-Forwarded-For` and `X-Forwarded-Proto`, extended by `X-Forwarded-Host`."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Calls the application with the client's address, scheme and host."""
        client = scope.get("client")
        if scope["type"] != "lifespan" and client and client[0] in self.trusted_hosts:
            forwarded_host = next((value for name, value in scope["headers"] if name == FORWARDED_HOST), None)
            if forwarded_host:
                # With several proxies, the first value is the host that the client requested.
                host = (b"host", forwarded_host.partition(b",")[0].strip())
                scope["headers"] = [host, *(header for header in scope["headers"] if header[0] != b"host")]
        await super().__call__(scope, receive, send)
