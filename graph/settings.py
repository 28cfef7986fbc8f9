"""Settings of the API process, in addition to those of the database."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from db import settings
from db.settings import PostgresUrl


def _split_commas(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _normalize_root_path(value: object) -> object:
    if not isinstance(value, str) or not value.strip("/"):
        return ""
    if not re.fullmatch(r"/?[A-Za-z0-9._~/-]+", value):
        raise ValueError("should be a path such as /prices-api")
    return "/" + value.strip("/")


def _validate_digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text.lower()):
        raise ValueError("should be SHA-256 digests of keys, 64 hexadecimal digits each, not keys: see `python -m graph key`")
    return text.lower()


def _validate_ascii(token: SecretStr) -> SecretStr:
    if not token.get_secret_value().isascii():
        raise ValueError("should be ASCII, because clients send it in an HTTP header")
    return token


Digest = Annotated[str, AfterValidator(_validate_digest)]


class Settings(settings.Settings):
    """Settings of the API process."""

    host: str = Field("127.0.0.1", description="listen address of the API")
    port: int = Field(8000, ge=1, le=65535, description="listen port of the API")
    api_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of the API's `/metrics` for Prometheus; disabled if unset"
    )
    web_concurrency: int = Field(1, ge=1, description="API processes that `python -m graph serve` starts")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (), description="allowed CORS origins, separated by commas, or `*`; default: same origin only"
    )
    admin_token: Annotated[SecretStr, AfterValidator(_validate_ascii)] | None = Field(
        None, description="token for fetch requests, as `Authorization: Bearer …`; if unset, every client may request a fetch"
    )
    database_read_url: PostgresUrl | None = Field(
        None,
        description="a streaming replica that the API reads from while its lag is below `REPLICA_BEHIND_MOST_S`; one server, "
        "not several behind one address. If unset, the API reads from the primary",
    )
    database_listen_url: PostgresUrl | None = Field(
        None,
        description="direct address of the primary for `LISTEN`, if `DATABASE_URL` is a pooler in transaction mode, which "
        "forwards no notifications; default: `DATABASE_URL`",
    )
    replica_behind_most_s: float = Field(5.0, ge=4, description="maximum staleness of a read from the replica, in seconds")

    api_keys: Annotated[tuple[Digest, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (),
        description="SHA-256 digests, in hex, of the accepted API keys, separated by commas; list both keys during a "
        "rotation. If unset, no key is required. `python -m graph key` generates a key",
    )
    introspection: bool = Field(True, description="allow schema introspection; if false, errors also suggest no names")
    trusted_documents: Path | None = Field(
        None,
        description="JSON file with the only documents that are executed: `persisted-documents.json` of graphql-codegen, or an "
        "Apollo manifest",
    )
    federation: bool = Field(
        False,
        description="serve the schema as an Apollo Federation subgraph: with the fields that a gateway asks for, one of which "
        "returns the schema, also with `INTROSPECTION=false`",
    )
    graphiql: bool = Field(True, description="serve GraphiQL to browsers")
    max_in_flight: int = Field(256, ge=1, description="maximum concurrent requests of an API process; further requests get 503")
    max_in_flight_per_client: int = Field(64, ge=1, description="maximum concurrent requests of one client address")
    max_sockets: int = Field(
        10_000,
        ge=1,
        description="maximum open WebSockets, event streams and downloads of an API process, and maximum subscriptions over "
        "WebSocket; further ones get 503",
    )
    max_sockets_per_client: int = Field(
        1_000, ge=1, description="the same maximums for one client address; further ones get 429"
    )
    request_timeout_s: float = Field(15.0, gt=0, description="request timeout in seconds, from the end of the request headers")
    answer_cache_mb: int = Field(64, ge=0, description="size of an API process's response cache in megabytes; 0 disables it")
    rate_limit: int | None = Field(
        None,
        ge=1,
        description="cost limit per minute for one key or address, over all API processes; no limit if unset",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (),
        description="addresses or networks of proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are trusted, separated by "
        "commas",
    )

    root_path: Annotated[str, BeforeValidator(_normalize_root_path)] = Field(
        "",
        description="path under which a proxy serves the API, such as `/prices-api`; links and the server URLs of the OpenAPI "
        "document start with it",
    )

    @property
    def rate_limit_per_process(self) -> int | None:
        """The share of RATE_LIMIT that each API process enforces; None without a limit."""
        return None if self.rate_limit is None else max(1, self.rate_limit // self.web_concurrency)

    @property
    def url(self) -> str:
        """The URL of the API on this machine."""
        return f"http://{settings.bracket_ipv6(self.reachable_host)}:{self.port}"

    @property
    def reachable_host(self) -> str:
        """The address under which this machine reaches a server on HOST."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
