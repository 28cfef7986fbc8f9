"""Where the servers are. Every setting comes from the environment, or else from `.env`."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db import address

_REDIS_SCHEMES = ("redis", "rediss", "unix")
NO_MEANING: Final = {
    "CELERY_RESULT_BACKEND": "results are not kept: `python -m ingest status` tells what became of a minute",
    "RESULT_BACKEND": "results are not kept: `python -m ingest status` tells what became of a minute",
    "REDIS_CELERY_BROKER_DB": "set BROKER_URL, with the number of the database at its end",
    "FETCH_INTERVAL": "prices are collected every minute",
    "API_VERSION": "each path is served with and without /v1",
    "ENABLE_EXCEPTION_LOGGING": "errors are always logged",
}
"""Settings of older trackers that mean nothing here, and what stands for them."""
ALIASES: Final = {"BASE_URL": "DERIBIT_RPC_URL", "TIMEOUT": "HTTP_TIMEOUT_SECONDS", "CELERY_BROKER_URL": "BROKER_URL"}
"""Names of older trackers that are so general that reading them is worth a line."""
ALIKE: Final = 0.88
"""How alike a name has to be to a setting's to be taken for a typing mistake."""


def _postgres_url(url: str) -> str:
    address.parse(url)
    return f"postgresql://{url.strip().partition('://')[2]}"


def _redis_url(url: str) -> str:
    scheme, separator, rest = url.strip().partition("://")
    if scheme == "redis+sentinel":
        raise ValueError("names Sentinels, which are not supported: name the primary, or a proxy that follows it")
    if not separator or scheme not in _REDIS_SCHEMES:
        raise ValueError("should look like redis://:password@host:6379/0")
    if scheme == "unix":
        return url.strip()
    userinfo, rest = address.split_user(rest)
    hosts, _, database = rest.partition("?")[0].partition("/")
    address.require_ports(hosts)
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
    """What every process needs to know: the two servers, and where embedded ones keep their data."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True, populate_by_name=True
    )

    database_url: PostgresUrl | None = Field(
        None,
        description="PostgreSQL, as `postgresql://user:password@host:5432/name` with libpq's parameters; "
        "goes before the `POSTGRES_…` parts. Neither set: `make up` starts an embedded one",
    )
    postgres_host: str | None = Field(
        None,
        pattern=r"^[^\s@]+$",
        description="PostgreSQL's host, or its socket's folder; `localhost` where another part is set",
    )
    postgres_port: int | None = Field(None, ge=1, le=65535, description="its port; `5432`")
    postgres_db: str | None = Field(None, description="its database; `tickgraph`")
    postgres_user: str | None = Field(None, description="its user; `postgres`")
    postgres_password: str | None = Field(None, description="the user's password")
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None,
        description="Redis or Valkey, as `redis://:password@host:6379/0`. Not set: `make up` starts an embedded one",
    )
    redis_host: str | None = Field(None, description="Redis' host; `localhost` where another part is set")
    redis_port: int | None = Field(None, ge=1, le=65535, description="its port; `6379`")
    redis_db: int | None = Field(None, ge=0, description="its database number; `0`")
    redis_username: str | None = Field(None, description="its user, where it has some")
    redis_password: str | None = Field(None, description="its password, or the user's")
    broker_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None,
        validation_alias=AliasChoices("broker_url", "celery_broker_url"),
        description="Redis for the messages, where they should have a database of their own; not set: `REDIS_URL`. "
        "`CELERY_BROKER_URL` is another name of it",
    )
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`")
    log_format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for machines")
    log_file: Path | None = Field(None, description="file that gets the log, too; rotated at 10 MB, five are kept")
    debug: bool = Field(False, description="sets `LOG_LEVEL` to `DEBUG`")
    stale_after_s: int = Field(
        180, ge=60, description="a tracked ticker whose newest minute is older than this many seconds is called stale"
    )
    metrics_host: str = Field("127.0.0.1", description="address on which metrics are served, where one of their ports is set")
    data_dir: Path = Field(Path(".tickgraph"), description="folder in which the embedded servers keep their data")

    @property
    def dsn(self) -> str | None:
        """PostgreSQL's address from `DATABASE_URL` or from its parts; None where nothing was set."""
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
        return f"postgresql://{user}{password}@{in_brackets(host)}:{port}/{name}"

    @property
    def redis(self) -> str | None:
        """Redis' address from `REDIS_URL` or from its parts; None where nothing was set."""
        if self.redis_url:
            return self.redis_url
        parts = (self.redis_host, self.redis_port, self.redis_db, self.redis_username, self.redis_password)
        if all(part is None for part in parts):
            return None
        user, password = quote(self.redis_username or "", safe=""), quote(self.redis_password or "", safe="")
        userinfo = f"{user}:{password}@" if user or password else ""
        return f"redis://{userinfo}{in_brackets(self.redis_host or 'localhost')}:{self.redis_port or 6379}/{self.redis_db or 0}"

    @property
    def broker(self) -> str | None:
        """Where messages go: `BROKER_URL`, or else `redis`; None where nothing was set."""
        return self.broker_url or self.redis

    @model_validator(mode="after")
    def _debug_means_its_log_level(self) -> Self:
        if self.debug:
            object.__setattr__(self, "log_level", "DEBUG")
        return self

    @property
    def dsn_setting(self) -> str:
        """Which setting gave `dsn`, for messages."""
        return "DATABASE_URL" if self.database_url else "POSTGRES_HOST and its companions"

    def required_dsn(self) -> str:
        """`dsn`, or the end of the process with a line that says what to set."""
        return self._required(self.dsn, "DATABASE_URL", "postgresql://user:password@host:5432/name")

    def required_redis(self) -> str:
        """Where prices wait: `redis`, or else where messages go; ends the process like `required_broker`."""
        return self.redis or self.required_broker()

    def required_broker(self) -> str:
        """`broker`, or the end of the process with a line that says what to set."""
        return self._required(self.broker, "REDIS_URL", "redis://host:6379/0")

    def _required(self, value: str | None, name: str, example: str) -> str:
        if value is None:
            raise SystemExit(
                f"{name} is not set: set it to {example}, or start embedded servers with `python -m db with-servers -- COMMAND`"
            )
        return value

    @classmethod
    def read(cls, **values: Any) -> Self:
        """Reads the settings once, at a process's edge; what is wrong ends it with one line a setting."""
        try:
            return cls(**values)
        except UnicodeDecodeError as error:
            raise SystemExit(f".env is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
        except ValidationError as error:
            raise SystemExit("\n".join(_complaint(e["loc"], e["msg"]) for e in error.errors())) from None

    def notes(self) -> list[str]:
        """What is set and does nothing, or perhaps not what was meant; a sentence each."""
        fields = type(self).model_fields
        given = {name.upper(): value for name, value in [*dotenv_values(".env").items(), *os.environ.items()]}
        known = {name.upper() for name in fields}
        found = [f"{name} means nothing here: {instead}" for name, instead in NO_MEANING.items() if name in given]
        found += [
            f"{name} is read as {meant}" for name, meant in ALIASES.items() if given.get(name) and meant.lower() in fields
        ]
        for name in sorted(set(given) - known - set(NO_MEANING) - set(ALIASES)):
            near = difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)
            if near and not given.get(near[0]):
                found.append(f"{name} is no setting: did you mean {near[0]}?")
        for name, field in fields.items():
            if given.get(name.upper()) == "" and field.default is not None and field.default != ():
                found.append(f"{name.upper()} is empty: its default holds")
        if self.dsn:
            found += [f"{self.dsn_setting}: {note}" for note in address.parse(self.dsn).notes()]
        return found

    def problems(self) -> list[str]:
        """What is set and cannot work, a sentence each."""
        return [f"{self.dsn_setting}: {problem}" for problem in address.parse(self.dsn).problems()] if self.dsn else []


def in_brackets(host: str) -> str:
    """The host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _complaint(where: tuple[int | str, ...], message: str) -> str:
    name = str(where[0]).upper() if where else "settings"
    return f"{name}: {message.removeprefix('Value error, ')}"


def without_password(url: str) -> str:
    """The address with its password struck out, fit for a message."""
    return re.sub(r"(password=)[^&\s]+", r"\1***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", url))
