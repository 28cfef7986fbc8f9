"""Liveness and readiness of an API process."""

from db import revisions
from db.pool import Database
from graph.settings import Settings
from tests.graph.conftest import Api, run_api


async def _status(api: Api, path: str) -> tuple[int, str]:
    async with api.session.get(f"{api.url}{path}") as response:
        return response.status, await response.text()


async def test_a_process_with_a_migrated_database_is_ready(api: Api, db: Database) -> None:
    assert await _status(api, "/health/live") == (200, '{"status":"ok"}')
    assert await _status(api, "/health/ready") == (200, f'{{"status":"ok","migration":"{revisions.head()}"}}')
    await db.execute("UPDATE alembic_version SET version_num = '9999'")  # a newer release, during a rollout
    assert (await _status(api, "/health/ready"))[0] == 200
    await db.execute("UPDATE alembic_version SET version_num = '0001'")
    status, body = await _status(api, "/health/ready")
    assert (status, "python -m db migrate" in body) == (503, True)


async def test_a_process_without_its_database_is_live_but_not_ready(dsn: str) -> None:
    async with run_api(Settings(database_url=f"{dsn}_missing")) as api:
        assert (await _status(api, "/health/live"))[0] == 200
        assert await _status(api, "/health/ready") == (
            503,
            '{"status":"unavailable","reason":"The database is unavailable. Retry in a few seconds."}',
        )


async def test_a_database_without_tables_is_not_ready(empty_dsn: str) -> None:
    async with run_api(Settings(database_url=empty_dsn)) as api:
        status, body = await _status(api, "/health/ready")
    assert (status, "python -m db migrate" in body) == (503, True)
