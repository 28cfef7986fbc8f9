"""What the API needs to know beside the database."""

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from db import settings


def _split(value: object) -> object:
    return [origin.strip() for origin in value.split(",") if origin.strip()] if isinstance(value, str) else value


class Settings(settings.Settings):
    """Where it listens, and for whom."""

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=1, le=65535, description="port that the API listens on")
    web_concurrency: int = Field(1, ge=1, description="API processes that `python -m graph serve` starts")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="origins whose pages may call the API, separated by commas, or `*`; none but its own by default"
    )
    admin_token: SecretStr | None = Field(
        None, description="where set, asking for a fetch needs it as `Authorization: Bearer …`; open to all otherwise"
    )

    @property
    def url(self) -> str:
        """Where a person on this machine finds the API."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  compared, not bound
        return f"http://{host}:{self.port}"
