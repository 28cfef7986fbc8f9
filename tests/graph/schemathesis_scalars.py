"""What schemathesis cannot guess of our schema: values of its scalar.

They are of late, so that a range up to now is not too long: an error whose code it does not know is a server's mistake to it.
"""

import time

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes

NOW = int(time.time())
SECONDS = st.integers(NOW - 1_000_000, NOW)

schemathesis.graphql.scalar(
    "UnixTime",
    SECONDS.map(nodes.Int) | SECONDS.map(lambda second: nodes.String(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)))),
)
