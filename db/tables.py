"""Tables and the constraints of their rows. Alembic reads the metadata; a CHECK repeats each validation rule.

A SQLModel class with `table=True` does not validate. External data must pass `db.rows.PriceRow.model_validate`.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Sequence,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from db import times
from db.rows import (
    MAX_PRICE,
    MAX_PRICE_DECIMALS,
    NAME_PATTERN,
    AlertDirection,
    AlertFormat,
    AlertKind,
    ChangeKind,
    DeliveryBasis,
    Reason,
    Source,
)

metadata = SQLModel.metadata
metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}

data_version = Sequence("data_version", metadata=metadata, data_type=BigInteger)
"""Provides the ids of all rows that change query results. Ids follow the order of commits."""

_NOW = text("extract(epoch FROM now())::bigint")
_IS_MINUTE = "{0} % 60 = 0 AND {0} >= 0 AND {0} < " + str(times.END)


def _enum_check(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _version_column(comment: str | None = None) -> Column[int]:
    return Column(BigInteger, data_version, server_default=data_version.next_value(), nullable=False, comment=comment)


class Ticker(SQLModel, table=True):
    """A known index: currently or formerly tracked, or imported."""

    __table_args__ = (
        CheckConstraint(f"name ~ '{NAME_PATTERN}'", name="name"),
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
    horizon_id: int | None = Field(None, sa_column=Column(BigInteger, comment="the data version that set the horizon"))


class Tracking(SQLModel, table=True):
    """A period in which a ticker is collected every minute."""

    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("since"), name="since"),
        CheckConstraint(_IS_MINUTE.format("until"), name="until"),
        CheckConstraint("until > since", name="until_after_since"),
        Index("uq_tracking_open", "ticker", unique=True, postgresql_where=text("until IS NULL")),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    since: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="first tracked minute; UNIX seconds")
    )
    until: int | None = Field(
        None,
        sa_column=Column(BigInteger, comment="end of the last tracked minute; null while tracked; UNIX seconds"),
    )
    id: int = Field(sa_column=_version_column("the data version that created the row"))


class ImportPeriod(SQLModel, table=True):
    """A period that an import covers. Its minutes are expected, like those of a tracking period."""

    __tablename__ = "import_period"
    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("since"), name="since"),
        CheckConstraint(f"until % 60 = 0 AND until > since AND until <= {times.END}", name="until"),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name", ondelete="CASCADE"), primary_key=True))
    since: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="first imported minute; UNIX seconds")
    )
    until: int = Field(sa_column=Column(BigInteger, nullable=False, comment="end of the last imported minute; UNIX seconds"))
    id: int = Field(sa_column=_version_column("the data version that created the row"))


class Price(SQLModel, table=True):
    """The index price of a ticker in a minute. The first stored value is never overwritten."""

    __table_args__ = (
        UniqueConstraint("id"),
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        CheckConstraint(f"price > 0 AND price < {MAX_PRICE}", name="price"),  # NaN and Infinity exceed any number
        CheckConstraint(f"scale(price) = min_scale(price) AND scale(price) <= {MAX_PRICE_DECIMALS}", name="price_normal"),
        CheckConstraint("observed_at >= ts * 1000000 AND observed_at < (ts + 60) * 1000000", name="observed_at"),
        _enum_check("source", Source),
        CheckConstraint("(source = 'PEER') = (peer IS NOT NULL)", name="peer"),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    id: int = Field(sa_column=_version_column())
    price: Decimal = Field(sa_column=Column(Numeric, nullable=False, comment="quote currency, no trailing zeros"))
    observed_at: int | None = Field(
        None,
        sa_column=Column(BigInteger, comment="timestamp of the exchange; UNIX microseconds, inside the minute"),
    )
    source: Source = Field(sa_column=Column(Text, nullable=False))
    original_source: Source | None = Field(
        None,
        sa_column=Column(
            # An enum type, because a CHECK of a new column would read the whole table under a lock.
            Enum(Source, name="price_source"),
            comment="source in the Tickgraph that exported an imported price",
        ),
    )
    peer: str | None = Field(None, sa_column=Column(Text, comment="URL of the peer; null unless the source is PEER"))


class MinuteRange(SQLModel, table=True):
    """What the index did within a minute, from the ticks of the exchange. A merge of further ticks replaces it."""

    __tablename__ = "minute_range"
    __table_args__ = (
        UniqueConstraint("id"),
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        CheckConstraint(f"low > 0 AND high < {MAX_PRICE}", name="prices"),
        CheckConstraint("low <= least(open, close, twap) AND high >= greatest(open, close, twap)", name="order"),
        CheckConstraint("opened_ms >= 0 AND closed_ms >= opened_ms AND closed_ms < 60000", name="instants"),
        CheckConstraint("ticks > 0", name="ticks"),
        CheckConstraint("watched_s >= 0 AND watched_s <= 60", name="watched_s"),
        CheckConstraint("longest_silence_ms >= 0 AND longest_silence_ms <= 60000", name="longest_silence_ms"),
        CheckConstraint(
            "num_nulls(twap, ticks, watched_s, longest_silence_ms) = CASE source WHEN 'IMPORT' THEN 4 ELSE 0 END",
            name="watched",
        ),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    id: int = Field(sa_column=_version_column())
    open: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    high: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    low: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    close: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    opened_ms: int = Field(
        sa_column=Column(Integer, nullable=False, comment="when the open was published; milliseconds of the minute")
    )
    closed_ms: int = Field(
        sa_column=Column(Integer, nullable=False, comment="when the close was published; milliseconds of the minute")
    )
    twap: Decimal | None = Field(None, sa_column=Column(Numeric, comment="mean price, weighted by time; null if imported"))
    ticks: int | None = Field(None, sa_column=Column(Integer, comment="number of ticks; null if imported"))
    watched_s: int | None = Field(
        None, sa_column=Column(SmallInteger, comment="seconds that ticks cover; 60: watched completely; null if imported")
    )
    longest_silence_ms: int | None = Field(
        None, sa_column=Column(Integer, comment="longest time without a tick; null if imported")
    )
    source: Source = Field(sa_column=Column(Enum(Source, name="price_source"), nullable=False))


class MinuteTicks(SQLModel, table=True):
    """The ticks of a minute, while what another process saw may be merged into it, or for TICKS_DAYS."""

    __tablename__ = "minute_ticks"
    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        Index("ix_minute_ticks_stored_at", "stored_at"),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    ticks: str = Field(
        sa_column=Column(
            Text, nullable=False, comment="JSON list of [milliseconds of the minute, price, arrival in UNIX microseconds]"
        )
    )
    stored_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )


class DeliveryPrice(SQLModel, table=True):
    """The exchange's delivery price of a day, and the mean of our own data over the 30 minutes before."""

    __tablename__ = "delivery_price"
    __table_args__ = (
        CheckConstraint(f"ts % 86400 = 28800 AND ts >= 0 AND ts < {times.END}", name="ts"),
        CheckConstraint(f"price > 0 AND price < {MAX_PRICE}", name="price"),
        CheckConstraint(f"mean > 0 AND mean < {MAX_PRICE}", name="mean"),
        _enum_check("basis", DeliveryBasis),
        CheckConstraint("(mean IS NULL) = (basis IS NULL)", name="mean_basis"),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name", ondelete="CASCADE"), primary_key=True))
    ts: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="08:00 UTC of the day; UNIX seconds")
    )
    price: Decimal = Field(sa_column=Column(Numeric, nullable=False, comment="as the exchange published it"))
    mean: Decimal | None = Field(
        None, sa_column=Column(Numeric, comment="of the 30 minutes before, from our own data; null if they are not known")
    )
    basis: DeliveryBasis | None = Field(
        None, sa_column=Column(Text, comment="what the mean was computed from; null without a mean")
    )


class DeliveryEstimate(SQLModel, table=True):
    """The exchange's estimate of the next delivery price in a minute in which it differed from the index price."""

    __tablename__ = "delivery_estimate"
    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        CheckConstraint(f"price > 0 AND price < {MAX_PRICE}", name="price"),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name", ondelete="CASCADE"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    price: Decimal = Field(
        sa_column=Column(Numeric, nullable=False, comment="the exchange's estimate with the price of the minute")
    )


class PeerComparison(SQLModel, table=True):
    """What a day of a ticker has in common with a peer, another Tickgraph that collects on its own."""

    __tablename__ = "peer_comparison"
    __table_args__ = (
        CheckConstraint("day % 86400 = 0 AND day >= 0", name="day"),
        CheckConstraint("shared >= 0 AND only_here >= 0 AND only_there >= 0", name="counts"),
    )

    peer: str = Field(sa_column=Column(Text, primary_key=True, comment="URL of the peer"))
    day: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="UTC day; UNIX seconds"))
    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name", ondelete="CASCADE"), primary_key=True))
    shared: int = Field(sa_column=Column(Integer, nullable=False, comment="minutes that both have"))
    only_here: int = Field(sa_column=Column(Integer, nullable=False, comment="minutes that the peer lacks"))
    only_there: int = Field(sa_column=Column(Integer, nullable=False, comment="live minutes of the peer that are missing here"))
    median_bps: Decimal | None = Field(
        None, sa_column=Column(Numeric, comment="median difference of live prices of the same minute; basis points")
    )
    max_bps: Decimal | None = Field(
        None, sa_column=Column(Numeric, comment="largest such difference; null if no minute is live on both sides")
    )
    max_ts: int | None = Field(None, sa_column=Column(BigInteger, comment="its minute; UNIX seconds"))


class Digest(SQLModel, table=True):
    """The digest of a ticker's day, an entry of a hash chain. A digest that changes is appended again."""

    __table_args__ = (
        CheckConstraint("number > 0", name="number"),
        CheckConstraint("day % 86400 = 0 AND day >= 0", name="day"),
        CheckConstraint("minutes > 0 AND minutes <= 1440", name="minutes"),
        CheckConstraint(
            "octet_length(sha256) = 32 AND octet_length(chain) = 32 AND octet_length(checks) = 1440", name="lengths"
        ),
        Index("ix_digest_day", "ticker", "day", "number"),
    )

    number: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="position in the chain, from 1")
    )
    ticker: str = Field(sa_column=Column(Text, nullable=False))
    day: int = Field(sa_column=Column(BigInteger, nullable=False, comment="UTC day; UNIX seconds"))
    sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False, comment="of the day file"))
    minutes: int = Field(sa_column=Column(Integer, nullable=False, comment="stored minutes"))
    as_of: int = Field(sa_column=Column(BigInteger, nullable=False, comment="data version that the digest was computed from"))
    checks: bytes = Field(
        sa_column=Column(LargeBinary, nullable=False, comment="a byte for each minute, to find a minute that differs")
    )
    chain: bytes = Field(sa_column=Column(LargeBinary, nullable=False, comment="SHA-256 of the previous chain and of this row"))


class DigestProgress(SQLModel, table=True):
    """How far the digests are computed; one row."""

    __tablename__ = "digest_progress"
    __table_args__ = (
        CheckConstraint("id = 1", name="id"),
        CheckConstraint("closed_until % 86400 = 0", name="closed_until"),
    )

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    position: int = Field(
        sa_column=Column(
            BigInteger, nullable=False, comment="all changes up to this id are in the digests of the days that are over"
        )
    )
    closed_until: int = Field(sa_column=Column(BigInteger, nullable=False, comment="days before it have digests; UNIX seconds"))


class Candle(SQLModel, table=True):
    """A candle of an hour or a day. A trigger on `price` computes hours from minutes and days from hours."""

    __table_args__ = (
        CheckConstraint("span IN (3600, 86400)", name="span"),
        CheckConstraint(f"ts % span = 0 AND ts >= 0 AND ts < {times.END}", name="ts"),
        CheckConstraint("low <= least(open, close) AND high >= greatest(open, close)", name="prices"),
        CheckConstraint("count > 0 AND count <= span / 60", name="count"),
        CheckConstraint("ranged >= 0 AND ranged <= count AND watched >= 0 AND watched <= ranged", name="ranged"),
        CheckConstraint(
            "num_nulls(range_open, range_high, range_low, range_close, range_sum) = CASE WHEN ranged = 0 THEN 5 ELSE 0 END "
            "AND range_low <= least(low, range_open, range_close) AND range_high >= greatest(high, range_open, range_close)",
            name="range_prices",
        ),
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
    range_open: Decimal | None = Field(
        None, sa_column=Column(Numeric, comment="of prices and ranges, like the following ones; null without a range")
    )
    range_high: Decimal | None = Field(None, sa_column=Column(Numeric))
    range_low: Decimal | None = Field(None, sa_column=Column(Numeric))
    range_close: Decimal | None = Field(None, sa_column=Column(Numeric))
    range_sum: Decimal | None = Field(
        None, sa_column=Column(Numeric, comment="of the mean of each stored minute, or its price if it has no range")
    )
    ranged: int = Field(
        0, sa_column=Column(Integer, nullable=False, server_default="0", comment="stored minutes that have a range")
    )
    watched: int = Field(
        0, sa_column=Column(Integer, nullable=False, server_default="0", comment="stored minutes that were watched completely")
    )
    last_id: int | None = Field(
        None, sa_column=Column(BigInteger, comment="the newest id of its prices and ranges; null if unknown")
    )


class Gap(SQLModel, table=True):
    """An expected minute without a price when the minute ended. The row remains after a backfill, with `filled_at`."""

    __table_args__ = (
        CheckConstraint(_IS_MINUTE.format("ts"), name="ts"),
        _enum_check("reason", Reason),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index("ix_gap_open", "ts", postgresql_where=text("filled_at IS NULL AND given_up_at IS NULL")),
        Index("ix_gap_missing", "ticker", "given_up_at", postgresql_where=text("filled_at IS NULL")),
    )

    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), primary_key=True))
    ts: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the minute; UNIX seconds"))
    reason: Reason = Field(sa_column=Column(Text, nullable=False))
    attempts: int = Field(
        0,
        sa_column=Column(Integer, nullable=False, server_default="0", comment="backfill attempts that found no price"),
    )
    detected_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )
    filled_at: int | None = Field(None, sa_column=Column(BigInteger, comment="when its price was stored; UNIX seconds"))
    given_up_at: int | None = Field(
        None, sa_column=Column(BigInteger, comment="when the charts became too coarse for it; UNIX seconds")
    )
    id: int = Field(sa_column=_version_column("the data version that created the row"))


class PastRow(SQLModel, table=True):
    """A previous version of a row that a later commit changed or deleted, for queries as of an earlier id."""

    __tablename__ = "past_row"
    __table_args__ = (
        CheckConstraint("kind IN ('minute_range', 'gap', 'tracking', 'import_period')", name="kind"),
        CheckConstraint("id < until_id", name="until_id"),
    )

    kind: str = Field(sa_column=Column(Text, primary_key=True, comment="the table"))
    ticker: str = Field(sa_column=Column(Text, primary_key=True))
    ts: int = Field(
        sa_column=Column(
            BigInteger, primary_key=True, autoincrement=False, comment="the minute, or the first one of a period; UNIX seconds"
        )
    )
    until_id: int = Field(
        sa_column=Column(
            BigInteger, primary_key=True, autoincrement=False, comment="the data version that replaced or deleted the row"
        )
    )
    id: int = Field(sa_column=Column(BigInteger, nullable=False, comment="the data version that created the row"))
    content: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, comment="the other columns"))


class VersionTime(SQLModel, table=True):
    """The minute of a commit. A data version was committed in the minute of the last row at or below it."""

    __tablename__ = "version_time"
    __table_args__ = (CheckConstraint(_IS_MINUTE.format("at"), name="at"),)

    id: int = Field(
        sa_column=Column(
            BigInteger, primary_key=True, autoincrement=False, comment="the data version of the first commit of a minute"
        )
    )
    at: int = Field(sa_column=Column(BigInteger, nullable=False, comment="that minute, by the database's clock; UNIX seconds"))


class Change(SQLModel, table=True):
    """A change event of a transaction, for clients that maintain a copy of the data."""

    __table_args__ = (
        _enum_check("kind", ChangeKind),
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
    """The data version at an hour. Events with an id above that of the oldest milestone are still available."""

    __table_args__ = (
        CheckConstraint(f"at % 3600 = 0 AND at >= 0 AND at < {times.END}", name="at"),
        CheckConstraint("id >= 0", name="id"),
    )

    at: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="the hour of the record; UNIX seconds")
    )
    id: int = Field(sa_column=Column(BigInteger, nullable=False, comment="the data version at that hour"))


class Epoch(SQLModel, table=True):
    """A range of ids that belongs to one history. A restore or the promotion of a replica begins the next epoch.

    If a client knows an id between `forked_at` and `first_id`, the id was assigned in a history that is lost.
    """

    __table_args__ = (CheckConstraint("forked_at >= 0 AND forked_at < first_id", name="forked_at"),)

    first_id: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, comment="no id of the epoch is lower")
    )
    forked_at: int = Field(sa_column=Column(BigInteger, nullable=False, comment="the last earlier id of this history"))
    identity: str = Field(
        sa_column=Column(Text, nullable=False, comment="cluster, timeline and table in which the epoch began")
    )
    begun_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )


class Reject(SQLModel, table=True):
    """An outbox entry that could not be stored. It is moved here so that it does not block other entries."""

    __table_args__ = (Index("ix_reject_minute", "ticker", "ts"),)

    id: int | None = Field(None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    ticker: str | None = Field(None, sa_column=Column(Text, comment="null if unknown"))
    ts: int | None = Field(None, sa_column=Column(BigInteger, comment="the minute; null if unknown; UNIX seconds"))
    entry: str = Field(sa_column=Column(Text, nullable=False, comment="the outbox entry"))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    set_aside_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )


class Alert(SQLModel, table=True):
    """A rule, and what the worker knows of its ticker. When the rule holds, a webhook is delivered once."""

    __table_args__ = (
        _enum_check("kind", AlertKind),
        _enum_check("direction", AlertDirection),
        _enum_check("format", AlertFormat),
        CheckConstraint("(level IS NOT NULL) = (kind = 'CROSSES')", name="level"),
        CheckConstraint("(percent IS NOT NULL) = (kind IN ('MOVES', 'DELIVERY_DIFFERS')) AND percent > 0", name="percent"),
        CheckConstraint(
            "(minutes IS NOT NULL) = (kind NOT IN ('CROSSES', 'DELIVERY_DIFFERS')) AND minutes BETWEEN 1 AND 10080",
            name="minutes",
        ),
        CheckConstraint("hysteresis >= 0", name="hysteresis"),
    )

    id: int | None = Field(None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    kind: AlertKind = Field(sa_column=Column(Text, nullable=False))
    ticker: str = Field(sa_column=Column(Text, ForeignKey("ticker.name"), nullable=False))
    level: Decimal | None = Field(None, sa_column=Column(Numeric))
    hysteresis: Decimal = Field(
        sa_column=Column(
            Numeric, nullable=False, server_default="0", comment="distance from the level at which it can be crossed again"
        )
    )
    direction: AlertDirection = Field(sa_column=Column(Text, nullable=False, server_default="EITHER"))
    percent: Decimal | None = Field(None, sa_column=Column(Numeric))
    minutes: int | None = Field(None, sa_column=Column(Integer))
    url: str = Field(sa_column=Column(Text, nullable=False, comment="of the webhook; may contain a secret"))
    format: AlertFormat = Field(sa_column=Column(Text, nullable=False, server_default="STANDARD"))
    muted: bool = Field(sa_column=Column(Boolean, nullable=False, server_default="false"))
    created_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )
    state: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, comment="what was decided last"))


class AlertDelivery(SQLModel, table=True):
    """A webhook to deliver, or delivered. The receiver recognizes a repeated one by its id."""

    __tablename__ = "alert_delivery"
    __table_args__ = (
        Index(
            "ix_alert_delivery_due",
            "next_attempt_at",
            postgresql_where=text("delivered_at IS NULL AND failed_at IS NULL"),
        ),
        Index("ix_alert_delivery_alert", "alert_id", "number"),
        Index("ix_alert_delivery_failed", "failed_at", postgresql_where=text("failed_at IS NOT NULL")),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    number: int | None = Field(
        None, sa_column=Column(BigInteger, Identity(always=True), nullable=False, comment="order of the decisions")
    )
    alert_id: int = Field(sa_column=Column(BigInteger, ForeignKey("alert.id", ondelete="CASCADE"), nullable=False))
    event: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, comment="what happened"))
    created_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )
    attempts: int = Field(0, sa_column=Column(Integer, nullable=False, server_default="0"))
    next_attempt_at: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=_NOW, comment="by the database's clock; UNIX seconds")
    )
    delivered_at: int | None = Field(None, sa_column=Column(BigInteger, comment="UNIX seconds"))
    failed_at: int | None = Field(None, sa_column=Column(BigInteger, comment="after the last attempt; UNIX seconds"))
    error: str | None = Field(None, sa_column=Column(Text, comment="of the last attempt"))


class AlertProgress(SQLModel, table=True):
    """One row: up to which commit alerts are decided. Workers lock it, so one of them decides at a time."""

    __tablename__ = "alert_progress"
    __table_args__ = (CheckConstraint("id = 1", name="id"),)

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    position: int = Field(sa_column=Column(BigInteger, nullable=False, comment="all commits up to this id are decided"))


class WorkerReport(SQLModel, table=True):
    """One row: what the workers reported of themselves in the last minute in which one ran."""

    __tablename__ = "worker_report"
    __table_args__ = (
        CheckConstraint("id = 1", name="id"),
        CheckConstraint(
            "workers >= 0 AND queued_prices >= 0 AND queued_ticks >= 0 AND connected_streams BETWEEN 0 AND streams",
            name="counts",
        ),
    )

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    at: int = Field(sa_column=Column(BigInteger, nullable=False, comment="by the database's clock; UNIX seconds"))
    workers: int = Field(sa_column=Column(Integer, nullable=False, comment="hosts with a running worker"))
    queued_prices: int = Field(sa_column=Column(Integer, nullable=False, comment="prices in the outbox"))
    queued_ticks: int = Field(sa_column=Column(Integer, nullable=False, comment="minutes of ticks in the outbox"))
    clock_skew_s: float | None = Field(
        None, sa_column=Column(Double, comment="a worker's clock minus the exchange's, in seconds; null: never measured")
    )
    streams: int = Field(sa_column=Column(Integer, nullable=False, comment="running stream processes"))
    connected_streams: int = Field(sa_column=Column(Integer, nullable=False))
    newest_tick_at: float | None = Field(
        None, sa_column=Column(Double, comment="the exchange's timestamp of the newest tick; UNIX seconds")
    )
    failing_jobs: list[str] = Field(
        sa_column=Column(ARRAY(Text), nullable=False, comment="names of jobs whose last run failed")
    )
