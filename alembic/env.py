"""Alembic environment. It connects with asyncpg to the configured database; a lock allows one migration at a time."""

import asyncio

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db import pool, tables
from db.errors import DatabaseError
from db.runtime import embedded_lookup, log
from db.settings import Settings

MIGRATION_LOCK_ID = 7235422


def number_revisions(_context: object, _revision: object, directives: list[MigrationScript]) -> None:
    """Numbers a new revision after the newest one, so that file names show the order of the revisions."""
    head = ScriptDirectory.from_config(context.config).get_current_head()
    for script in directives:
        script.rev_id = f"{int(head or 0) + 1:04}"


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.metadata,
        compare_server_default=False,
        process_revision_directives=number_revisions,
    )
    with context.begin_transaction():
        # The lock belongs to the migrating transaction, so a waiting process sees the migrated schema.
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK_ID})"))
        guard = context.config.attributes.get("guard")
        if guard is not None:
            guard(connection)
        context.run_migrations()


async def run(dsn: str) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: pool.connect(dsn), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=tables.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (dsn := context.config.attributes.get("dsn")) is not None:
    asyncio.run(run(dsn))
else:  # the `alembic` command line
    settings = Settings.read()
    log.configure(settings, "alembic")
    try:
        asyncio.run(run(embedded_lookup.postgres_url(settings)))
    except DatabaseError as error:
        raise SystemExit(f"{settings.dsn_setting}: {error}") from None
