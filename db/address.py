"""PostgreSQL's address as providers hand it out: libpq's parameters understood, translated, or left out and said.

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


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRS: Final = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_BOTH: Final = _names(
    "host port dbname user password passfile sslmode sslcert sslkey sslrootcert sslnegotiation sslcrl sslpassword "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib service options"
)
"""What libpq and asyncpg understand alike."""
_LIBPQ: Final = _names(
    "channel_binding connect_timeout keepalives keepalives_idle keepalives_interval keepalives_count "
    "tcp_user_timeout application_name fallback_application_name client_encoding gssencmode gssdelegation "
    "sslcompression sslsni sslcertmode sslcrldir hostaddr requirepeer require_auth load_balance_hosts replication "
    "min_protocol_version max_protocol_version"
)
"""What libpq alone understands: kept for PostgreSQL's programs."""
_SECRET: Final = frozenset({"password", "sslpassword"})
"""What no command line shows."""
_OURS: Final = frozenset({"connect_timeout", "application_name", "fallback_application_name", "client_encoding"})
"""Of these those that are used, or of which there is one of our own: nothing to say."""
_SETTINGS: Final = _names(
    "search_path statement_timeout lock_timeout idle_in_transaction_session_timeout transaction_timeout timezone "
    "work_mem jit role default_transaction_isolation default_transaction_read_only synchronous_commit datestyle "
    "intervalstyle extra_float_digits"
)
"""Settings of a session that may stand in an address, as asyncpg takes them."""
_WHY: Final = {
    "channel_binding": "the driver binds no channel; TLS is as sslmode says",
    "pgbouncer": "its meaning is kept: sessions get no settings, and nothing is prepared by name",
    "schema": "set search_path instead",
}


@dataclass(frozen=True)
class Address:
    """One PostgreSQL, or several of which one is chosen."""

    user: str
    password: str
    hosts: str
    """`host:port`, several separated by commas; empty where a parameter names it."""
    database: str
    parameters: Mapping[str, str]
    """Those of libpq, and settings of the session."""
    ignored: Mapping[str, str]
    """Parameters that were left out, and why."""
    pooler: str = ""
    """What `pgbouncer=` said."""

    @property
    def url(self) -> str:
        """The address with everything that was understood."""
        return self._url(self.parameters, self.password)

    @property
    def asyncpg(self) -> str:
        """The DSN for asyncpg."""
        known = {name: value for name, value in self.parameters.items() if name not in _LIBPQ}
        if known.get("sslrootcert") == "system":
            known["sslrootcert"] = ssl.get_default_verify_paths().cafile or str(ssl.get_default_verify_paths().openssl_cafile)
        return self._url(known, self.password)

    @property
    def is_pooled(self) -> bool:
        """Whether the address says itself that it leads to a pooler."""
        return self.pooler in ("true", "1", "on", "yes")

    @property
    def connect_timeout_s(self) -> float:
        """How long a connection may take."""
        seconds = self.parameters.get("connect_timeout", "")
        return max(1.0, float(seconds)) if seconds.isdecimal() and int(seconds) else CONNECT_TIMEOUT_S

    def for_libpq(self) -> tuple[str, dict[str, str]]:
        """The address without its password, and an environment that has it: command lines are shown to every local user."""
        libpq = {name: value for name, value in self.parameters.items() if name in (_BOTH | _LIBPQ) - _SECRET}
        settings = [f"-c {name}={_escaped(value)}" for name, value in self.parameters.items() if name in _SETTINGS]
        if settings:
            libpq["options"] = " ".join([*filter(None, [libpq.get("options")]), *settings])
        password = self.password or self.parameters.get("password")
        return self._url(libpq, ""), os.environ | ({"PGPASSWORD": password} if password else {})

    def problems(self) -> list[str]:
        """What cannot work: files that are not there."""
        return [
            f"{name}={value}: there is no such file"
            for name, value in self.parameters.items()
            if name in ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
            and value != "system"
            and not Path(value).exists()
        ]

    def notes(self) -> list[str]:
        """What was left out, a sentence each."""
        return [f"{name} is left out: {why}" for name, why in self.ignored.items()]

    def _url(self, parameters: Mapping[str, str], password: str) -> str:
        user = quote(self.user, safe="") + (f":{quote(password, safe='')}" if password else "")
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"postgresql://{user}{'@' if user else ''}{self.hosts}/{quote(self.database, safe='')}{query}"


@lru_cache(64)
def parse(url: str) -> Address:
    """An address out of any usual form. Raises ValueError saying what is wrong, without the password."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"should look like {EXAMPLE}")
    userinfo, rest = split_user(rest)
    user, _, password = userinfo.partition(":")
    before, _, query = rest.partition("?")
    hosts, _, database = before.partition("/")
    require_ports(hosts)
    parameters, ignored = _sorted(
        [(unquote(name), unquote(value)) for name, _, value in (one.partition("=") for one in query.split("&")) if name]
    )
    if "dbname" in parameters and not database:
        database = parameters.pop("dbname")
    pooler = re.search(r"(?:^|&)pgbouncer=(\w+)", query)
    return Address(
        unquote(user), unquote(password), hosts, unquote(database), parameters, ignored, pooler[1].lower() if pooler else ""
    )


def split_user(rest: str) -> tuple[str, str]:
    """User and password, and what follows: they end with the last `@` before the parameters, for a generated password may hold
    `/`, `#`, `@` and others as they are.
    """
    query = re.search(r"\?\w+=", rest)
    at = rest.rfind("@", 0, query.start() if query else len(rest))
    return (rest[:at], rest[at + 1 :]) if at >= 0 else ("", rest)


def require_ports(hosts: str) -> None:
    for host in hosts.split(","):
        _, separator, port = host.rpartition(":")
        if separator and not host.endswith("]") and port and not (port.isdecimal() and 0 < int(port) < 65_536):  # noqa: PLR2004
            raise ValueError("has a port that is none: it should be a number from 1 to 65535")


def _sorted(pairs: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """The parameters that are understood, and those that are not, with the reason."""
    known: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for name, value in pairs:
        match name:
            case "ssl":
                known["sslmode"] = {"true": "require", "1": "require", "on": "require", "false": "disable", "0": "disable"}.get(
                    value.lower(), value
                )
            case "database":
                known["dbname"] = value
            case _ if name in _BOTH or name.lower() in _SETTINGS:
                known[name if name in _BOTH else name.lower()] = value
            case _ if name in _LIBPQ:
                known[name] = value
                if name not in _OURS:
                    ignored[name] = _WHY.get(name, "Tickgraph's own holds, or the driver has none")
            case _:
                ignored[name] = _WHY.get(name, "it is no parameter of libpq's, and no setting of a session that is known")
    if known.get("sslrootcert") == "system" and known.setdefault("sslmode", "verify-full") != "verify-full":
        raise ValueError("sslrootcert=system goes with sslmode=verify-full alone")
    _require_one_of(known, "sslmode", SSL_MODES)
    _require_one_of(known, "target_session_attrs", SESSION_ATTRS)
    return known, ignored


def _escaped(value: str) -> str:
    """A value in libpq's `options`."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _require_one_of(known: Mapping[str, str], name: str, values: tuple[str, ...]) -> None:
    if known.get(name, values[0]) not in values:
        raise ValueError(f"{name} should be one of {', '.join(values)}, not {known[name]!r}")
