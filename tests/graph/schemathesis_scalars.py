"""What schemathesis cannot guess of our schema: values of its scalar."""

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes

from tests.stored import MINUTE

schemathesis.graphql.scalar(
    "UnixTime",
    st.integers(MINUTE - 1_000, MINUTE + 1_000).map(nodes.Int)
    | st.datetimes().map(lambda time: nodes.String(time.isoformat())),
)
