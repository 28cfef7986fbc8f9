"""The tables, and the rules of their rows. Alembic reads the metadata; each rule stands again as a CHECK.

A `table=True` model does not validate by itself, so what comes from outside goes through `PriceRow.model_validate`.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, model_validator
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Numeric,
    Sequence,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from db import times

metadata = SQLModel.metadata
metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}

data_version = Sequence("data_version", metadata=metadata, data_type=BigInteger)
"""Draws the ids of everything that alters what a reader can see, so ids follow the order of commits."""

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""What an index name looks like: `btc_usd`, `drbfix-btc_usdc`, `1000pepe_usdc`."""
IS_NO_NAME = "is no index name; names look like btc_usd or drbfix-btc_usdc"
"""What is said of one that does not."""

PRICE_BELOW = 10**15
PRICE_SCALE = 18


class Source(StrEnum):
    """Where a stored price came from."""

    LIVE = "LIVE"
    BACKFILL = "BACKFILL"
    IMPORT = "IMPORT"


class Reason(StrEnum):
    """Why a minute has no price: a closed list."""

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


class ChangeKind(StrEnum):
    """What altered what a reader can see, beside single prices."""

    HISTORY = "history"
    GAP_OPENED = "gap_opened"
    GAP_CLOSED = "gap_closed"
    GAP_GIVEN_UP = "gap_given_up"
    TRACKING = "tracking"
    HORIZON = "horizon"


def normal(price: Decimal) -> Decimal:
    """The same number without trailing zeros and without an exponent: `68241.50` is `68241.5`, `6E+4` is `60000`."""
    text = f"{price:f}"
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)


def _price(price: Decimal) -> Decimal:
    if not price.is_finite() or not 0 < price < PRICE_BELOW:
        raise ValueError(f"should be over 0 and below {PRICE_BELOW}")
    _, digits, exponent = price.as_tuple()
    # Looked at first: written out, a number like 1E-999999999 would fill the memory.
    if int(exponent) < -(PRICE_SCALE + len(digits)) or -int((price := normal(price)).as_tuple().exponent) > PRICE_SCALE:
        raise ValueError(f"should have at most {PRICE_SCALE} decimals")
    return price


def _minute(ts: int) -> int:
    if ts % times.MINUTE or not times.FIRST <= ts < times.END:
        raise ValueError("should be a multiple of 60, in UNIX seconds, in the years 1970 to 2200")
    return ts


Minute = Annotated[int, AfterValidator(_minute)]
_IS_MINUTE = "{0} % 60 = 0 AND {0} >= 0 AND {0} < " + str(times.END)


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class PriceRow(SQLModel):
    """A price of one minute, checked: what may go into `price`."""

    model_config = ConfigDict(frozen=True)  # type: ignore[assignment]  # SQLModel's own config type is narrower

    ticker: str = Field(regex=NAME)
    ts: Minute
    price: Annotated[Decimal, AfterValidator(_price)]
    observed_at: int | None = None
    source: Source

    @model_validator(mode="after")
    def _observed_inside_the_minute(self) -> Self:
        if self.observed_at is not None and times.minute_of(self.observed_at // 1_000_000) != self.ts:
            raise ValueError("observed_at should lie inside the minute")
        return self


class Ticker(SQLModel, table=True):
    """An index that is known: tracked now or once, or imported."""

    __table_args__ = (
        CheckConstraint(f"name ~ '{NAME}'", name="name"),
        CheckConstraint(_IS_MINUTE.format("horizon"), name="horizon"),
        CheckConstraint(_IS_MINUTE.format("checked_until"), name="checked_until"),
        CheckConstraint(f"candles_from % 86400 = 0 AND candles_from < {times.END}", name="candles_from"),
    )

    name: str = Field(sa_column=Column(Text, primary_key=True))
    horizon: int | None = Field(
        None, sa_column=Column(BigInteger, comment="nothing before this minute is expected; UNIX seconds")
    )
    checked_until: int | None = Field(
        None,
        sa_column=Column(BigInteger, comment="every minute before this one is stored or a gap; UNIX seconds"),
    )
    candles_from: int | None = Field(
        None, sa_column=Column(BigInteger, comment="hours and days before it are still to be built; UNIX seconds")
    )


class Tracking(SQLModel, table=True):
    """A period in which a ticker was asked for every minute."""

    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("since"), name="since"),
        CheckConstraint(_IS_MINUTE.format("until"), name="until"),
        CheckConstraint("until > since", name="until_after_since"),
        Index("uq_tracking_open", "ticker", unique=True, postgresql_where=text("until IS NULL")),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    since: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="first minute asked for; UNIX seconds")
    )
    until: int | None = Field(
        None,
        sa_column=Column(BigInteger, comment="first minute no longer asked for; null while tracked; UNIX seconds"),
    )


class Price(SQLModel, table=True):
    """The index price of a ticker in a minute. Stored once; first come stays."""

    __table_args__ = (
        UniqueConstraint("id"),
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        CheckConstraint(f"price > 0 AND price < {PRICE_BELOW}", name="price"),  # NaN and Infinity sort above all
        CheckConstraint(f"scale(price) = min_scale(price) AND scale(price) <= {PRICE_SCALE}", name="price_normal"),
        CheckConstraint("observed_at >= ts * 1000000 AND observed_at < (ts + 60) * 1000000", name="observed_at"),
        _one_of("source", Source),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    id: int = Field(sa_column=Column(BigInteger, data_version, server_default=data_version.next_value(), nullable=False))
    price: Decimal = Field(sa_column=Column(Numeric, nullable=False, comment="quote currency, no trailing zeros"))
    observed_at: int | None = Field(
        None,
        sa_column=Column(BigInteger, comment="when the exchange said it; UNIX microseconds, inside the minute"),
    )
    source: Source = Field(sa_column=Column(Text, nullable=False))


class Candle(SQLModel, table=True):
    """An hour or a day of prices. A trigger of `price` keeps it: the hour from its minutes, the day from its hours."""

    __table_args__ = (
        CheckConstraint("span IN (3600, 86400)", name="span"),
        CheckConstraint(f"ts % span = 0 AND ts >= 0 AND ts < {times.END}", name="ts"),
        CheckConstraint("low <= least(open, close) AND high >= greatest(open, close)", name="prices"),
        CheckConstraint("count > 0 AND count <= span / 60", name="count"),
    )

    ticker: str = Field(sa_column=Column(Text, primary_key=True))
    span: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False, comment="seconds"))
    ts: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="its first second; UNIX seconds")
    )
    open: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    high: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    low: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    close: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    count: int = Field(sa_column=Column(BigInteger, nullable=False, comment="minutes stored"))
    sum: Decimal = Field(sa_column=Column(Numeric, nullable=False, comment="of the stored minutes' prices"))


_NOW = text("extract(epoch FROM now())::bigint")


class Gap(SQLModel, table=True):
    """An expected minute whose price was not there when it was over. Stays when it is filled: the ledger of what was missed."""

    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        _one_of("reason", Reason),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index("ix_gap_open", "ts", postgresql_where=text("filled_at IS NULL AND given_up_at IS NULL")),
        Index("ix_gap_missing", "ticker", "given_up_at", postgresql_where=text("filled_at IS NULL")),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    reason: Reason = Field(sa_column=Column(Text, nullable=False))
    attempts: int = Field(
        0,
        sa_column=Column(Integer, nullable=False, server_default="0", comment="charts looked through in vain"),
    )
    detected_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )
    filled_at: int | None = Field(
        None, sa_column=Column(BigInteger, comment="when its price was stored after all; UNIX seconds")
    )
    given_up_at: int | None = Field(
        None, sa_column=Column(BigInteger, comment="when no chart could resolve it any more; UNIX seconds")
    )


class Change(SQLModel, table=True):
    """What a transaction altered beside single prices, for readers who keep a copy."""

    __table_args__ = (
        _one_of("kind", ChangeKind),
        Index("ix_change_history", "ticker", "last_id", postgresql_where=text("kind = 'history'")),
    )

    id: int = Field(sa_column=Column(BigInteger, data_version, server_default=data_version.next_value(), primary_key=True))
    kind: ChangeKind = Field(sa_column=Column(Text, nullable=False))
    ticker: str = Field(sa_column=Column(Text, nullable=False))
    from_ts: int | None = Field(None, sa_column=Column(BigInteger, comment="first minute concerned; UNIX seconds"))
    to_ts: int | None = Field(
        None, sa_column=Column(BigInteger, comment="end of the last minute concerned; null: open; UNIX seconds")
    )
    count: int | None = Field(None, sa_column=Column(BigInteger, comment="minutes concerned"))
    first_id: int | None = Field(None, sa_column=Column(BigInteger, comment="history: lowest id of its prices"))
    last_id: int | None = Field(None, sa_column=Column(BigInteger, comment="history: highest id of its prices"))


class Milestone(SQLModel, table=True):
    """The data version of an hour. Of what has an id above the oldest one's, nothing was forgotten."""

    __table_args__ = (
        CheckConstraint(f"at % 3600 = 0 AND at >= 0 AND at < {times.END}", name="at"),
        CheckConstraint("id >= 0", name="id"),
    )

    at: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the hour it was noted in; UNIX seconds")
    )
    id: int = Field(sa_column=Column(BigInteger, nullable=False, comment="the data version then"))


class Epoch(SQLModel, table=True):
    """A stretch of ids that belongs to one history: a restore or a promoted replica begins the next one.

    An id between `forked_at` and `first_id` was given in a history that is lost.
    """

    __table_args__ = (CheckConstraint("forked_at >= 0 AND forked_at < first_id", name="forked_at"),)

    first_id: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="no id of the epoch is lower")
    )
    forked_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, comment="the last id before it that this history holds")
    )
    identity: str = Field(sa_column=Column(Text, nullable=False, comment="cluster, timeline and table that it was begun in"))
    begun_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )


class Reject(SQLModel, table=True):
    """What waited in the outbox and could not be stored: set aside, so that it blocks nothing."""

    __table_args__ = (Index("ix_reject_minute", "ticker", "ts"),)

    id: int | None = Field(None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    ticker: str | None = Field(None, sa_column=Column(Text, comment="null where it cannot be told"))
    ts: int | None = Field(None, sa_column=Column(BigInteger, comment="the minute; null where it cannot be told"))
    entry: str = Field(sa_column=Column(Text, nullable=False, comment="as it waited"))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    set_aside_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )
