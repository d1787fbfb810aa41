"""Brings a memory file to the newest schema by numbered SQL files, each in one transaction with its record."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

from memory.errors import MemoryFault
from memory.tables.connection import Connection


@dataclass(frozen=True)
class Migration:
    """One numbered step of the schema. `sql` may hold several statements."""

    version: int
    name: str
    sql: str


def shipped() -> list[Migration]:
    """The migrations in memory/tables/schema, in order: 0001_name.sql is version 1."""
    entries = [entry for entry in (files("memory.tables") / "schema").iterdir() if entry.name.endswith(".sql")]
    steps = [Migration(int(e.name[:4]), e.name[5:-4], e.read_text(encoding="utf-8")) for e in entries]
    return sorted(steps, key=lambda step: step.version)


def migrate(connection: Connection, steps: Sequence[Migration]) -> list[int]:
    """Applies the steps that the file lacks; returns their versions.

    A file with an older schema is first copied beside itself. Raises MemoryFault where the file is newer than the
    newest step or belongs to another program, or where a step fails, which is then undone.
    """
    version = _version(connection)
    newest = steps[-1].version
    if version > newest:
        raise MemoryFault(
            f"{connection.path} has schema {version}, and this virtualmle knows schemas up to {newest}: "
            "update virtualmle, or choose another --home."
        )
    if 0 < version < newest:
        _copy(connection, version)
        version = _version(connection)  # another process may have migrated the file while it was let go
    pending = [step for step in steps if step.version > version]
    for step in pending:
        _apply(connection, step)
    return [step.version for step in pending]


def _version(connection: Connection) -> int:
    """The schema version of the file, 0 for an empty file."""
    with connection.read() as cursor:
        tables = cursor.rows("SELECT table_name FROM duckdb_tables() WHERE database_name = 'home' AND NOT internal")
        names = {row["table_name"] for row in tables}
        if names and "schema_versions" not in names:
            raise MemoryFault(f"{connection.path} is a database of another program: choose another --home.")
        row = cursor.row("SELECT max(version) AS version FROM schema_versions") if names else None
    return int(row["version"]) if row else 0


def _apply(connection: Connection, step: Migration) -> None:
    try:
        with connection.write() as cursor:
            cursor.run(
                "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER, name VARCHAR, applied_at TIMESTAMP)"
            )
            cursor.script(step.sql)
            now = datetime.now(UTC).replace(tzinfo=None)
            values = {"version": step.version, "name": step.name, "now": now}
            cursor.run("INSERT INTO schema_versions VALUES ($version, $name, $now)", values)
    except MemoryFault as fault:
        raise MemoryFault(f"Migration {step.version} ({step.name}) was undone. {fault}") from fault
    connection.checkpoint()


def _copy(connection: Connection, version: int) -> None:
    """Copies the file to `<name>.schema-<version>`, whole or not at all."""
    target = connection.path.with_name(f"{connection.path.name}.schema-{version}")
    partial = target.with_name(target.name + ".partial")
    # Closing any handle of a file drops this process's lock on it, so the database is detached while it is copied.
    connection.detach()
    try:
        shutil.copyfile(connection.path, partial)
        partial.replace(target)
    except OSError as error:
        raise MemoryFault(f"{connection.path} could not be copied before a migration: {error.strerror}.") from error
    finally:
        connection.attach()
