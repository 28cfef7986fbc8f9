"""What the API needs to know beside the database."""

from pydantic import Field

from db import settings


class Settings(settings.Settings):
    """Where it listens, and when it calls a price old."""

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=1, le=65535, description="port that the API listens on")
    stale_after_s: int = Field(
        180, ge=60, description="a tracked ticker whose newest minute is older than this many seconds is called stale"
    )

    @property
    def url(self) -> str:
        """Where a person on this machine finds the API."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  compared, not bound
        return f"http://{host}:{self.port}"
