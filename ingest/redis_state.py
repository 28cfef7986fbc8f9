"""The state of a Redis server: logs one line when it changes, and checks the settings of the server."""

import logging
import threading
import time
from typing import Any, Final

import redis

PROBE: Final = "tickgraph:probe"
_RETRY_MESSAGES: Final = ("Consumer encountered a connection error", "Restarting consumer", "Failed to post_process_message")
"""Prefixes of Dramatiq's log messages that only repeat, every few seconds, that Redis fails."""

log = logging.getLogger(__name__)


class RedisState:
    """Logs one line when Redis starts to fail and one when it works again. Safe to use from several threads."""

    def __init__(self, setting: str) -> None:
        """`setting` is the name of the setting with the URL."""
        self.setting = setting
        self._lock = threading.Lock()
        self._failed_at: float | None = None

    def record_failure(self, error: object) -> None:
        """Records that a command failed."""
        with self._lock:
            if self._failed_at is not None:
                return
            self._failed_at = time.monotonic()
        log.error("Redis (%s) fails: %s; retrying until it works", self.setting, error)

    def record_success(self) -> None:
        """Records that a write succeeded."""
        with self._lock:
            failed_at, self._failed_at = self._failed_at, None
        if failed_at is not None:
            log.info("Redis (%s) works again after %.0f s", self.setting, time.monotonic() - failed_at)

    def filter(self, record: logging.LogRecord) -> bool:
        """Log filter that replaces Dramatiq's repeated lines about Redis with one line of this class."""
        if not record.name.startswith("dramatiq"):
            return True
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, redis.RedisError | ConnectionError):
            self.record_failure(error)
            return False
        if str(record.msg).startswith(_RETRY_MESSAGES):
            for argument in record.args if isinstance(record.args, tuple) else ():
                if isinstance(argument, Exception):
                    self.record_failure(argument)
            return False
        return True


def list_problems(client: "redis.Redis") -> list[str]:
    """Returns the problems of a Redis server's settings, one sentence each. Raises redis.RedisError."""
    info: dict[str, Any] = client.info()
    found = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(f"its maxmemory-policy is {policy}, which may delete queued prices: set it to noeviction")
    if not info.get("aof_enabled") and not _has_snapshots(client):
        found.append("it writes nothing to disk, so a restart loses the queued prices: set appendonly to yes")
    return found


def _has_snapshots(client: "redis.Redis") -> bool:
    try:
        return bool(client.config_get("save").get("save"))
    except redis.RedisError:  # some providers disable CONFIG
        return True


def require_writable(client: "redis.Redis") -> None:
    """Raises redis.RedisError if Redis rejects writes: it is a replica, its memory is full, or its disk failed."""
    client.set(PROBE, 1, ex=10)
