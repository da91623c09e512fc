"""Alembic's entry point. Runs on the connection that ``storage.database.migrate`` holds open."""

from alembic import context

from mooring.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,  # the caller's transaction covers the whole upgrade
)
context.run_migrations()
