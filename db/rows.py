"""Rows from outside: their enums, limits and validation. `db.tables` repeats each rule as a CHECK.

This module imports no SQLAlchemy, because every process validates rows and only migrations read the tables' metadata.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from db import times

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""Pattern of an index name: `btc_usd`, `drbfix-btc_usdc`, `1000pepe_usdc`."""
INVALID_NAME = "is not an index name; names look like btc_usd or drbfix-btc_usdc"
"""Message for a name that does not match; the name precedes it."""

MAX_PRICE = 10**15
MAX_PRICE_DECIMALS = 18
MAX_PEER_LENGTH = 200


class Source(StrEnum):
    """How a price was obtained."""

    LIVE = "LIVE"
    BACKFILL = "BACKFILL"
    IMPORT = "IMPORT"
    PEER = "PEER"


class DeliveryBasis(StrEnum):
    """What the mean before a delivery was computed from."""

    RANGE = "RANGE"
    """The ranges of 30 minutes that were watched completely."""
    CHART = "CHART"
    """The exchange's chart, whose points are a few seconds apart."""


class Reason(StrEnum):
    """Reason why a minute has no price."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    HTTP_5XX = "http_5xx"
    RATE_LIMITED = "rate_limited"
    MALFORMED = "malformed"
    TESTNET = "testnet"
    MAINTENANCE = "maintenance"
    CLOCK = "clock"
    STORAGE = "storage"
    NOT_COLLECTED = "not_collected"


class AlertKind(StrEnum):
    """What an alert watches."""

    CROSSES = "CROSSES"
    """The price crosses a level."""
    MOVES = "MOVES"
    """The price moves by a percentage within some minutes."""
    STALE = "STALE"
    """No newer minute is stored for some minutes."""
    GAP = "GAP"
    """Minutes are missing."""
    STREAM_SILENT = "STREAM_SILENT"
    """No ticks are stored for some minutes."""
    DELIVERY_DIFFERS = "DELIVERY_DIFFERS"
    """The delivery price differs from the mean of our own data by a percentage."""


class AlertDirection(StrEnum):
    """In which direction a price crosses a level."""

    UP = "UP"
    DOWN = "DOWN"
    EITHER = "EITHER"


class AlertFormat(StrEnum):
    """What the body of a webhook looks like."""

    STANDARD = "STANDARD"
    """An event as https://www.standardwebhooks.com describes it."""
    SLACK = "SLACK"
    DISCORD = "DISCORD"
    NTFY = "NTFY"


class ChangeKind(StrEnum):
    """Kind of a change event."""

    HISTORY = "history"
    GAP_OPENED = "gap_opened"
    GAP_CLOSED = "gap_closed"
    GAP_GIVEN_UP = "gap_given_up"
    TRACKING = "tracking"
    HORIZON = "horizon"


def normalize_price(price: Decimal) -> Decimal:
    """Returns the number without trailing zeros and exponent: `68241.50` becomes `68241.5`, `6E+4` becomes `60000`."""
    text = f"{price:f}"
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)


def validate_price(price: Decimal) -> Decimal:
    """Returns a price in its normal form. Raises ValueError if it is not positive, not finite, or has too many digits."""
    if not price.is_finite() or not 0 < price < MAX_PRICE:
        raise ValueError(f"should be greater than 0 and less than {MAX_PRICE}")
    _, digits, exponent = price.as_tuple()
    # The exponent is checked first, because formatting a number like 1E-999999999 would exhaust memory.
    if (
        int(exponent) < -(MAX_PRICE_DECIMALS + len(digits))
        or -int((price := normalize_price(price)).as_tuple().exponent) > MAX_PRICE_DECIMALS
    ):
        raise ValueError(f"should have at most {MAX_PRICE_DECIMALS} decimals")
    return price


def _validate_minute(ts: int) -> int:
    if ts % times.MINUTE or not times.FIRST <= ts < times.END:
        raise ValueError("should be a multiple of 60 in UNIX seconds, between the years 1970 and 2200")
    return ts


Minute = Annotated[int, AfterValidator(_validate_minute)]
Price = Annotated[Decimal, AfterValidator(validate_price)]
Offset = Annotated[int, Field(ge=0, lt=times.MINUTE * 1_000)]


class PriceRow(BaseModel):
    """A validated price of one minute, to be stored in the table `price`."""

    model_config = ConfigDict(frozen=True)

    ticker: str = Field(pattern=NAME_PATTERN)
    ts: Minute
    price: Price
    observed_at: int | None = None
    source: Source
    estimated_delivery_price: Price | None = None
    """The exchange's estimate, if it differs from the price."""
    peer: Annotated[str, Field(max_length=MAX_PEER_LENGTH, pattern=r'^[^\s,"]+$')] | None = None
    """URL of the peer that had the price; only with the source PEER."""

    @model_validator(mode="after")
    def _require_observed_in_minute(self) -> Self:
        if self.observed_at is not None and times.minute_of(self.observed_at // 1_000_000) != self.ts:
            raise ValueError("observed_at should be within the minute")
        return self

    @model_validator(mode="after")
    def _require_peer(self) -> Self:
        if (self.peer is not None) != (self.source is Source.PEER):
            raise ValueError("peer should be set for the source PEER only")
        return self


class RangeRow(BaseModel):
    """A validated range of one minute, to be stored in the table `minute_range`, from ticks."""

    model_config = ConfigDict(frozen=True)

    ticker: str = Field(pattern=NAME_PATTERN)
    ts: Minute
    open: Price
    high: Price
    low: Price
    close: Price
    opened_ms: Offset
    """When the open was published, in milliseconds after the start of the minute."""
    closed_ms: Offset
    twap: Price
    ticks: Annotated[int, Field(gt=0)]
    watched_s: Annotated[int, Field(ge=0, le=times.MINUTE)]
    longest_silence_ms: Annotated[int, Field(ge=0, le=times.MINUTE * 1_000)]
    source: Source

    @model_validator(mode="after")
    def _require_order(self) -> Self:
        if not self.low <= min(self.open, self.close, self.twap) <= max(self.open, self.close, self.twap) <= self.high:
            raise ValueError("open, close and twap should be between low and high")
        return self
