"""Serves the API under a sub-path of a proxy."""

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPathMiddleware:
    """Removes ROOT_PATH from the path of a request, unless the proxy already removed it. Links start with it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """`root_path` starts with a slash and does not end with one."""
        self.app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            path = scope["path"]
            if path == self._root_path or path.startswith(f"{self._root_path}/"):
                path = path.removeprefix(self._root_path) or "/"
            scope = {**scope, "path": path, "app_root_path": self._root_path}
        await self.app(scope, receive, send)


def root_path_of(scope: Scope) -> str:
    """Returns ROOT_PATH without a trailing slash; empty if it is not set."""
    path: str = scope.get("app_root_path", "")
    return path
