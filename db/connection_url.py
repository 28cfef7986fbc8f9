"""Connection URLs of PostgreSQL. Parameters of libpq are passed on, translated, or ignored with a note.

https://www.postgresql.org/docs/current/libpq-connect.html
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlencode

SCHEMES: Final = ("postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2")
EXAMPLE: Final = "postgresql://user:password@host:5432/name"
CONNECT_TIMEOUT_S: Final = 2.0


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRS: Final = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_SHARED_PARAMETERS: Final = _words(
    "host port dbname user password passfile sslmode sslcert sslkey sslrootcert sslnegotiation sslcrl sslpassword "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib service options"
)
"""Parameters that both libpq and asyncpg accept."""
_LIBPQ_PARAMETERS: Final = _words(
    "channel_binding connect_timeout keepalives keepalives_idle keepalives_interval keepalives_count "
    "tcp_user_timeout application_name fallback_application_name client_encoding gssencmode gssdelegation "
    "sslcompression sslsni sslcertmode sslcrldir hostaddr requirepeer require_auth load_balance_hosts replication "
    "min_protocol_version max_protocol_version"
)
"""Parameters that only libpq accepts; passed to psql, pg_dump and pg_restore."""
_SECRET_PARAMETERS: Final = frozenset({"password", "sslpassword"})
"""Parameters that are never passed on a command line."""
_REPLACED_PARAMETERS: Final = frozenset({"connect_timeout", "application_name", "fallback_application_name", "client_encoding"})
"""Parameters of libpq that the pool applies or replaces with its own value; no note is given."""
_SESSION_SETTINGS: Final = _words(
    "search_path statement_timeout lock_timeout idle_in_transaction_session_timeout transaction_timeout timezone "
    "work_mem jit role default_transaction_isolation default_transaction_read_only synchronous_commit datestyle "
    "intervalstyle extra_float_digits"
)
"""Session settings that a connection URL may contain; asyncpg sends them to the server."""
_IGNORE_REASONS: Final = {
    "channel_binding": "the driver does not support channel binding; sslmode controls TLS",
    "pgbouncer": "Tickgraph applies it: with `true` it sends no session settings and prepares no named statements",
    "schema": "set search_path instead",
}


@dataclass(frozen=True)
class ConnectionUrl:
    """A parsed connection URL. It names one server, or several from which the driver chooses one."""

    user: str
    password: str
    hosts: str
    """`host:port`, several separated by commas; empty if a parameter names the host."""
    database: str
    parameters: Mapping[str, str]
    """Parameters of libpq, and session settings."""
    ignored: Mapping[str, str]
    """Parameters that are not passed to the driver, each with the reason."""
    pooler: str = ""
    """Value of the parameter `pgbouncer`."""

    @property
    def url(self) -> str:
        """The URL with all supported parameters."""
        return self._url(self.parameters, self.password)

    @property
    def asyncpg_dsn(self) -> str:
        """The DSN for asyncpg."""
        supported = {name: value for name, value in self.parameters.items() if name not in _LIBPQ_PARAMETERS}
        if supported.get("sslrootcert") == "system":
            supported["sslrootcert"] = ssl.get_default_verify_paths().cafile or str(
                ssl.get_default_verify_paths().openssl_cafile
            )
        return self._url(supported, self.password)

    @property
    def is_pooled(self) -> bool:
        """Whether the URL declares a pooler with `pgbouncer=true`."""
        return self.pooler in ("true", "1", "on", "yes")

    @property
    def connect_timeout_s(self) -> float:
        """Timeout for opening a connection, in seconds."""
        seconds = self.parameters.get("connect_timeout", "")
        return max(1.0, float(seconds)) if seconds.isdecimal() and int(seconds) else CONNECT_TIMEOUT_S

    def for_libpq(self) -> tuple[str, dict[str, str]]:
        """Returns the URL without its password, and an environment with it: every local user can read command lines."""
        libpq = {
            name: value
            for name, value in self.parameters.items()
            if name in (_SHARED_PARAMETERS | _LIBPQ_PARAMETERS) - _SECRET_PARAMETERS
        }
        settings = [
            f"-c {name}={_escape_option(value)}" for name, value in self.parameters.items() if name in _SESSION_SETTINGS
        ]
        if settings:
            libpq["options"] = " ".join([*filter(None, [libpq.get("options")]), *settings])
        password = self.password or self.parameters.get("password")
        return self._url(libpq, ""), os.environ | ({"PGPASSWORD": password} if password else {})

    def problems(self) -> list[str]:
        """Returns one message for each named file that does not exist."""
        return [
            f"{name}={value}: no such file"
            for name, value in self.parameters.items()
            if name in ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
            and value != "system"
            and not Path(value).exists()
        ]

    def notes(self) -> list[str]:
        """Returns one sentence for each parameter that is not passed to the driver."""
        return [f"{name} is not passed to the driver: {why}" for name, why in self.ignored.items()]

    def _url(self, parameters: Mapping[str, str], password: str) -> str:
        user = quote(self.user, safe="") + (f":{quote(password, safe='')}" if password else "")
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"postgresql://{user}{'@' if user else ''}{self.hosts}/{quote(self.database, safe='')}{query}"


@lru_cache(64)
def parse(url: str) -> ConnectionUrl:
    """Parses a connection URL in any common form. Raises ValueError with the reason, without the password."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"should look like {EXAMPLE}")
    userinfo, rest = split_user(rest)
    user, _, password = userinfo.partition(":")
    location, _, query = rest.partition("?")
    hosts, _, database = location.partition("/")
    require_valid_ports(hosts)
    parameters, ignored = _classify_parameters(
        [(unquote(name), unquote(value)) for name, _, value in (one.partition("=") for one in query.split("&")) if name]
    )
    if "dbname" in parameters and not database:
        database = parameters.pop("dbname")
    pooler = re.search(r"(?:^|&)pgbouncer=(\w+)", query)
    return ConnectionUrl(
        unquote(user), unquote(password), hosts, unquote(database), parameters, ignored, pooler[1].lower() if pooler else ""
    )


def split_user(rest: str) -> tuple[str, str]:
    """Splits user and password from the rest of a URL.

    They end at the last `@` before the parameters, because a generated password may contain an unquoted `/`, `#` or `@`.
    """
    query = re.search(r"\?\w+=", rest)
    at = rest.rfind("@", 0, query.start() if query else len(rest))
    return (rest[:at], rest[at + 1 :]) if at >= 0 else ("", rest)


def require_valid_ports(hosts: str) -> None:
    for host in hosts.split(","):
        _, separator, port = host.rpartition(":")
        if separator and not host.endswith("]") and port and not (port.isdecimal() and 0 < int(port) < 65_536):  # noqa: PLR2004
            raise ValueError("has an invalid port. Use a number from 1 to 65535")


def _classify_parameters(pairs: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the supported parameters, and those not passed to the driver, with the reason. Some of libpq are in both."""
    supported: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for name, value in pairs:
        match name:
            case "ssl":
                supported["sslmode"] = {
                    "true": "require",
                    "1": "require",
                    "on": "require",
                    "false": "disable",
                    "0": "disable",
                }.get(value.lower(), value)
            case "database":
                supported["dbname"] = value
            case _ if name in _SHARED_PARAMETERS or name.lower() in _SESSION_SETTINGS:
                supported[name if name in _SHARED_PARAMETERS else name.lower()] = value
            case _ if name in _LIBPQ_PARAMETERS:
                supported[name] = value
                if name not in _REPLACED_PARAMETERS:
                    ignored[name] = _IGNORE_REASONS.get(name, "Tickgraph sets it, or the driver does not support it")
            case _:
                ignored[name] = _IGNORE_REASONS.get(name, "it is neither a parameter of libpq nor a supported session setting")
    if supported.get("sslrootcert") == "system" and supported.setdefault("sslmode", "verify-full") != "verify-full":
        raise ValueError("sslrootcert=system requires sslmode=verify-full")
    _require_allowed(supported, "sslmode", SSL_MODES)
    _require_allowed(supported, "target_session_attrs", SESSION_ATTRS)
    return supported, ignored


def _escape_option(value: str) -> str:
    """Escapes a value for the `options` parameter of libpq."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _require_allowed(supported: Mapping[str, str], name: str, values: tuple[str, ...]) -> None:
    if supported.get(name, values[0]) not in values:
        raise ValueError(f"{name} should be one of {', '.join(values)}, not {supported[name]!r}")


def mask_password(url: str) -> str:
    """Returns the text with the passwords in its URLs masked."""
    return re.sub(r"(password=)[^&\s]+", r"\1***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", url))
