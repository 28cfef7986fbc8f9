"""Settings that all processes share. Environment variables override `.env`."""

import difflib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db import connection_url

_REDIS_SCHEMES = ("redis", "rediss", "unix")
IGNORED_SETTINGS: Final = {
    "CELERY_RESULT_BACKEND": "results are not stored; see `python -m ingest status`",
    "RESULT_BACKEND": "results are not stored; see `python -m ingest status`",
    "REDIS_CELERY_BROKER_DB": "set BROKER_URL, which ends with the database number",
    "FETCH_INTERVAL": "prices are collected every minute",
    "API_VERSION": "each path is served with and without /v1",
    "ENABLE_EXCEPTION_LOGGING": "errors are always logged",
}
"""Settings of other trackers (docs/moving.md) that have no effect, each with a hint."""
ALIASES: Final = {"BASE_URL": "DERIBIT_RPC_URL", "TIMEOUT": "HTTP_TIMEOUT_SECONDS", "CELERY_BROKER_URL": "BROKER_URL"}
"""Accepted setting names of other trackers (docs/moving.md). Their use is reported, because the names are ambiguous."""
MIN_TYPO_SIMILARITY: Final = 0.88
"""Minimum similarity (0 to 1) of an unknown name to a setting for a typo suggestion."""


def _postgres_url(url: str) -> str:
    connection_url.parse(url)
    return f"postgresql://{url.strip().partition('://')[2]}"


def _redis_url(url: str) -> str:
    scheme, separator, rest = url.strip().partition("://")
    if scheme == "redis+sentinel":
        raise ValueError("names Sentinels, which are not supported. Use the URL of the primary, or of a proxy that follows it")
    if not separator or scheme not in _REDIS_SCHEMES:
        raise ValueError("should look like redis://:password@host:6379/0")
    if scheme == "unix":
        return url.strip()
    userinfo, rest = connection_url.split_user(rest)
    hosts, _, database = rest.partition("?")[0].partition("/")
    connection_url.require_valid_ports(hosts)
    if database and not database.isdecimal():
        raise ValueError("should end with the number of a database, like /0")
    user, colon, password = userinfo.partition(":")
    quoted = ":".join(quote(part, safe="%") for part in (user, password)[: 1 + bool(colon)])
    return f"{scheme}://{quoted}{'@' if userinfo else ''}{rest}"


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class Settings(BaseSettings):
    """Settings of every process: PostgreSQL, Redis, logging and the data folder."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True, populate_by_name=True
    )

    database_url: PostgresUrl | None = Field(
        None,
        description="connection URL of PostgreSQL, `postgresql://user:password@host:5432/name` with parameters of libpq; "
        "takes precedence over the `POSTGRES_…` settings. If neither is set, `make up` starts an embedded server",
    )
    postgres_host: str | None = Field(
        None,
        pattern=r"^[^\s@]+$",
        description="PostgreSQL host, or folder of its socket; default `localhost` if another `POSTGRES_…` setting is set",
    )
    postgres_port: int | None = Field(None, ge=1, le=65535, description="PostgreSQL port; default `5432`")
    postgres_db: str | None = Field(None, description="PostgreSQL database; default `tickgraph`")
    postgres_user: str | None = Field(None, description="PostgreSQL user; default `postgres`")
    postgres_password: str | None = Field(None, description="PostgreSQL password")
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None,
        description="connection URL of Redis or Valkey, `redis://:password@host:6379/0`; if unset, `make up` starts one",
    )
    redis_host: str | None = Field(None, description="Redis host; default `localhost` if another `REDIS_…` setting is set")
    redis_port: int | None = Field(None, ge=1, le=65535, description="Redis port; default `6379`")
    redis_db: int | None = Field(None, ge=0, description="Redis database number; default `0`")
    redis_username: str | None = Field(None, description="Redis user, if it uses ACLs")
    redis_password: str | None = Field(None, description="Redis password")
    broker_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None,
        validation_alias=AliasChoices("broker_url", "celery_broker_url"),
        description="connection URL of Redis for messages, if separate from `REDIS_URL`; default `REDIS_URL`. "
        "`CELERY_BROKER_URL` is an alias",
    )
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`")
    log_format: Literal["text", "json"] = Field("text", description="`text` for terminals, `json` for log collectors")
    log_file: Path | None = Field(None, description="log also to this file; rotated at 10 MB, five old files are retained")
    debug: bool = Field(False, description="sets `LOG_LEVEL` to `DEBUG`")
    stale_after_s: int = Field(
        180, ge=60, description="a tracked ticker is stale if its newest minute is older than this many seconds"
    )
    metrics_host: str = Field("127.0.0.1", description="address on which metrics are served, if a metrics port is set")
    signing_key_file: Path | None = Field(
        None,
        description="PEM file of an Ed25519 key that signs the newest digest in `python -m db digest` and in day files; needs "
        "`requirements-signing.lock`",
    )
    reader_password: SecretStr | None = Field(
        None, description="password that `python -m db reader` sets, and with which Grafana of `make monitoring` reads"
    )
    data_dir: Path = Field(Path(".tickgraph"), description="data folder of the embedded servers")

    @property
    def dsn(self) -> str | None:
        """The connection URL of PostgreSQL from `DATABASE_URL` or the `POSTGRES_…` settings; None if none is set."""
        if self.database_url:
            return self.database_url
        parts = (
            self.postgres_host,
            self.postgres_port,
            self.postgres_db,
            self.postgres_user,
            self.postgres_password,
        )
        if not any(parts):
            return None
        password = f":{quote(self.postgres_password, safe='')}" if self.postgres_password else ""
        user = quote(self.postgres_user or "postgres", safe="")
        host, port = self.postgres_host or "localhost", self.postgres_port or 5432
        name = quote(self.postgres_db or "tickgraph", safe="")
        if host.startswith("/"):
            return f"postgresql://{user}{password}@/{name}?host={quote(host, safe='')}&port={port}"
        return f"postgresql://{user}{password}@{bracket_ipv6(host)}:{port}/{name}"

    @property
    def redis(self) -> str | None:
        """The connection URL of Redis from `REDIS_URL` or the `REDIS_…` settings; None if none is set."""
        if self.redis_url:
            return self.redis_url
        parts = (self.redis_host, self.redis_port, self.redis_db, self.redis_username, self.redis_password)
        if all(part is None for part in parts):
            return None
        user, password = quote(self.redis_username or "", safe=""), quote(self.redis_password or "", safe="")
        userinfo = f"{user}:{password}@" if user or password else ""
        return (
            f"redis://{userinfo}{bracket_ipv6(self.redis_host or 'localhost')}:{self.redis_port or 6379}/{self.redis_db or 0}"
        )

    @property
    def broker(self) -> str | None:
        """The connection URL of Redis for messages: `BROKER_URL`, otherwise `redis`; None if neither is set."""
        return self.broker_url or self.redis

    @model_validator(mode="after")
    def _apply_debug(self) -> Self:
        if self.debug:
            object.__setattr__(self, "log_level", "DEBUG")
        return self

    @property
    def dsn_setting(self) -> str:
        """Name of the setting that `dsn` comes from, for messages."""
        return "DATABASE_URL" if self.database_url else "POSTGRES_… settings"

    def required_dsn(self) -> str:
        """Returns `dsn`. Raises SystemExit with instructions if it is not set."""
        return self._required(self.dsn, "DATABASE_URL", "postgresql://user:password@host:5432/name")

    def required_redis(self) -> str:
        """Returns the URL for the outbox: `redis`, otherwise `broker`. Raises SystemExit if neither is set."""
        return self.redis or self.required_broker()

    def required_broker(self) -> str:
        """Returns `broker`. Raises SystemExit with instructions if it is not set."""
        return self._required(self.broker, "REDIS_URL", "redis://host:6379/0")

    def _required(self, value: str | None, name: str, example: str) -> str:
        if value is None:
            raise SystemExit(
                f"{name} is not set. Set it to {example}, or start embedded servers with `python -m db with-servers -- COMMAND`"
            )
        return value

    @classmethod
    def read(cls, **values: Any) -> Self:
        """Reads the settings at the start of a process. Raises SystemExit with one line for each invalid setting."""
        try:
            return cls(**values)
        except UnicodeDecodeError as error:
            raise SystemExit(f".env is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8") from None
        except ValidationError as error:
            raise SystemExit("\n".join(_format_error(e["loc"], e["msg"]) for e in error.errors())) from None

    def notes(self) -> list[str]:
        """Returns one sentence for each setting that has no effect, is an alias, is empty, or is possibly misspelled.

        Also returns one for each parameter of the connection URL that is not passed to the driver.
        """
        fields = type(self).model_fields
        given = {name.upper(): value for name, value in [*dotenv_values(".env").items(), *os.environ.items()]}
        known = {name.upper() for name in fields}
        found = [f"{name} has no effect: {instead}" for name, instead in IGNORED_SETTINGS.items() if name in given]
        found += [
            f"{name} is read as {target}" for name, target in ALIASES.items() if given.get(name) and target.lower() in fields
        ]
        for name in sorted(set(given) - known - set(IGNORED_SETTINGS) - set(ALIASES)):
            similar = difflib.get_close_matches(name, known, n=1, cutoff=MIN_TYPO_SIMILARITY)
            if similar and not given.get(similar[0]):
                found.append(f"{name} is not a setting. Did you mean {similar[0]}?")
        for name, field in fields.items():
            if given.get(name.upper()) == "" and field.default is not None and field.default != ():
                found.append(f"{name.upper()} is empty, so it is ignored")
        if self.dsn:
            found += [f"{self.dsn_setting}: {note}" for note in connection_url.parse(self.dsn).notes()]
        return found

    def report(self) -> int:
        """Writes notes and problems to standard error, or that the settings are valid. Returns 1 if there is a problem."""
        problems = self.problems()
        for line in self.notes() + problems:
            sys.stderr.write(f"{line}\n")
        if not problems:
            sys.stderr.write("The settings are valid.\n")
        return 1 if problems else 0

    def problems(self) -> list[str]:
        """Returns one sentence for each setting that cannot work."""
        return [f"{self.dsn_setting}: {problem}" for problem in connection_url.parse(self.dsn).problems()] if self.dsn else []


def bracket_ipv6(host: str) -> str:
    """Returns the host as written in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _format_error(location: tuple[int | str, ...], message: str) -> str:
    name = str(location[0]).upper() if location else "settings"
    return f"{name}: {message.removeprefix('Value error, ')}"
