"""Pages of prices, against the Relay specification worked out on a plain list."""

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
from tests.stored import MINUTE, row, store, track

QUERY = """
query ($from: UnixTime, $to: UnixTime, $order: Order!, $first: Int, $after: String, $last: Int, $before: String) {
  prices(ticker: "btc_usd", from: $from, to: $to, order: $order, first: $first, after: $after, last: $last, before: $before) {
    nodes { ts }
    edges { cursor node { ts } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
STORED = [MINUTE + 60 * i for i in (0, 1, 2, 4, 5, 7, 8, 9, 12)]


def cursor(ts: int, epoch: int = 1) -> str:
    """As the API gives it in an epoch; a new database is in the first."""
    history = HistoryWatch(CommitListener(), lambda _: None)
    history._history = History("", 0, epoch, 0)  # noqa: SLF001  what a look at the database would find
    return schema_arguments.cursor(ts, history)


@pytest.fixture
async def listed(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", ts) for ts in STORED])


def _expected(arguments: dict[str, Any]) -> dict[str, Any]:
    """The page by the algorithm of https://relay.dev/graphql/connections.htm#sec-Pagination-algorithm."""
    low, high = arguments.get("from", 0), arguments.get("to", 2**40)
    whole = [ts for ts in STORED if low <= ts < high]
    backwards = arguments["order"] == "NEWEST_FIRST"
    if backwards:
        whole.reverse()

    def after(ts: int, mark: int) -> bool:
        return ts < mark if backwards else ts > mark

    page = [
        ts
        for ts in whole
        if ("after" not in arguments or after(ts, arguments["after"]))
        and ("before" not in arguments or after(arguments["before"], ts))
    ]
    page = page[-arguments["last"] :] if "last" in arguments else page[: arguments.get("first", 100)]
    if page:
        following, preceding = whole[whole.index(page[-1]) + 1 :], whole[: whole.index(page[0])]
    else:
        following = [ts for ts in whole if "before" in arguments and not after(arguments["before"], ts)]
        preceding = [ts for ts in whole if "after" in arguments and not after(ts, arguments["after"])]
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


MINUTES = st.integers(-1, 13).map(lambda i: MINUTE + 60 * i)
PAGES = st.fixed_dictionaries(
    {"order": st.sampled_from(["NEWEST_FIRST", "OLDEST_FIRST"])}, optional={"after": MINUTES, "before": MINUTES}
)
WINDOWS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}), st.tuples(MINUTES, MINUTES).filter(lambda w: w[0] < w[1]).map(lambda w: {"from": w[0], "to": w[1]})
)
SIZES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}), st.integers(1, 12).map(lambda n: {"first": n}), st.integers(1, 12).map(lambda n: {"last": n})
)


@pytest.mark.usefixtures("listed")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(page=PAGES, window=WINDOWS, size=SIZES)
async def test_any_page_is_what_the_specification_says(
    api: Api, page: dict[str, Any], window: dict[str, Any], size: dict[str, Any]
) -> None:
    arguments = page | window | size
    sent = {name: cursor(value) if name in ("after", "before") else value for name, value in arguments.items()}
    data = await api.data(QUERY, **sent)
    assert data["prices"] == _expected(arguments)


@pytest.mark.usefixtures("listed")
async def test_paging_through_meets_every_price_once_while_new_ones_come(api: Api, db: Database) -> None:
    seen, after = [], None
    for step in range(10):
        data = await api.data(QUERY, order="NEWEST_FIRST", first=2, after=after)
        seen += [node["ts"] for node in data["prices"]["nodes"]]
        after = data["prices"]["pageInfo"]["endCursor"]
        await store(db, [row("btc_usd", MINUTE + 60 * (20 + step))])
        if not data["prices"]["pageInfo"]["hasNextPage"]:
            break
    assert seen == STORED[::-1]


@pytest.mark.usefixtures("listed")
async def test_without_a_size_a_page_has_a_hundred(api: Api, db: Database) -> None:
    await store(db, [row("btc_usd", MINUTE + 60 * i) for i in range(20, 140)])
    data = await api.data('{ prices(ticker: "btc_usd") { nodes { ts } pageInfo { hasNextPage } } }')
    assert len(data["prices"]["nodes"]) == 100
    assert data["prices"]["pageInfo"]["hasNextPage"] is True
