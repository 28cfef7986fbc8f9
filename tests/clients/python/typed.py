"""Uses of the generated client that `mypy --strict` must accept or reject. When run, it queries the API at the given URL."""

import asyncio
import json
import sys
from decimal import Decimal

from generated import Client, GraphQLClientGraphQLMultiError


async def main(url: str) -> None:
    async with Client(url) as client:
        found = (await client.latest("btc_usd")).latest
        price: Decimal = found.price  # type: ignore[union-attr]  # a ticker without a price yet
        page = await client.page("btc_usd", first=2)
        minutes: list[int] = [node.ts for node in page.prices.nodes]
        coverage = (await client.coverage("btc_usd", from_=1705318800, to=1705318980)).coverage
        ratio: float = coverage.ratio  # type: ignore[assignment]  # null where no minute was expected
        nothing = (await client.latest("eth_usd")).latest
        try:
            await client.latest("nobody_usd")
        except GraphQLClientGraphQLMultiError as error:
            codes = [(one.extensions or {})["code"] for one in error.errors]
    results = {"price": str(price), "minutes": minutes, "ratio": ratio, "nothing": nothing, "codes": codes}
    print(json.dumps(results))


asyncio.run(main(sys.argv[1]))
