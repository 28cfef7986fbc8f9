"""What the API needs to know beside the database."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from db import settings
from db.settings import PostgresUrl


def _split(value: object) -> object:
    return [origin.strip() for origin in value.split(",") if origin.strip()] if isinstance(value, str) else value


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text.lower()):
        raise ValueError("should be SHA-256 digests of keys, 64 hexadecimal digits each, not keys: see `python -m graph key`")
    return text.lower()


def _ascii(token: SecretStr) -> SecretStr:
    if not token.get_secret_value().isascii():
        raise ValueError("should be ASCII: that is all that an HTTP header carries")
    return token


Digest = Annotated[str, AfterValidator(_digest)]


class Settings(settings.Settings):
    """Where it listens, and for whom."""

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=1, le=65535, description="port that the API listens on")
    api_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port on which the API serves `/metrics` for Prometheus; none where not set"
    )
    web_concurrency: int = Field(1, ge=1, description="API processes that `python -m graph serve` starts")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="origins whose pages may call the API, separated by commas, or `*`; none but its own by default"
    )
    admin_token: Annotated[SecretStr, AfterValidator(_ascii)] | None = Field(
        None, description="where set, asking for a fetch needs it as `Authorization: Bearer …`; open to all otherwise"
    )
    database_read_url: PostgresUrl | None = Field(
        None,
        description="a streaming replica of the database that answers are read from while it is near; one server, not several "
        "behind an address. Not set: the database itself",
    )
    database_listen_url: PostgresUrl | None = Field(
        None,
        description="the database itself, past a pooler in transaction mode, which passes no notifications on; not set: "
        "`DATABASE_URL`",
    )
    replica_behind_most_s: float = Field(
        5.0, ge=4, description="an answer holds everything that was committed this many seconds before it was asked for"
    )

    api_keys: Annotated[tuple[Digest, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="SHA-256 digests, in hex, of the keys that may read, separated by commas: list two to change one. Open to "
        "all where not set; `python -m graph key` draws one",
    )
    introspection: bool = Field(True, description="whether the schema can be asked for; where not, no error suggests a name")
    graphiql: bool = Field(True, description="whether a browser gets GraphiQL")
    max_in_flight: int = Field(256, ge=1, description="requests that an API process answers at once; the others get 503")
    max_in_flight_per_client: int = Field(64, ge=1, description="the same of one address")
    max_sockets: int = Field(
        10_000, ge=1, description="WebSockets and event streams that an API process keeps at once; the others get 503"
    )
    max_sockets_per_client: int = Field(1_000, ge=1, description="the same of one address")
    request_timeout_s: float = Field(15.0, gt=0, description="seconds that a request may take, from the end of its head on")
    answer_cache_mb: int = Field(
        64, ge=0, description="megabytes of answers that an API process keeps until the next commit; 0: none"
    )
    rate_limit: int | None = Field(
        None,
        ge=1,
        description="cost that one key or address may spend a minute, over all API processes; no bound where not set",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="addresses or networks of proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are believed, separated by "
        "commas",
    )

    @property
    def rate_limit_of_process(self) -> int | None:
        """The part of RATE_LIMIT that one API process lets through."""
        return None if self.rate_limit is None else max(1, self.rate_limit // self.web_concurrency)

    @property
    def url(self) -> str:
        """Where a person on this machine finds the API."""
        return f"http://{settings.in_brackets(self.reachable_host)}:{self.port}"

    @property
    def reachable_host(self) -> str:
        """The address by which this machine reaches what listens on HOST."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
