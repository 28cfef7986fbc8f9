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
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    allowed = scheme.lower() == "bearer" and secrets.compare_digest(sent.strip().encode(), token.encode())
    return dataclasses.replace(context, may_fetch=allowed)
