"""The settings of the worker and the scheduler."""

import base64
import re
from typing import Annotated, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from db import settings
from db.rows import INVALID_NAME, MAX_PEER_LENGTH, NAME_PATTERN

MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _split_all(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) and value.strip() else value or ()


def parse_peer_url(url: str) -> str:
    """Returns the base URL of a peer. Raises ValueError."""
    if not re.fullmatch(r"https?://[^/@\s?#,\"]+(/[^@\s?#,\"]*)?", url) or len(url) > MAX_PEER_LENGTH:
        raise ValueError("should look like https://b.example.org, without a user and a password")
    return url.rstrip("/").removesuffix("/graphql")


def _normalize_rpc_url(url: str) -> str:
    scheme, separator, rest = url.strip().rstrip("/").removesuffix("/public").rstrip("/").partition("://")
    if not separator:
        scheme, rest = "https", scheme
    if scheme not in ("http", "https") or not re.fullmatch(r"[^/\s]+(/\S*)?", rest):
        raise ValueError("should look like https://www.deribit.com/api/v2")
    return f"{scheme}://{rest if '/' in rest else rest + '/api/v2'}"


def _validate_ws_url(url: str | None) -> str | None:
    if url is not None and not re.fullmatch(r"wss?://[^/\s]+(/\S*)?", url.strip()):
        raise ValueError("should look like wss://www.deribit.com/ws/api/v2")
    return None if url is None else url.strip()


def _deduplicate(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("should name at least one index, like btc_usd,eth_usd")
    return tuple(dict.fromkeys(names))


def parse_index_name(name: str) -> str:
    """Returns the name in the exchange's spelling. Raises ValueError if it is not a valid index name."""
    name = name.strip().lower()
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"{name!r} {INVALID_NAME}")
    return name


Name = Annotated[str, AfterValidator(parse_index_name)]


def _validate_webhook_secret(secret: SecretStr) -> SecretStr:
    try:
        key = base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError("should be `whsec_` and 24 to 64 random bytes in base64: openssl rand -base64 32")
    return secret


WebhookSecret = Annotated[SecretStr, AfterValidator(_validate_webhook_secret)]
PeerUrl = Annotated[str, AfterValidator(parse_peer_url)]


class Settings(settings.Settings):
    """The source of prices, the tickers, timeouts, limits and retention."""

    tickers: Annotated[tuple[Name, ...], NoDecode, BeforeValidator(_split), AfterValidator(_deduplicate)] = Field(
        ("btc_usd", "eth_usd"),
        description="Deribit index names to collect, separated by commas; `all`: every index that Deribit lists, checked daily",
    )
    deribit_rpc_url: Annotated[str, AfterValidator(_normalize_rpc_url)] = Field(
        "https://www.deribit.com/api/v2",
        validation_alias=AliasChoices("deribit_rpc_url", "client_base_url", "base_url"),
        description="URL of Deribit's API; a bare host, a trailing `/` and a trailing `/public` are accepted; "
        "aliases: `CLIENT_BASE_URL`, `BASE_URL`",
    )
    http_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=50,
        validation_alias=AliasChoices("http_timeout_seconds", "timeout"),
        description="total timeout per Deribit call, in seconds; alias: `TIMEOUT`",
    )
    http_connect_timeout_seconds: float = Field(3.0, gt=0, le=50, description="timeout for connecting to Deribit, in seconds")
    http_max_retries: int | None = Field(
        None,
        ge=0,
        description="maximum number of retries of a failed call; if unset, retries end 50 s after the collect began",
    )
    deribit_rate_per_second: float = Field(10.0, gt=0, description="average number of Deribit calls per second")
    deribit_burst: int = Field(50, ge=1, description="maximum number of Deribit calls in a burst")
    deribit_connections: int = Field(
        16, ge=1, le=32, description="maximum number of connections; Deribit allows 32 per IP address"
    )
    stream: bool = Field(
        True,
        description="whether `python -m ingest stream` collects the ticks of each minute from Deribit's WebSocket; `false`: it "
        "ends at once, and minutes have only their price",
    )
    deribit_ws_url: Annotated[str | None, AfterValidator(_validate_ws_url)] = Field(
        None, description="URL of Deribit's WebSocket API; if unset, it is derived from `DERIBIT_RPC_URL`"
    )
    ticks_days: int = Field(
        0,
        ge=0,
        le=7,
        description="number of days to retain single ticks in the table `minute_ticks`; 0: only for the ten minutes in which "
        "the ticks of several stream processes are merged",
    )
    stream_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port on which the stream process serves `/metrics` for Prometheus; disabled if unset"
    )
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port on which workers serve `/metrics` for Prometheus; disabled if unset"
    )
    resume_days: int = Field(7, ge=1, le=3_650, description="number of days back that a client can resume a subscription")
    retention_days: int | None = Field(
        None,
        ge=8,
        le=36_500,
        description="number of days to retain minute prices, at least 8 and more than RESUME_DAYS; older ones are deleted "
        "permanently, their hour and day candles stay; only `python -m db forget` deletes more than two days at once; "
        "if unset, nothing is deleted",
    )
    outbox_most: int = Field(
        500_000,
        ge=1_000,
        description="maximum number of prices in the outbox in Redis, about 250 bytes each; workers log an error from 10 % on. "
        "In addition, one minute of ticks for every 50 prices, about 2,500 bytes each",
    )

    peers: Annotated[tuple[PeerUrl, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="URLs of other Tickgraphs that collect on their own, separated by commas: `https://b.example.org`. A gap "
        "is filled first with a peer's live price; each day is compared with them",
    )
    peer_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_all)] = Field(
        (),
        description="API keys for PEERS, separated by commas, in the same order; empty for a peer without keys: `key-of-b,`",
    )
    webhook_secrets: Annotated[tuple[WebhookSecret, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="secrets that sign the webhooks of alerts (Standard Webhooks), like `whsec_…`, separated by commas; with "
        "two, each webhook has two signatures, so that receivers can change from one to the other",
    )
    webhook_private_addresses: bool = Field(
        False, description="allow webhooks to addresses that are not public, such as those of the same network"
    )

    @model_validator(mode="after")
    def _require_key_of_each_peer(self) -> Self:
        if self.peer_keys and len(self.peer_keys) != len(self.peers):
            raise ValueError(f"PEER_KEYS has {len(self.peer_keys)} keys, but PEERS has {len(self.peers)} URLs")
        return self

    @model_validator(mode="after")
    def _require_retention_beyond_resume(self) -> Self:
        if self.retention_days is not None and self.retention_days <= self.resume_days:
            raise ValueError(f"RETENTION_DAYS={self.retention_days} should be more than RESUME_DAYS={self.resume_days}")
        return self
