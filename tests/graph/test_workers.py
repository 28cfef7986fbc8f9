"""What the workers report of themselves, in GraphQL."""

from db.pool import Database
from db.queries import worker_report
from db.queries.worker_report import WorkerReport
from tests.graph.conftest import Api

QUERY = "{ workers { workers queuedPrices queuedTicks clockSkewS streams connectedStreams newestTickAt failingJobs age: at } }"


async def test_the_newest_report_is_returned_and_none_before_the_first(db: Database, api: Api) -> None:
    assert await api.data(QUERY) == {"workers": None}
    await worker_report.store(db, WorkerReport(1, 2, 3, None, 0, 0, None, []))
    await worker_report.store(db, WorkerReport(2, 4, 5, -0.25, 3, 1, 1_705_318_800.25, ["candles", "digests"]))
    found = (await api.data(QUERY))["workers"]
    now = int(await db.fetchval("SELECT extract(epoch FROM now())::bigint"))
    assert 0 <= now - found.pop("age") < 60
    assert found == {
        "workers": 2,
        "queuedPrices": 4,
        "queuedTicks": 5,
        "clockSkewS": -0.25,
        "streams": 3,
        "connectedStreams": 1,
        "newestTickAt": "2024-01-15T11:40:00.250000Z",
        "failingJobs": ["candles", "digests"],
    }
