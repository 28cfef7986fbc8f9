"""Whether a process lives, and whether it can answer."""

from db import migrate
from db.pool import Database
from graph.settings import Settings
from tests.graph.conftest import Api, serving


async def _status(api: Api, path: str) -> tuple[int, str]:
    async with api.session.get(f"{api.url}{path}") as response:
        return response.status, await response.text()


async def test_a_process_with_its_tables_is_ready(api: Api, db: Database) -> None:
    assert await _status(api, "/health/live") == (200, '{"status":"ok"}')
    assert await _status(api, "/health/ready") == (200, f'{{"status":"ok","migration":"{migrate.head()}"}}')
    await db.execute("UPDATE alembic_version SET version_num = '9999'")  # of a release that is being rolled out
    assert (await _status(api, "/health/ready"))[0] == 200
    await db.execute("UPDATE alembic_version SET version_num = '0001'")
    status, said = await _status(api, "/health/ready")
    assert (status, "python -m db migrate" in said) == (503, True)


async def test_a_process_without_its_database_lives_and_is_not_ready(dsn: str) -> None:
    async with serving(Settings(database_url=f"{dsn}_away")) as api:
        assert (await _status(api, "/health/live"))[0] == 200
        assert await _status(api, "/health/ready") == (
            503,
            '{"status":"unavailable","reason":"The database is unavailable. Retry in a few seconds."}',
        )


async def test_a_database_without_tables_is_not_ready(empty_dsn: str) -> None:
    async with serving(Settings(database_url=empty_dsn)) as api:
        status, said = await _status(api, "/health/ready")
    assert (status, "python -m db migrate" in said) == (503, True)
