"""What schemathesis cannot guess of our schema: values of its scalar.

They are of late, so that a range up to now is not too long: an error whose code it does not know is a server's mistake to it.
"""

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


@schemathesis.check
def no_mistake_of_ours(_context: Any, response: Any, case: Any) -> None:
    """Its own check knows none of our codes, and takes an error with another one for a server's mistake."""
    assert response.status_code < 500, response.text
    answer = response.json() if case.path == "/graphql" else {}
    for error in answer.get("errors", []):
        assert error["extensions"]["code"] not in ("INTERNAL_SERVER_ERROR", "UNAVAILABLE", "TIMEOUT"), error
