"""Settings accept connection URLs in common forms. An error is one line that names the setting."""

import pytest

from db.connection_url import mask_password
from db.settings import Settings


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_database_url_accepts_the_common_schemes(scheme: str) -> None:
    settings = Settings(database_url=f"{scheme}://ann:secret@db:5433/prices?sslmode=require")
    assert settings.dsn == "postgresql://ann:secret@db:5433/prices?sslmode=require"


def test_the_database_url_is_built_from_its_parts() -> None:
    settings = Settings(postgres_host="db", postgres_user="ann", postgres_password="p@ss/word", postgres_db="crypto")  # noqa: S106  no real one
    assert settings.dsn == "postgresql://ann:p%40ss%2Fword@db:5432/crypto"


def test_an_ipv6_host_is_bracketed() -> None:
    assert Settings(postgres_host="::1").dsn == "postgresql://postgres@[::1]:5432/tickgraph"


def test_the_redis_url_is_built_from_its_parts_and_the_broker_may_have_its_own() -> None:
    assert Settings().redis is None
    assert Settings(redis_host="cache", redis_db=3).redis == "redis://cache:6379/3"
    assert Settings(redis_url="redis://a").broker == "redis://a"
    assert Settings(redis_url="redis://a", broker_url="redis://b").broker == "redis://b"


def test_database_url_takes_precedence_over_the_parts() -> None:
    assert Settings(database_url="postgres://one/x", postgres_host="two").dsn == "postgresql://one/x"


def test_a_missing_url_is_an_error_only_where_it_is_required() -> None:
    settings = Settings()
    assert settings.dsn is None
    with pytest.raises(SystemExit, match="DATABASE_URL is not set"):
        settings.required_dsn()
    with pytest.raises(SystemExit, match="REDIS_URL is not set"):
        settings.required_broker()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATABASE_URL", "mysql://db/x", "DATABASE_URL: should look like postgresql://user:password@host:5432/name"),
        ("DATABASE_URL", "postgres://db:port/x", "DATABASE_URL: has an invalid port"),
        ("POSTGRES_HOST", "db host", "POSTGRES_HOST: String should match pattern"),
        ("POSTGRES_PORT", "70000", "POSTGRES_PORT: Input should be less than or equal to 65535"),
        ("REDIS_URL", "localhost:6379", "REDIS_URL: should look like redis://:password@host:6379/0"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as raised:
        Settings.read()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert Settings.read().dsn is None


def test_passwords_are_masked_in_messages() -> None:
    assert mask_password("postgresql://ann:secret@db/x") == "postgresql://ann:***@db/x"
    assert mask_password("redis://:secret@db") == "redis://:***@db"
    assert mask_password("redis://db") == "redis://db"
    assert mask_password("postgresql://ann:p@ss@db/x") == "postgresql://ann:***@db/x"
    assert mask_password("postgresql://db/x?user=ann&password=secret&a=b") == "postgresql://db/x?user=ann&password=***&a=b"
    assert mask_password("at redis://:a@one and redis://:b@two.") == "at redis://:***@one and redis://:***@two."
