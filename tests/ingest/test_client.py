"""The client over real HTTP, and each way the exchange fails."""

import asyncio
import time
from itertools import pairwise

import pytest

from db.tables import Reason
from ingest.deribit.client import Deribit, open_deribit
from ingest.errors import AgainError, LaterError, NeverError, SourceError, UnknownTickerError
from ingest.settings import Settings
from ingest.simulator import market
from ingest.simulator.faults import FAULTS
from ingest.simulator.server import Simulator, serving

EXPECTED: dict[str, tuple[type[SourceError], Reason]] = {
    "too_many_requests": (AgainError, Reason.RATE_LIMITED),
    "too_many_concurrent_requests": (AgainError, Reason.RATE_LIMITED),
    "http_429": (AgainError, Reason.RATE_LIMITED),
    "retry": (AgainError, Reason.REFUSED),
    "settlement_in_progress": (AgainError, Reason.REFUSED),
    "internal_server_error": (AgainError, Reason.HTTP_5XX),
    "internal_error": (AgainError, Reason.HTTP_5XX),
    "temporarily_unavailable": (AgainError, Reason.HTTP_5XX),
    "timed_out": (AgainError, Reason.TIMEOUT),
    "http_500": (AgainError, Reason.HTTP_5XX),
    "http_502": (AgainError, Reason.HTTP_5XX),
    "http_503": (AgainError, Reason.HTTP_5XX),
    "system_maintenance": (LaterError, Reason.MAINTENANCE),
    "unauthenticated_disabled": (LaterError, Reason.MAINTENANCE),
    "maintenance_13025": (LaterError, Reason.MAINTENANCE),
    "maintenance_13503": (LaterError, Reason.MAINTENANCE),
    "invalid_params": (NeverError, Reason.REFUSED),
    "method_not_found": (NeverError, Reason.REFUSED),
    "invalid_arguments": (NeverError, Reason.REFUSED),
    "bad_request": (NeverError, Reason.REFUSED),
    "unknown_index": (UnknownTickerError, Reason.REFUSED),
    "unheard_of_code": (AgainError, Reason.REFUSED),
    "http_403": (AgainError, Reason.REFUSED),
    "http_404": (NeverError, Reason.REFUSED),
    "testnet": (NeverError, Reason.TESTNET),
    "no_result": (AgainError, Reason.MALFORMED),
    "html": (AgainError, Reason.MALFORMED),
    "empty": (AgainError, Reason.MALFORMED),
    "truncated": (AgainError, Reason.MALFORMED),
    "not_an_object": (AgainError, Reason.MALFORMED),
    "nested": (AgainError, Reason.MALFORMED),
    "not_utf8": (AgainError, Reason.MALFORMED),
    "gzip_undeclared": (AgainError, Reason.MALFORMED),
    "endless": (AgainError, Reason.MALFORMED),
    "price_zero": (AgainError, Reason.MALFORMED),
    "price_negative": (AgainError, Reason.MALFORMED),
    "price_nan": (AgainError, Reason.MALFORMED),
    "price_huge_integer": (AgainError, Reason.MALFORMED),
    "price_null": (AgainError, Reason.MALFORMED),
    "price_text": (AgainError, Reason.MALFORMED),
    "hang": (AgainError, Reason.TIMEOUT),
    "price_exponent": (AgainError, Reason.MALFORMED),
    "half_a_surrogate": (AgainError, Reason.REFUSED),
    "redirect": (NeverError, Reason.REFUSED),
    "reset": (AgainError, Reason.REFUSED),
    "break_off": (AgainError, Reason.MALFORMED),
}

TAKEN_AS_PRICES = {"clock_ahead", "no_clock", "price_infinite", "price_tiny"}
"""Whether these can be stored is the job's to decide, see test_collect."""


async def test_a_price_is_what_the_exchange_served_at_that_instant(deribit: Deribit, simulator: Simulator) -> None:
    quote = await deribit.price("btc_usd")
    served = simulator.served[-1]
    assert (quote.ticker, str(quote.price), quote.observed_at) == (served.ticker, served.price, served.us_out)
    assert quote.observed_at is not None
    assert quote.price == market.price("btc_usd", quote.observed_at // 10**6)
    assert quote.asked_at <= quote.observed_at <= quote.answered_at


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - TAKEN_AS_PRICES))
async def test_each_failure_says_what_to_do(deribit: Deribit, simulator: Simulator, fault: str) -> None:
    simulator.fail(fault)
    kind, reason = EXPECTED[fault]
    with pytest.raises(kind) as raised:
        await deribit.price("btc_usd")
    assert raised.value.reason is reason
    simulator.heal()
    assert await deribit.price("btc_usd"), "the session survives"


async def test_names_and_chart_are_read(deribit: Deribit, simulator: Simulator) -> None:
    assert await deribit.names() == set(market.NAMES)
    points = await deribit.chart("eth_usd", "1h")
    assert {b.at - a.at for a, b in pairwise(points)} == {6000}
    assert points[-1].at - points[0].at >= 3_500_000
    assert points[-1].price == market.average("eth_usd", points[-1].at // 1000, 6)


async def test_an_unknown_index_is_refused_as_such(deribit: Deribit) -> None:
    with pytest.raises(UnknownTickerError, match="invalid index"):
        await deribit.price("bct_usd")


async def test_no_exchange_at_all_is_one_line_that_names_the_setting() -> None:
    async with open_deribit(Settings(deribit_rpc_url="http://127.0.0.1:1/api/v2")) as client:
        with pytest.raises(AgainError, match=r"no connection to DERIBIT_RPC_URL=http://127\.0\.0\.1:1/api/v2") as raised:
            await client.price("btc_usd")
    assert "\n" not in str(raised.value)


async def test_the_clock_of_the_exchange_is_measured(deribit: Deribit, simulator: Simulator) -> None:
    simulator.clock.set(offset_s=-30)
    await deribit.price("btc_usd")
    assert deribit.clock.skew_s == pytest.approx(30, abs=0.5)


async def test_calls_beyond_the_burst_wait_for_their_turn(simulator: Simulator) -> None:
    async with serving(simulator) as url:
        settings = Settings(deribit_rpc_url=url, deribit_burst=5, deribit_rate_per_second=50)
        async with open_deribit(settings) as client:
            began = time.monotonic()
            await asyncio.gather(*(client.price("btc_usd") for _ in range(15)))
            assert time.monotonic() - began >= 0.15, "ten calls beyond five at 50 a second"


@pytest.mark.parametrize(
    "url",
    ["https://www.deribit.com/api/v2", "https://www.deribit.com/api/v2/", "https://www.deribit.com/api/v2/public", "https://www.deribit.com/api/v2/public/"],
)  # fmt: skip
def test_the_address_is_understood_as_the_forerunners_wrote_it(url: str) -> None:
    assert Settings(deribit_rpc_url=url).deribit_rpc_url == "https://www.deribit.com/api/v2"


async def test_live_prices_go_before_charts(rpc_url: str) -> None:
    settings = Settings(deribit_rpc_url=rpc_url, deribit_burst=4, deribit_rate_per_second=2.0)
    async with open_deribit(settings) as client:
        for _ in range(3):
            await client.price("btc_usd")
        chart = asyncio.create_task(client.chart("btc_usd", "1h"))
        await asyncio.sleep(0)
        await client.price("btc_usd")
        assert not chart.done(), "it leaves half of the burst to live prices"
        assert await chart
