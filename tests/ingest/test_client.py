"""The exchange client over real HTTP, with each failure of the exchange."""

import asyncio
import time
from itertools import pairwise

import pytest

from ingest.deribit.client import Deribit, open_deribit
from ingest.errors import RetryableError, UnknownTickerError
from ingest.settings import Settings
from ingest.simulator import market
from ingest.simulator.faults import FAULTS
from ingest.simulator.server import Simulator, serve
from tests.ingest.exchange_errors import EXPECTED_BY_FAULT

ACCEPTED_AS_PRICES = {"clock_ahead", "no_clock", "price_infinite", "price_tiny"}
"""The client accepts these; the collect job decides whether to store them (see test_collect)."""


async def test_a_price_is_what_the_exchange_served_at_that_instant(deribit: Deribit, simulator: Simulator) -> None:
    quote = await deribit.price("btc_usd")
    served = simulator.served[-1]
    assert (quote.ticker, str(quote.price), quote.observed_at) == (served.ticker, served.price, served.us_out)
    assert quote.observed_at is not None
    assert quote.price == market.price("btc_usd", quote.observed_at // 10**6)
    assert quote.requested_at <= quote.observed_at <= quote.received_at


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - ACCEPTED_AS_PRICES))
async def test_each_failure_is_mapped_to_an_error_class_and_a_reason(
    deribit: Deribit, hasty_deribit: Deribit, simulator: Simulator, fault: str
) -> None:
    simulator.fail(fault)
    kind, reason = EXPECTED_BY_FAULT[fault]
    client = hasty_deribit if fault == "hang" else deribit
    with pytest.raises(kind) as raised:
        await client.price("btc_usd")
    assert raised.value.reason is reason
    simulator.clear_faults()
    assert await client.price("btc_usd"), "the session is still usable"


async def test_names_and_chart_are_read(deribit: Deribit, simulator: Simulator) -> None:
    assert await deribit.names() == set(market.NAMES)
    points = await deribit.chart("eth_usd", "1h")
    assert {b.at - a.at for a, b in pairwise(points)} == {6000}
    assert points[-1].at - points[0].at >= 3_500_000
    assert points[-1].price == market.average("eth_usd", points[-1].at // 1000, 6)


async def test_an_unknown_index_raises_unknown_ticker_error(deribit: Deribit) -> None:
    with pytest.raises(UnknownTickerError, match="invalid index"):
        await deribit.price("bct_usd")


async def test_an_unreachable_exchange_is_reported_in_one_line_that_names_the_setting() -> None:
    async with open_deribit(Settings(deribit_rpc_url="http://127.0.0.1:1/api/v2")) as client:
        with pytest.raises(RetryableError, match=r"no connection to DERIBIT_RPC_URL=http://127\.0\.0\.1:1/api/v2") as raised:
            await client.price("btc_usd")
    assert "\n" not in str(raised.value)


async def test_the_clock_of_the_exchange_is_measured(deribit: Deribit, simulator: Simulator) -> None:
    simulator.clock.set(offset_s=-30)
    await deribit.price("btc_usd")
    assert deribit.clock.skew_s == pytest.approx(30, abs=0.5)


async def test_calls_beyond_the_burst_are_delayed(simulator: Simulator) -> None:
    async with serve(simulator) as url:
        settings = Settings(deribit_rpc_url=url, deribit_burst=5, deribit_rate_per_second=50)
        async with open_deribit(settings) as client:
            started_at = time.monotonic()
            await asyncio.gather(*(client.price("btc_usd") for _ in range(15)))
            assert time.monotonic() - started_at >= 0.15, "ten calls beyond five at 50 a second"


@pytest.mark.parametrize(
    "url",
    ["https://www.deribit.com/api/v2", "https://www.deribit.com/api/v2/", "https://www.deribit.com/api/v2/public", "https://www.deribit.com/api/v2/public/"],
)  # fmt: skip
def test_the_rpc_url_is_accepted_in_the_forms_of_older_trackers(url: str) -> None:
    assert Settings(deribit_rpc_url=url).deribit_rpc_url == "https://www.deribit.com/api/v2"


async def test_live_prices_take_precedence_over_charts(rpc_url: str) -> None:
    settings = Settings(deribit_rpc_url=rpc_url, deribit_burst=4, deribit_rate_per_second=0.01)
    async with open_deribit(settings) as client:
        for _ in range(3):
            await client.price("btc_usd")
        chart = asyncio.create_task(client.chart("btc_usd", "1h"))
        await asyncio.sleep(0)
        await client.price("btc_usd")
        assert not chart.done(), "the chart call leaves half of the burst to live prices"
        chart.cancel()
