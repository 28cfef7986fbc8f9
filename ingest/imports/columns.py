"""Names of columns and units of times that files of prices usually have."""

from typing import Final

TIME_NAMES: Final = ("ts", "time", "created_at", "timestamp", "unix", "open_time", "open time", "datetime", "date")
PRICE_NAMES: Final = ("price", "close", "close_price")
TICKER_NAMES: Final = ("ticker", "symbol", "index_name", "pair", "instrument_name")

UNITS: Final = {"s": (1, 10**11), "ms": (10**3, 10**14), "us": (10**6, 10**17), "ns": (10**9, 10**20)}
"""Units of UNIX times: units per second, and the limit below which a number is read in this unit."""
