"""Whether Redis can be relied on: one log line when that changes, and what an operator should know of its settings."""

import logging
import threading
import time
from typing import Any, Final

import redis

PROBE: Final = "tickgraph:probe"
_RETRIED: Final = ("Consumer encountered a connection error", "Restarting consumer", "Failed to post_process_message")
"""How lines of Dramatiq begin that say nothing but that Redis fails, every few seconds."""

log = logging.getLogger(__name__)


class RedisState:
    """Logs when Redis begins to fail and when it works again, whoever of the process's threads noticed."""

    def __init__(self, setting: str) -> None:
        """`setting` names its address."""
        self.setting = setting
        self._lock = threading.Lock()
        self._failed_at: float | None = None

    def failed(self, error: object) -> None:
        """Redis did not do what it should."""
        with self._lock:
            if self._failed_at is not None:
                return
            self._failed_at = time.monotonic()
        log.error("Redis (%s) does not do what it should: %s; trying until it does", self.setting, error)

    def works(self) -> None:
        """Redis took a write."""
        with self._lock:
            failed_at, self._failed_at = self._failed_at, None
        if failed_at is not None:
            log.info("Redis (%s) works again, after %.0f s", self.setting, time.monotonic() - failed_at)

    def filter(self, record: logging.LogRecord) -> bool:
        """A log filter: Dramatiq's repeated lines about Redis become this class's one."""
        if not record.name.startswith("dramatiq"):
            return True
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, redis.RedisError | ConnectionError):
            self.failed(error)
            return False
        if str(record.msg).startswith(_RETRIED):
            for argument in record.args if isinstance(record.args, tuple) else ():
                if isinstance(argument, Exception):
                    self.failed(argument)
            return False
        return True


def problems(client: "redis.Redis") -> list[str]:
    """What is wrong with the settings of a Redis that holds prices, a sentence each. Raises redis.RedisError."""
    info: dict[str, Any] = client.info()
    found = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(f"its maxmemory-policy is {policy}, which may delete prices that wait: set it to noeviction")
    if not info.get("aof_enabled") and not _saves(client):
        found.append("it writes nothing to disk, so a restart loses the prices that wait: set appendonly to yes")
    return found


def _saves(client: "redis.Redis") -> bool:
    try:
        return bool(client.config_get("save").get("save"))
    except redis.RedisError:  # a provider may not show its settings
        return True


def require_writable(client: "redis.Redis") -> None:
    """Raises redis.RedisError where Redis takes no write: a replica, a full memory, a disk that failed."""
    client.set(PROBE, 1, ex=10)
