"""Who calls: the context of one request."""

import dataclasses
import secrets

from starlette.requests import HTTPConnection

from graph.schema.context import Context


def context_of(request: HTTPConnection) -> Context:
    """The application's resources with what this request's sender may do."""
    context: Context = request.app.state.context
    token: str | None = request.app.state.admin_token
    if token is None:
        return context
    sent = request.headers.get("Authorization", "")
    allowed = secrets.compare_digest(sent.encode(), f"Bearer {token}".encode())
    return dataclasses.replace(context, may_fetch=allowed)
