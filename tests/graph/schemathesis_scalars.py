"""Hooks of schemathesis: values of the scalars UnixTime and Decimal, and a check for internal errors.

The times are recent, so that a range up to now is not rejected as too long.
"""

import re
import time
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes

NOW = int(time.time())
SECONDS = st.integers(NOW - 1_000_000, NOW)

schemathesis.graphql.scalar(
    "UnixTime",
    SECONDS.map(nodes.Int) | SECONDS.map(lambda second: nodes.String(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)))),
)


schemathesis.graphql.scalar(
    "Decimal", st.decimals("0.000001", 10**9, places=6).map(lambda number: nodes.String(f"{number:f}")) | SECONDS.map(nodes.Int)
)


@schemathesis.hook
def map_query(_context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Replaces data versions by the oldest one, because JSON Schema cannot express which versions exist."""
    if query and re.fullmatch(r"\d{1,18}", str(query.get("as_of", "")), re.ASCII):
        query["as_of"] = "0"
    return query


@schemathesis.check
def no_internal_error(_context: Any, response: Any, case: Any) -> None:
    """Replaces the check not_a_server_error, which reports an unknown error code as a server error."""
    assert response.status_code < 500, response.text
    body = response.json() if case.path == "/graphql" else {}
    for error in body.get("errors", []):
        assert error["extensions"]["code"] not in ("INTERNAL_SERVER_ERROR", "UNAVAILABLE", "TIMEOUT"), error
