"""What the worker and the scheduler need to know beside the servers."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from db import settings
from db.tables import IS_NO_NAME, NAME


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _rpc_url(url: str) -> str:
    scheme, separator, rest = url.strip().rstrip("/").removesuffix("/public").rstrip("/").partition("://")
    if not separator:
        scheme, rest = "https", scheme
    if scheme not in ("http", "https") or not re.fullmatch(r"[^/\s]+(/\S*)?", rest):
        raise ValueError("should look like https://www.deribit.com/api/v2")
    return f"{scheme}://{rest if '/' in rest else rest + '/api/v2'}"


def _without_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("should name at least one index, like btc_usd,eth_usd")
    return tuple(dict.fromkeys(names))


def index_name(name: str) -> str:
    """The name as the exchange spells it, if it could be an index's; ValueError otherwise."""
    name = name.strip().lower()
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} {IS_NO_NAME}")
    return name


Name = Annotated[str, AfterValidator(index_name)]


class Settings(settings.Settings):
    """Where prices come from, which ones, and how patiently they are asked for."""

    tickers: Annotated[tuple[Name, ...], NoDecode, BeforeValidator(_split), AfterValidator(_without_repeats)] = Field(
        ("btc_usd", "eth_usd"),
        description="Deribit index names to collect, separated by commas; `all`: whatever it lists, looked up daily",
    )
    deribit_rpc_url: Annotated[str, AfterValidator(_rpc_url)] = Field(
        "https://www.deribit.com/api/v2",
        validation_alias=AliasChoices("deribit_rpc_url", "client_base_url", "base_url"),
        description="where Deribit's API is: bare host, trailing `/` and trailing `/public` are understood; "
        "`CLIENT_BASE_URL` and `BASE_URL` are other names of it",
    )
    http_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=50,
        validation_alias=AliasChoices("http_timeout_seconds", "timeout"),
        description="for one call to Deribit as a whole, in seconds; `TIMEOUT` is another name of it",
    )
    http_connect_timeout_seconds: float = Field(3.0, gt=0, le=50, description="for its connection alone, in seconds")
    http_max_retries: int | None = Field(
        None,
        ge=0,
        description="most times a failed call is repeated; not set: until the minute's 50 s are over",
    )
    deribit_rate_per_second: float = Field(10.0, gt=0, description="calls to Deribit a second, on average")
    deribit_burst: int = Field(50, ge=1, description="calls to Deribit that may go out at once")
    deribit_connections: int = Field(16, ge=1, le=32, description="connections to Deribit; it allows 32 an address")
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port on which workers serve `/metrics` for Prometheus; none where not set"
    )
    resume_days: int = Field(
        7, ge=1, le=3_650, description="days for which readers who were away find what changed meanwhile, by its id"
    )
    retention_days: int | None = Field(
        None,
        ge=8,
        le=36_500,
        description="days for which minutes are kept, 8 at least and more than RESUME_DAYS; older ones go for good, their "
        "hours and days stay for ever, as candles; more than two days at once only by `python -m db forget`. For ever where "
        "not set",
    )
    outbox_most: int = Field(
        500_000,
        ge=1_000,
        description="prices that may wait in Redis for PostgreSQL, some 250 bytes each; workers say so loudly from a tenth on",
    )

    @model_validator(mode="after")
    def _readers_resume_what_is_kept(self) -> Self:
        if self.retention_days is not None and self.retention_days <= self.resume_days:
            raise ValueError(f"RETENTION_DAYS={self.retention_days} should be more than RESUME_DAYS={self.resume_days}")
        return self
