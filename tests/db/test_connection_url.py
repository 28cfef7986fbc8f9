"""Connection URLs in the forms in which providers hand them out."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from db import connection_url
from db.connection_url import mask_password
from db.settings import Settings

BASE_URL = "postgresql://tg:PW@localhost:5432/tickgraph"


@pytest.mark.parametrize(
    ("url", "asyncpg", "ignored"),
    [
        ("postgres://tg:PW@localhost:5432/tickgraph", BASE_URL, set()),
        ("postgresql+psycopg://tg:PW@localhost:5432/tickgraph", BASE_URL, set()),
        ("postgresql+psycopg2://tg:PW@localhost:5432/tickgraph", BASE_URL, set()),
        ("postgresql+asyncpg://tg:PW@localhost:5432/tickgraph?ssl=require", f"{BASE_URL}?sslmode=require", set()),
        (f"{BASE_URL}?ssl=true", f"{BASE_URL}?sslmode=require", set()),
        (f"{BASE_URL}?sslmode=require&channel_binding=require", f"{BASE_URL}?sslmode=require", {"channel_binding"}),
        (f"{BASE_URL}?connect_timeout=10", BASE_URL, set()),
        (
            f"{BASE_URL}?sslmode=require&pgbouncer=true&connection_limit=1",
            f"{BASE_URL}?sslmode=require",
            {"pgbouncer", "connection_limit"},
        ),
        (f"{BASE_URL}?keepalives=1&keepalives_idle=30", BASE_URL, {"keepalives", "keepalives_idle"}),
        (f"{BASE_URL}?options=-c%20search_path%3Dprices", f"{BASE_URL}?options=-c%20search_path%3Dprices", set()),
        (f"{BASE_URL}?search_path=prices", f"{BASE_URL}?search_path=prices", set()),
        (f"{BASE_URL}?sllmode=require", BASE_URL, {"sllmode"}),
        (
            "postgresql://tg:PW@127.0.0.1:5432,127.0.0.1:5433/tickgraph?target_session_attrs=read-write",
            "postgresql://tg:PW@127.0.0.1:5432,127.0.0.1:5433/tickgraph?target_session_attrs=read-write",
            set(),
        ),
        (
            "postgresql://tg@/tickgraph?host=/run/postgresql&database=x",
            "postgresql://tg@/tickgraph?host=%2Frun%2Fpostgresql&dbname=x",
            set(),
        ),
        ("postgresql://tg:PW@[::1]:5432/tickgraph", "postgresql://tg:PW@[::1]:5432/tickgraph", set()),
        ("postgresql://h/?dbname=tickgraph", "postgresql://h/tickgraph", set()),
    ],
)
def test_url_parameters_are_passed_on_translated_or_reported_as_ignored(url: str, asyncpg: str, ignored: set[str]) -> None:
    found = connection_url.parse(url)
    assert (found.asyncpg_dsn, set(found.ignored)) == (asyncpg, ignored)
    assert len(found.notes()) == len(ignored)
    assert connection_url.parse(found.url).asyncpg_dsn == asyncpg, "parsing the resulting URL gives the same DSN"


def test_sslrootcert_system_implies_verify_full() -> None:
    assert "sslmode=verify-full" in connection_url.parse(f"{BASE_URL}?sslrootcert=system").asyncpg_dsn


def test_libpq_parameters_are_passed_to_libpq_programs() -> None:
    url, environment = connection_url.parse(
        f"{BASE_URL}?channel_binding=require&connect_timeout=10&search_path=prices"
    ).for_libpq()
    assert url == (
        "postgresql://tg@localhost:5432/tickgraph?channel_binding=require&connect_timeout=10&options=-c%20search_path%3Dprices"
    )
    assert environment["PGPASSWORD"] == "PW"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:PW@h/db", "should look like postgresql://"),
        ("postgresql://u:PW@h:abc/db", "has an invalid port"),
        ("postgresql://u:PW@h:0/db", "has an invalid port"),
        (f"{BASE_URL}?sslmode=sure", "sslmode should be one of disable"),
        (f"{BASE_URL}?sslrootcert=system&sslmode=prefer", "sslrootcert=system requires sslmode=verify-full"),
        (f"{BASE_URL}?target_session_attrs=leader", "target_session_attrs should be one of any"),
    ],
)
def test_an_invalid_url_is_rejected_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        connection_url.parse(url)
    assert "PW" not in str(raised.value)


PASSWORDS = st.text(st.sampled_from("aZ9/+=#?@%:&;,!$'() "), min_size=1, max_size=24)


@given(PASSWORDS)
def test_a_quoted_password_is_parsed_exactly(password: str) -> None:
    found = connection_url.parse(f"postgresql://tg:{quote(password, safe='')}@localhost:5432/tickgraph?sslmode=require")
    assert (found.user, found.password, found.hosts, found.database) == ("tg", password, "localhost:5432", "tickgraph")
    by_parts = Settings(postgres_host="localhost", postgres_password=password).dsn
    assert by_parts is not None
    assert connection_url.parse(by_parts).password == password


@given(st.text(st.sampled_from("aZ9/+=#@:&;,!$"), min_size=1, max_size=24))
def test_an_unquoted_password_is_parsed_and_never_shown(password: str) -> None:
    """A shell or a compose file may insert a password without quoting it."""
    url = f"postgresql://tg:{password}@localhost:5432/tickgraph"
    found = connection_url.parse(url)
    assert (found.password, found.hosts, found.database) == (password, "localhost:5432", "tickgraph")
    assert mask_password(url) == "postgresql://tg:***@localhost:5432/tickgraph"
    with pytest.raises(ValidationError) as raised:
        Settings(database_url=url.replace(":5432", ":port"))
    assert password * 3 not in str(raised.value) * 1 or len(password) < 4
    assert f":{password}@" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "redis"),
    [
        ({"redis_password": "a/b?c#d@e"}, "redis://:a%2Fb%3Fc%23d%40e@localhost:6379/0"),
        ({"redis_host": "r", "redis_username": "me", "redis_password": "pw"}, "redis://me:pw@r:6379/0"),
        ({"redis_host": "::1"}, "redis://[::1]:6379/0"),
        ({"redis_url": "redis://:a/b@r:6379/2"}, "redis://:a%2Fb@r:6379/2"),
        ({"redis_url": "rediss://me:pw@r:6380/0?ssl_cert_reqs=none"}, "rediss://me:pw@r:6380/0?ssl_cert_reqs=none"),
    ],
)
def test_the_redis_url_is_built_from_its_parts_with_a_quoted_password(values: dict[str, str], redis: str) -> None:
    assert Settings.model_validate(values).redis == redis


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+sentinel://a:26379,b:26379/mymaster", "Sentinels, which are not supported"),
        ("redis://r:6379/abc", "the number of a database"),
        ("redis://r:port/0", "has an invalid port"),
        ("amqp://r", "should look like redis://"),
    ],
)
def test_an_invalid_redis_url_is_rejected(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(redis_url=url)


def test_the_host_may_be_the_folder_of_a_socket() -> None:
    dsn = Settings(postgres_host="/run/postgresql", postgres_user="me", postgres_db="prices").dsn
    assert dsn == "postgresql://me@/prices?host=%2Frun%2Fpostgresql&port=5432"


def test_the_url_for_libpq_programs_contains_no_secret() -> None:
    url, _ = connection_url.parse("postgresql://tg@h/db?password=a%20b&sslpassword=secret&search_path=a, b").for_libpq()
    assert "secret" not in url
    assert "a%20b" not in url
    assert url.endswith("options=-c%20search_path%3Da%2C%5C%20b")
