"""Where the servers are. Every setting comes from the environment, or else from `.env`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_POSTGRES_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
_REDIS_SCHEMES = ("redis", "rediss", "unix")


def _postgres_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _POSTGRES_SCHEMES:
        raise ValueError("should look like postgresql://user:password@host:5432/name")
    _refuse_bad_port(url)
    return f"postgresql://{rest}"


def _redis_url(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _REDIS_SCHEMES:
        raise ValueError("should look like redis://:password@host:6379/0")
    _refuse_bad_port(url)
    return url


def _refuse_bad_port(url: str) -> None:
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"has a port that is none: {error}") from error


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]


class Settings(BaseSettings):
    """What every process needs to know: the two servers, and where embedded ones keep their data."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: PostgresUrl | None = Field(
        None,
        description="PostgreSQL, as `postgres://`, `postgresql://` or `postgresql+asyncpg://`; "
        "goes before the `POSTGRES_…` parts. Neither set: `make up` starts an embedded one",
    )
    postgres_host: str | None = Field(
        None, pattern=r"^[^/\s@]+$", description="PostgreSQL's host; `localhost` where another part is set"
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
    broker_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None, description="Redis for the messages, where they should have a database of their own; not set: `REDIS_URL`"
    )
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
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
        host = self.postgres_host or "localhost"
        where = f"{f'[{host}]' if ':' in host else host}:{self.postgres_port or 5432}"
        return f"postgresql://{user}{password}@{where}/{quote(self.postgres_db or 'tickgraph', safe='')}"

    @property
    def redis(self) -> str | None:
        """Redis' address from `REDIS_URL` or from its parts; None where nothing was set."""
        if self.redis_url:
            return self.redis_url
        if self.redis_host is None and self.redis_port is None and self.redis_db is None:
            return None
        return f"redis://{self.redis_host or 'localhost'}:{self.redis_port or 6379}/{self.redis_db or 0}"

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
        except ValidationError as error:
            raise SystemExit("\n".join(_complaint(e["loc"], e["msg"]) for e in error.errors())) from None


def _complaint(where: tuple[int | str, ...], message: str) -> str:
    name = str(where[0]).upper() if where else "settings"
    return f"{name}: {message.removeprefix('Value error, ')}"


def without_password(url: str) -> str:
    """The address with its password struck out, fit for a message."""
    return re.sub(r"(password=)[^&\s]+", r"\1***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", url))
