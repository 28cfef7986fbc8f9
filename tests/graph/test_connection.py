"""Compares pages of prices with the Relay specification, computed on a plain list."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Database
from db.queries.version import History
from graph.engine.commit_listener import CommitListener
from graph.engine.history import HistoryWatch
from graph.schema import arguments as schema_arguments
from tests.graph.conftest import Api
from tests.sample_data import START_TS, row, store, track

QUERY = """
query ($from: UnixTime, $to: UnixTime, $order: Order!, $first: Int, $after: String, $last: Int, $before: String) {
  prices(ticker: "btc_usd", from: $from, to: $to, order: $order, first: $first, after: $after, last: $last, before: $before) {
    nodes { ts }
    edges { cursor node { ts } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
STORED = [START_TS + 60 * i for i in (0, 1, 2, 4, 5, 7, 8, 9, 12)]


def cursor(ts: int, epoch: int = 1) -> str:
    """Returns the cursor that the API returns in this epoch; a new database is in epoch 1."""
    history = HistoryWatch(CommitListener(), lambda _: None)
    history._history = History("", 0, epoch, 0)  # noqa: SLF001  as read from the database
    return schema_arguments.encode_cursor(ts, history)


@pytest.fixture
async def stored_prices(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", ts) for ts in STORED])


def _expected(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the page by the algorithm of https://relay.dev/graphql/connections.htm#sec-Pagination-algorithm."""
    low, high = arguments.get("from", 0), arguments.get("to", 2**40)
    window_minutes = [ts for ts in STORED if low <= ts < high]
    backwards = arguments["order"] == "NEWEST_FIRST"
    if backwards:
        window_minutes.reverse()

    def after(ts: int, mark: int) -> bool:
        return ts < mark if backwards else ts > mark

    page = [
        ts
        for ts in window_minutes
        if ("after" not in arguments or after(ts, arguments["after"]))
        and ("before" not in arguments or after(arguments["before"], ts))
    ]
    page = page[-arguments["last"] :] if "last" in arguments else page[: arguments.get("first", 100)]
    if page:
        following, preceding = (
            window_minutes[window_minutes.index(page[-1]) + 1 :],
            window_minutes[: window_minutes.index(page[0])],
        )
    else:
        following = [ts for ts in window_minutes if "before" in arguments and not after(arguments["before"], ts)]
        preceding = [ts for ts in window_minutes if "after" in arguments and not after(ts, arguments["after"])]
    return {
        "nodes": [{"ts": ts} for ts in page],
        "edges": [{"cursor": cursor(ts), "node": {"ts": ts}} for ts in page],
        "pageInfo": {
            "hasNextPage": bool(following),
            "hasPreviousPage": bool(preceding),
            "startCursor": cursor(page[0]) if page else None,
            "endCursor": cursor(page[-1]) if page else None,
        },
    }


MINUTES = st.integers(-1, 13).map(lambda i: START_TS + 60 * i)
PAGES = st.fixed_dictionaries(
    {"order": st.sampled_from(["NEWEST_FIRST", "OLDEST_FIRST"])}, optional={"after": MINUTES, "before": MINUTES}
)
WINDOWS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}), st.tuples(MINUTES, MINUTES).filter(lambda w: w[0] < w[1]).map(lambda w: {"from": w[0], "to": w[1]})
)
SIZES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}), st.integers(1, 12).map(lambda n: {"first": n}), st.integers(1, 12).map(lambda n: {"last": n})
)


@pytest.mark.usefixtures("stored_prices")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(page=PAGES, window=WINDOWS, size=SIZES)
async def test_every_page_matches_the_relay_specification(
    api: Api, page: dict[str, Any], window: dict[str, Any], size: dict[str, Any]
) -> None:
    arguments = page | window | size
    variables = {name: cursor(value) if name in ("after", "before") else value for name, value in arguments.items()}
    data = await api.data(QUERY, **variables)
    assert data["prices"] == _expected(arguments)


@pytest.mark.usefixtures("stored_prices")
async def test_paging_returns_every_price_once_while_new_prices_arrive(api: Api, db: Database) -> None:
    seen, after = [], None
    for step in range(10):
        data = await api.data(QUERY, order="NEWEST_FIRST", first=2, after=after)
        seen += [node["ts"] for node in data["prices"]["nodes"]]
        after = data["prices"]["pageInfo"]["endCursor"]
        await store(db, [row("btc_usd", START_TS + 60 * (20 + step))])
        if not data["prices"]["pageInfo"]["hasNextPage"]:
            break
    assert seen == STORED[::-1]


@pytest.mark.usefixtures("stored_prices")
async def test_the_default_page_size_is_100(api: Api, db: Database) -> None:
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(20, 140)])
    data = await api.data('{ prices(ticker: "btc_usd") { nodes { ts } pageInfo { hasNextPage } } }')
    assert len(data["prices"]["nodes"]) == 100
    assert data["prices"]["pageInfo"]["hasNextPage"] is True
