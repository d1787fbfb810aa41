"""memory.tables.migrations: every step once, whole or not at all, and never over a file that was not copied."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from memory.errors import MemoryFault
from memory.records import NewTrial
from memory.store import Memory
from memory.tables.connection import Connection
from memory.tables.migrations import Migration, migrate, shipped
from memory.tables.rows import stored_time
from tests.support.examples import study
from trainers.contract.wire import TrialResult

FIRST = Migration(1, "begin", "CREATE TABLE facts (fact VARCHAR); CREATE VIEW seen AS SELECT fact FROM facts;")
SECOND = Migration(
    2, "add_colour", "ALTER TABLE facts ADD COLUMN colour VARCHAR; INSERT INTO facts VALUES ('a', 'red');"
)
BROKEN = Migration(2, "broken", "ALTER TABLE facts ADD COLUMN colour VARCHAR; INSERT INTO nowhere VALUES (1);")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.duckdb"


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    opened = Connection(path)
    yield opened
    opened.close()


def versions(connection: Connection) -> list[tuple[int, str]]:
    with connection.read() as cursor:
        rows = cursor.rows("SELECT version, name FROM schema_versions ORDER BY version")
    return [(row["version"], row["name"]) for row in rows]


def columns(connection: Connection) -> list[str]:
    with connection.read() as cursor:
        return [row["column_name"] for row in cursor.rows("DESCRIBE facts")]


def test_the_shipped_steps_are_numbered_from_one_without_a_gap() -> None:
    steps = shipped()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.name and step.sql for step in steps)


def test_the_shipped_schema_keeps_away_from_what_duckdb_cannot_replay() -> None:
    statements = "\n".join(
        line for step in shipped() for line in step.sql.lower().splitlines() if not line.lstrip().startswith("--")
    )
    for trap in ("references", "foreign key", " json", "json_valid", "generated", "check ("):
        assert trap not in statements


def test_each_step_is_applied_once_and_recorded(connection: Connection) -> None:
    assert migrate(connection, [FIRST]) == [1]
    assert migrate(connection, [FIRST]) == []
    assert migrate(connection, [FIRST, SECOND]) == [2]
    assert migrate(connection, [FIRST, SECOND]) == []
    assert versions(connection) == [(1, "begin"), (2, "add_colour")]
    with connection.read() as cursor:
        assert cursor.rows("SELECT * FROM facts") == [{"fact": "a", "colour": "red"}]


def test_a_new_file_gets_every_step_and_no_copy(connection: Connection, path: Path) -> None:
    assert migrate(connection, [FIRST, SECOND]) == [1, 2]
    assert [entry.name for entry in path.parent.iterdir() if ".schema-" in entry.name] == []


def test_a_file_is_copied_as_it_was_before_it_is_changed(connection: Connection, path: Path) -> None:
    migrate(connection, [FIRST])
    with connection.write() as cursor:
        cursor.run("INSERT INTO facts VALUES ('kept')")
    migrate(connection, [FIRST, SECOND])
    with duckdb.connect(str(path.with_name("memory.duckdb.schema-1")), read_only=True) as copy:
        assert copy.execute("SELECT * FROM facts").fetchall() == [("kept",)]


def test_the_lock_is_held_again_after_the_copy(connection: Connection, path: Path) -> None:
    migrate(connection, [FIRST])
    migrate(connection, [FIRST, SECOND])
    with pytest.raises(MemoryFault, match="is held by process"):
        Connection(path)


def test_a_step_that_fails_leaves_the_file_as_it_was(connection: Connection) -> None:
    migrate(connection, [FIRST])
    with pytest.raises(MemoryFault, match=r"^Migration 2 \(broken\) was undone\. Memory at .* failed: .*nowhere.*$"):
        migrate(connection, [FIRST, BROKEN])
    assert versions(connection) == [(1, "begin")]
    assert columns(connection) == ["fact"]
    assert migrate(connection, [FIRST, SECOND]) == [2]


def test_steps_before_a_failing_one_stay(connection: Connection) -> None:
    with pytest.raises(MemoryFault, match="Migration 3"):
        migrate(connection, [FIRST, SECOND, Migration(3, "broken", "SELECT * FROM nowhere;")])
    assert versions(connection) == [(1, "begin"), (2, "add_colour")]


def test_a_copy_that_cannot_be_made_stops_the_migration(connection: Connection, path: Path) -> None:
    migrate(connection, [FIRST])
    path.with_name("memory.duckdb.schema-1.partial").mkdir()
    with pytest.raises(MemoryFault, match=r"^.* could not be copied before a migration: Is a directory\.$"):
        migrate(connection, [FIRST, SECOND])
    assert columns(connection) == ["fact"]


KILLED_BEFORE_CHECKPOINT = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from memory.tables.connection import Connection
from memory.tables.migrations import migrate
from tests.memory.tables.test_migrations import FIRST, SECOND
connection = Connection(Path(sys.argv[1]))
migrate(connection, [FIRST])
Connection.checkpoint = lambda self: os.kill(os.getpid(), signal.SIGKILL)
migrate(connection, [FIRST, SECOND])
"""


def test_a_kill_right_after_a_step_leaves_it_applied_once(path: Path) -> None:
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_CHECKPOINT, path, root], check=False)
    assert killed.returncode == -signal.SIGKILL
    connection = Connection(path)
    assert migrate(connection, [FIRST, SECOND]) == []
    assert columns(connection) == ["fact", "colour"]
    connection.close()


def test_a_newer_file_is_refused_in_one_line_and_untouched(path: Path) -> None:
    Memory.open(path).close()
    newest = shipped()[-1].version
    with duckdb.connect(str(path)) as file:
        file.execute("INSERT INTO schema_versions VALUES (99, 'from tomorrow', now()::TIMESTAMP)")
    before = path.read_bytes()
    said = rf"^.*has schema 99, and this virtualmle knows schemas up to {newest}: update virtualmle, or .*$"
    for _ in range(2):
        with pytest.raises(MemoryFault, match=said):
            Memory.open(path)
    assert path.read_bytes() == before


def test_another_program_s_database_is_refused_and_untouched(path: Path) -> None:
    with duckdb.connect(str(path)) as file:
        file.execute("CREATE TABLE invoices (amount DOUBLE)")
    with pytest.raises(MemoryFault, match=r"^.* is a database of another program: choose another --home\.$"):
        Memory.open(path)
    with duckdb.connect(str(path)) as file:
        assert file.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("invoices",)]


def test_a_home_from_before_fingerprints_keeps_its_trials_and_takes_new_ones(path: Path) -> None:
    before = Connection(path)
    migrate(before, shipped()[:1])
    given = study()
    values = given.model_dump(
        exclude={
            "facts",
            "space",
            "closing",
            "finished",
            "early_stop",
            "guardrails",
            "withhold",
            "gpu_seconds",
            "min_gain",
            "confirm_seeds",
        }
    ) | {
        "created_at": stored_time(given.created_at),
        "facts": given.facts.model_dump_json(),
        "space": given.space.model_dump_json(),
    }
    with before.write() as cursor:
        cursor.run(f"INSERT INTO studies ({', '.join(values)}) VALUES ({', '.join(f'${n}' for n in values)})", values)
        cursor.script(
            """INSERT INTO trials (trial_id, study_id, number, created_at, changes, config, config_hash, seed, cites)
               VALUES ('t-old', 's-1', 0, TIMESTAMP '2026-01-01', '{}', '{}', 'hash', 0, []);
               INSERT INTO trial_results
               VALUES ('t-old', TIMESTAMP '2026-01-01', 'ok', '', MAP {'ndcg@10': 0.05}, 3, 5, 10.0, 1.0, NULL, NULL,
                       NULL, 1, '1', MAP {});"""
        )
    before.close()
    memory = Memory.open(path)
    old = memory.trial("t-old")
    assert (old.status, old.validation, old.epochs) == ("ok", {"ndcg@10": 0.05}, 5)
    assert (old.fingerprint, old.weights_of, old.early_stop) == (None, None, "auto")
    new = memory.start_trial(
        NewTrial(study_id="s-1", parent="t-old", changes={}, config=given.space.default(), config_hash="other",
                 fingerprint="print", seed=0)
    )  # fmt: skip
    memory.finish_trial(TrialResult(trial_id=new.trial_id, status="ok", weights_of="t-old"))
    assert memory.trial(new.trial_id).weights_of == "t-old"
    assert memory.trained("print") == [new.trial_id]
    memory.close()


def test_the_views_read_from_a_plain_connection_to_the_closed_file(path: Path) -> None:
    Memory.open(path).close()
    with duckdb.connect(str(path), read_only=True) as file:
        for view in ("study_states", "trial_states", "note_states"):
            assert file.execute(f"SELECT * FROM {view}").fetchall() == []
