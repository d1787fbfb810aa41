"""memory.store: what is stored comes back whole, states are derived, and nothing acknowledged is lost."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from memory.errors import MemoryFault, MemoryLocked, UnknownAttempt, UnknownNote, UnknownStudy, UnknownTrial
from memory.records import Closing, Expected, NewReveal, Note, NoteKind, Reveal, Trial
from memory.store import Memory, new_id
from tests.support.examples import study
from tests.support.stored import SPACE, epoch, new_trial, result
from trainers.contract.wire import TrialResult

ROOT = Path(__file__).parents[2]


# Ids


def test_an_id_is_its_prefix_and_eight_letters_or_digits() -> None:
    made = {new_id("s") for _ in range(100)}
    assert len(made) == 100
    assert all(one.startswith("s-") and len(one) == 10 and set(one[2:]) <= set("abcdefghijklmnopqrstuvwxyz234567")
               for one in made)  # fmt: skip


# Studies


def test_a_study_comes_back_as_it_was_given(memory: Memory) -> None:
    assert memory.study("s-1") == study()


def test_a_study_keeps_its_restricted_space_and_its_limits(memory: Memory) -> None:
    narrow = SPACE.restrict({"hidden_dim": [32, 64], "dropout": {"low": 0.1, "high": 0.4}, "num_blocks": 2})
    given = study(
        study_id="s-2", space=narrow, max_trials=8, budget_seconds=1800.5, trial_seconds=60, dataset="naïve 数据"
    )
    memory.add_study(given)
    assert memory.study("s-2") == given


def test_times_come_back_in_utc_from_any_zone(memory: Memory) -> None:
    zoned = datetime.fromisoformat("2026-01-01T02:00:00.123456+05:00")
    memory.add_study(study(study_id="s-2", created_at=zoned))
    back = memory.study("s-2").created_at
    assert (back, back.tzinfo) == (zoned, UTC)


def test_studies_are_listed_newest_first(memory: Memory) -> None:
    later = study().created_at + timedelta(days=1)
    memory.add_study(study(study_id="s-late", created_at=later))
    memory.add_study(study(study_id="s-same"))
    assert [one.study_id for one in memory.studies()] == ["s-late", "s-same", "s-1"]


def test_a_finished_study_says_so_and_takes_no_more_trials(memory: Memory) -> None:
    memory.start_trial(new_trial(request_key="k"))
    memory.mark_finished("s-1")
    memory.mark_finished("s-1")
    assert memory.study("s-1") == study(finished=True)
    with pytest.raises(MemoryFault, match="Study 's-1' is finished and takes no more trials"):
        memory.start_trial(new_trial())
    assert memory.start_trial(new_trial(request_key="k")) == memory.trials("s-1")[0]


def test_a_study_is_added_once(memory: Memory) -> None:
    with pytest.raises(MemoryFault, match=r"^Study 's-1' exists already\.$"):
        memory.add_study(study())


def test_unknown_ids_are_named_with_what_to_do(memory: Memory) -> None:
    said = [
        (UnknownStudy, lambda: memory.study("s-9"), "Unknown study 's-9'; read_memory without arguments lists"),
        (UnknownStudy, lambda: memory.trials("s-9"), "Unknown study 's-9'"),
        (UnknownStudy, lambda: memory.mark_finished("s-9"), "Unknown study 's-9'"),
        (UnknownStudy, lambda: memory.start_trial(new_trial(study_id="s-9")), "Unknown study 's-9'"),
        (UnknownStudy, lambda: memory.snapshots.take("s-9", []), "Unknown study 's-9'"),
        (UnknownStudy, lambda: memory.reveals.add(new_reveal("s-9")), "Unknown study 's-9'"),
        (UnknownTrial, lambda: memory.trial("t-9"), "Unknown trial 't-9'; read_memory lists the trials there are."),
        (UnknownTrial, lambda: memory.epochs("t-9"), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.add_epochs("t-9", [epoch(1)]), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.finish_trial(result("t-9")), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.record_verdict("t-9", "tied"), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.start_attempt("t-9", 1, 2.0), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.start_trial(new_trial(parent="t-9")), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.start_trial(new_trial(replicate_of="t-9")), "Unknown trial 't-9'"),
        (UnknownTrial, lambda: memory.add_note("s-1", "reflection", "text", ["t-9"], []), "Unknown trial 't-9'"),
        (UnknownNote, lambda: memory.add_note("s-1", "reflection", "text", [], ["h-9"]), "Unknown note 'h-9'"),
        (UnknownNote, lambda: memory.note("h-9"), "Unknown note 'h-9'; read_memory lists the notes"),
        (UnknownAttempt, lambda: memory.end_attempt("a-9", "killed"), "Unknown attempt 'a-9'"),
    ]  # fmt: skip
    for kind, call, words in said:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert isinstance(caught.value, MemoryFault)
    assert memory.trials("s-1") == []
    assert memory.notes() == []


# Trials


def test_a_new_trial_is_queued_and_comes_back_whole(memory: Memory) -> None:
    new = new_trial(
        {"dropout": 0.3, "loss": "sampled_softmax", "hidden_dim": 32},
        hypothesis="  too few items – überall 🙂 ",
        expected=Expected(field="dropout", direction="up", effect=0.02, confidence=0.7),
        cites=("h-1", "h-2"),
        snapshot_id="r-1",
        request_key="key",
    )
    started = memory.start_trial(new)
    given: dict[str, Any] = {**new.model_dump(), "hypothesis": "too few items – überall 🙂"}
    assert started == Trial(
        **given,
        trial_id=started.trial_id,
        number=0,
        created_at=started.created_at,
        status="queued",
    )
    assert memory.trial(started.trial_id) == started
    assert {name: type(value) for name, value in memory.trial(started.trial_id).config.items()} == {
        name: type(value) for name, value in new.config.items()
    }


def test_numbers_count_configurations_and_replicates_share_theirs(memory: Memory) -> None:
    first = memory.start_trial(new_trial())
    second = memory.start_trial(new_trial({"dropout": 0.3}, parent=first.trial_id))
    memory.start_trial(new_trial(seed=1, replicate_of=first.trial_id))
    memory.start_trial(new_trial({"dropout": 0.3}, seed=2, replicate_of=second.trial_id))
    memory.start_trial(new_trial(seed=3))
    memory.start_trial(new_trial({"dropout": 0.1}))
    assert [trial.number for trial in memory.trials("s-1")] == [0, 1, 0, 1, 0, 2]


def test_each_study_numbers_its_own_trials(memory: Memory) -> None:
    memory.add_study(study(study_id="s-2"))
    first = memory.start_trial(new_trial())
    other = memory.start_trial(new_trial({"dropout": 0.3}, study_id="s-2"))
    assert (first.number, other.number) == (0, 0)
    with pytest.raises(MemoryFault, match=f"Trial {other.trial_id!r} is of study 's-2', not of 's-1'"):
        memory.start_trial(new_trial(seed=1, replicate_of=other.trial_id))


def test_the_same_request_key_gives_the_same_trial_within_a_study(memory: Memory) -> None:
    memory.add_study(study(study_id="s-2"))
    first = memory.start_trial(new_trial(request_key="once"))
    again = memory.start_trial(new_trial({"dropout": 0.3}, request_key="once"))
    elsewhere = memory.start_trial(new_trial(study_id="s-2", request_key="once"))
    assert again == first
    assert elsewhere.trial_id != first.trial_id
    assert memory.start_trial(new_trial()).trial_id != memory.start_trial(new_trial()).trial_id


def test_a_hypothesis_is_neither_empty_nor_endless(memory: Memory) -> None:
    with pytest.raises(MemoryFault, match="The hypothesis is empty"):
        memory.start_trial(new_trial(hypothesis=" \n"))
    with pytest.raises(MemoryFault, match="The hypothesis has 2,001 characters; at most 2,000 are kept"):
        memory.start_trial(new_trial(hypothesis="x" * 2_001))
    assert memory.trials("s-1") == []


def test_trial_values_match_pairs_that_differ_in_one_field(memory: Memory, tmp_path: Path) -> None:
    base = memory.start_trial(new_trial())
    other = memory.start_trial(new_trial({"dropout": 0.25}))
    memory.start_trial(new_trial({"dropout": 0.25, "hidden_dim": 32}))
    memory.close()
    with duckdb.connect(str(tmp_path / "memory.duckdb")) as file:
        pairs = file.execute(
            """SELECT a.trial_id, a.number, b.trial_id, b.number, a.field FROM trial_values a JOIN trial_values b
               ON a.field = b.field AND a.rest_hash = b.rest_hash AND a.number > b.number WHERE a.field = 'dropout'"""
        ).fetchall()
    assert pairs == [(base.trial_id, 0.5, other.trial_id, 0.25, "dropout")]


def test_trial_values_hold_the_fields_with_an_effect_only(memory: Memory, tmp_path: Path) -> None:
    config = SPACE.default()
    trial = memory.start_trial(new_trial())
    memory.close()
    with duckdb.connect(str(tmp_path / "memory.duckdb")) as file:
        rows = file.execute(
            "SELECT field, number, text, rest_hash FROM trial_values WHERE trial_id = $1", [trial.trial_id]
        )
        stored = {field: (number, text, rest) for field, number, text, rest in rows.fetchall()}
    active = [field.name for field in SPACE.fields if SPACE.active(field, config)]
    assert list(stored) == active
    assert len(active) < len(SPACE.fields)
    assert stored["hidden_dim"] == (64.0, None, SPACE.hash(config, leave_out="hidden_dim"))
    assert stored["tie_embeddings"][:2] == (1.0, None)
    assert stored["loss"][:2] == (None, config["loss"])


def test_a_trial_s_state_follows_from_its_attempts_and_its_result(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    seen = [memory.trial(trial_id).status]
    first = memory.start_attempt(trial_id, pid=11, create_time=1.5)
    seen.append(memory.trial(trial_id).status)
    memory.end_attempt(first.attempt_id, "owner killed")
    seen.append(memory.trial(trial_id).status)
    memory.start_attempt(trial_id, pid=12, create_time=2.5)
    seen.append(memory.trial(trial_id).status)
    memory.finish_trial(result(trial_id, status="timed_out"))
    seen.append(memory.trial(trial_id).status)
    assert seen == ["queued", "running", "interrupted", "running", "timed_out"]


def test_an_attempt_keeps_the_first_cause_of_its_end(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    attempt = memory.start_attempt(trial_id, pid=11, create_time=1.5)
    assert (attempt.pid, attempt.create_time, attempt.ended_at, attempt.cause) == (11, 1.5, None, None)
    assert memory.open_attempts() == [attempt]
    memory.end_attempt(attempt.attempt_id, "killed by signal 9")
    memory.end_attempt(attempt.attempt_id, "finished")
    (ended,) = memory.attempts(trial_id)
    assert ended.cause == "killed by signal 9"
    assert ended.ended_at is not None
    assert memory.open_attempts() == []


def test_an_attempt_stays_open_until_told_even_where_the_trial_has_its_result(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    attempt = memory.start_attempt(trial_id, pid=11, create_time=1.5)
    memory.finish_trial(result(trial_id))
    assert memory.open_attempts() == [attempt]
    with pytest.raises(MemoryFault, match=rf"Trial '{trial_id}' has ended \(ok\) and takes no new attempt"):
        memory.start_attempt(trial_id, pid=12, create_time=1.5)


def test_unfinished_trials_are_those_of_any_study_without_a_result(memory: Memory) -> None:
    memory.add_study(study(study_id="s-2"))
    started = [memory.start_trial(new_trial(seed=seed)).trial_id for seed in range(4)]
    other = memory.start_trial(new_trial(study_id="s-2")).trial_id
    memory.finish_trial(result(started[1], status="crashed", validation={}))
    memory.start_attempt(started[2], pid=1, create_time=1.0)
    memory.end_attempt(memory.start_attempt(started[3], pid=2, create_time=1.0).attempt_id, "killed")
    found = {trial.trial_id: trial.status for trial in memory.unfinished_trials()}
    assert found == {started[0]: "queued", started[2]: "running", started[3]: "interrupted", other: "queued"}


def test_the_first_result_of_a_trial_stays(memory: Memory) -> None:
    trial = memory.start_trial(new_trial())
    given = result(
        trial.trial_id, 0.051, message="done", seconds=12.5, eval_seconds=1.5, peak_memory_mb=300.5, parameters=9,
        device="cpu", threads=2, trainer_version="1", versions={"torch": "2.9", "python": "3.11"},
    )  # fmt: skip
    wanted = Trial(**(trial.model_dump() | given.model_dump()))
    assert memory.finish_trial(given) == wanted
    assert memory.finish_trial(result(trial.trial_id, 0.9, status="crashed")) == wanted
    assert memory.trials("s-1") == [wanted]


def test_metrics_that_are_no_numbers_are_absent(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    metrics = {"ndcg@10": math.nan, "recall@10": math.inf, "mrr@10": 0.25}
    assert memory.finish_trial(result(trial_id, status="diverged", validation=metrics)).validation == {"mrr@10": 0.25}


def test_an_endless_message_keeps_its_end(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    message = memory.finish_trial(result(trial_id, message="log " * 100_000 + "ValueError: the reason")).message
    assert len(message) == 20_000
    assert message.startswith("…")
    assert message.endswith("ValueError: the reason")


def test_the_newest_verdict_counts(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    assert memory.trial(trial_id).verdict is None
    memory.record_verdict(trial_id, "retest")
    memory.record_verdict(trial_id, "better")
    assert memory.trial(trial_id).verdict == "better"


def test_replicates_are_the_configurations_that_several_seeds_scored(memory: Memory) -> None:
    memory.add_study(study(study_id="s-2", metric="recall@10"))
    scores = [("s-1", {}, 0, 0.05), ("s-1", {}, 1, 0.06), ("s-1", {"dropout": 0.3}, 0, 0.07), ("s-1", {}, 2, math.nan),
              ("s-2", {}, 0, 0.01), ("s-2", {}, 1, 0.02)]  # fmt: skip
    for study_id, changes, seed, score in scores:
        trial = memory.start_trial(new_trial(changes, study_id=study_id, seed=seed))
        memory.finish_trial(result(trial.trial_id, score))
    later = study().created_at + timedelta(seconds=1)
    assert memory.replicates("sasrec", "ndcg@10", later) == [(5000, (0.05, 0.06))]
    assert memory.replicates("sasrec", "ndcg@10", study().created_at) == []
    assert memory.replicates("hstu", "ndcg@10", later) == []


# Epochs


def test_epochs_are_stored_once_and_in_order(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    memory.start_attempt(trial_id, pid=1, create_time=1.0)
    memory.add_epochs(trial_id, [epoch(2), epoch(1)])
    memory.add_epochs(trial_id, [epoch(1, loss=9.0), epoch(3)])
    memory.add_epochs(trial_id, [])
    assert memory.epochs(trial_id) == [epoch(1), epoch(2), epoch(3)]


def test_a_new_attempt_begins_its_own_curve(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    memory.add_epochs(trial_id, [epoch(1, loss=3.0)])
    assert memory.epochs(trial_id) == [epoch(1, loss=3.0)]
    first = memory.start_attempt(trial_id, pid=1, create_time=1.0)
    assert memory.epochs(trial_id) == []
    memory.add_epochs(trial_id, [epoch(1), epoch(2)])
    memory.end_attempt(first.attempt_id, "killed")
    assert memory.epochs(trial_id) == [epoch(1), epoch(2)]
    memory.start_attempt(trial_id, pid=2, create_time=1.0)
    memory.add_epochs(trial_id, [epoch(1, loss=0.5)])
    assert memory.epochs(trial_id) == [epoch(1, loss=0.5)]


def test_a_metric_that_is_no_number_is_absent(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    validation = {"ndcg@10": math.nan, "recall@10": 0.5}
    memory.finish_trial(TrialResult(trial_id=trial_id, status="ok", validation=validation))
    assert memory.trial(trial_id).validation == {"recall@10": 0.5}


# Notes, snapshots, reveals


def test_a_note_comes_back_whole_and_only_heuristics_have_a_verdict(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    text = "Kürzer ist besser 短い列; '); DROP TABLE notes; --"
    note = memory.add_note("s-1", "heuristic", f"\n {text}\x00 ", [trial_id, trial_id], [])
    assert note == Note(
        note_id=note.note_id, study_id="s-1", kind="heuristic", text=text, evidence=(trial_id,),
        verdict="insufficient", created_at=note.created_at, dataset="demo", backbone="sasrec",
    )  # fmt: skip
    assert memory.note(note.note_id) == note
    assert memory.add_note("s-1", "reflection", "r", [trial_id], []).verdict is None
    assert memory.add_note("s-1", "summary", "s", [], []).verdict is None


def test_a_superseded_note_stays_as_it_was_and_leaves_the_list(memory: Memory) -> None:
    old = memory.add_note("s-1", "heuristic", "old", [], [])
    new = memory.add_note("s-1", "heuristic", "new", [], [old.note_id])
    memory.add_note("s-1", "heuristic", "newest", [], [old.note_id])
    assert new.supersedes == (old.note_id,)
    assert [note.text for note in memory.notes()] == ["new", "newest"]
    assert memory.notes(include_superseded=True)[0] == old.model_copy(update={"superseded_by": new.note_id})


def test_notes_are_listed_by_study_and_kind(memory: Memory) -> None:
    memory.add_study(study(study_id="s-2"))
    wanted: list[tuple[str, NoteKind]] = [
        ("s-1", "heuristic"), ("s-1", "reflection"), ("s-2", "heuristic"), ("s-2", "summary"),
    ]  # fmt: skip
    for study_id, kind in wanted:
        memory.add_note(study_id, kind, f"{kind} of {study_id}", [], [])
    assert [note.text for note in memory.notes(study_id="s-1")] == ["heuristic of s-1", "reflection of s-1"]
    assert [note.text for note in memory.notes(kind="heuristic")] == ["heuristic of s-1", "heuristic of s-2"]
    assert [note.text for note in memory.notes(study_id="s-2", kind="summary")] == ["summary of s-2"]
    assert memory.notes(study_id="s-9") == []


def test_the_same_text_of_the_same_kind_is_one_note_of_a_study(memory: Memory) -> None:
    memory.add_study(study(study_id="s-2"))
    first = memory.add_note("s-1", "heuristic", "widen first", [], [])
    assert memory.add_note("s-1", "heuristic", " widen first\n", [], []) == first
    others = [memory.add_note("s-1", "reflection", "widen first", [], []),
              memory.add_note("s-2", "heuristic", "widen first", [], [])]  # fmt: skip
    assert first.note_id not in {note.note_id for note in others}


def test_the_same_text_may_supersede_itself_with_new_evidence(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    first = memory.add_note("s-1", "heuristic", "widen first", [], [])
    second = memory.add_note("s-1", "heuristic", "widen first", [trial_id], [first.note_id])
    assert second.note_id != first.note_id
    assert memory.notes() == [second]
    assert memory.add_note("s-1", "heuristic", "widen first", [], []) == second


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_note_is_refused(memory: Memory, text: str) -> None:
    with pytest.raises(MemoryFault, match="The heuristic is empty; say in a sentence"):
        memory.add_note("s-1", "heuristic", text, [], [])


def test_a_note_beyond_the_limit_is_refused_and_one_at_the_limit_kept(memory: Memory) -> None:
    with pytest.raises(
        MemoryFault, match=r"^The summary has 1,000,000 characters; at most 8,000 are kept\. Shorten it\.$"
    ):
        memory.add_note("s-1", "summary", "x" * 1_000_000, [], [])
    assert len(memory.add_note("s-1", "summary", "é" * 8_000, [], []).text) == 8_000


def test_a_snapshot_keeps_what_was_shown_and_the_latest_is_the_study_s_own(memory: Memory) -> None:
    assert memory.snapshots.latest("s-1") is None
    memory.snapshots.take("s-1", [])
    mine = memory.snapshots.take("s-1", ["h-2", "h-1"])
    of_no_study = memory.snapshots.take(None, ["h-3"])
    assert mine.startswith("r-")
    assert memory.snapshots.latest("s-1") == mine
    assert memory.snapshots.shown(mine) == ("h-2", "h-1")
    assert memory.snapshots.shown(of_no_study) == ("h-3",)
    assert memory.snapshots.shown("r-9") is None


def new_reveal(study_id: str = "s-1", **changes: Any) -> NewReveal:
    return NewReveal.model_validate(
        {"study_id": study_id, "dataset_hash": "abc", "chosen": (), "default": (), "test": {}} | changes
    )


def test_reveals_count_per_dataset_content_and_happen_once_a_study(memory: Memory) -> None:
    for study_id in ("s-2", "s-3"):
        memory.add_study(study(study_id=study_id))
    seen = new_reveal(
        chosen=("t-1",), default=("t-2",), test={"t-1": {"ndcg@10": 0.04}, "t-2": {"ndcg@10": 0.03}},
        baselines={"popularity": {"ndcg@10": 0.02}}, users=986, user_variance=0.0025,
        apart={"t-1": {"ndcg@10": 0.01}}, apart_users=12,
    )  # fmt: skip
    first = memory.reveals.add(seen)
    assert first == Reveal(**dict(seen), ordinal=1, created_at=first.created_at)
    assert memory.reveals.add(new_reveal(chosen=("t-9",))) == first
    assert memory.reveals.add(new_reveal("s-2")).ordinal == 2
    assert memory.reveals.add(new_reveal("s-3", dataset_hash="other")).ordinal == 1
    assert memory.reveals.of_study("s-1") == first
    assert memory.reveals.of_study("s-9") is None


def test_a_choice_is_kept_with_its_fresh_seeds_and_the_first_one_stays(memory: Memory) -> None:
    memory.reveals.close("s-1", ["t-1"], ["t-2"], ((7, 8), (7, 9)))
    memory.reveals.close("s-1", ["t-3"], [], ((5,), ()))
    kept = Closing(study_id="s-1", chosen=("t-1",), default=("t-2",), chosen_seeds=(7, 8), default_seeds=(7, 9))
    assert memory.reveals.closing("s-1") == kept


def test_a_closing_study_takes_only_a_trial_that_confirms_its_choice(memory: Memory) -> None:
    memory.reveals.close("s-1", ["t-1"], ["t-2"])
    with pytest.raises(MemoryFault, match="is being finished"):
        memory.start_trial(new_trial())
    assert memory.start_trial(new_trial(), confirms=True).status == "queued"
    memory.mark_finished("s-1")
    with pytest.raises(MemoryFault, match="is finished"):
        memory.start_trial(new_trial(), confirms=True)


def test_no_read_but_the_reveal_holds_a_test_number(memory: Memory) -> None:
    trial = memory.start_trial(new_trial())
    memory.finish_trial(result(trial.trial_id, 0.05))
    memory.add_note("s-1", "summary", "done", [trial.trial_id], [])
    memory.reveals.add(
        new_reveal(chosen=(trial.trial_id,), default=(trial.trial_id,), test={trial.trial_id: {"ndcg@10": 0.987654}})
    )
    memory.mark_finished("s-1")
    read = [
        memory.studies(),
        memory.trials("s-1"),
        memory.notes(),
        memory.replicates("sasrec", "ndcg@10", datetime.now(UTC)),
    ]
    assert "0.987654" not in repr(read)


# The file and the process that holds it


def test_everything_is_there_after_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "it's a home" / "memory.duckdb"
    memory = Memory.open(path)
    memory.add_study(study())
    trial = memory.finish_trial(result(memory.start_trial(new_trial()).trial_id))
    note = memory.add_note("s-1", "summary", "done", [trial.trial_id], [])
    memory.close()
    memory.close()
    with pytest.raises(MemoryFault, match=r"is closed\.$"):
        memory.studies()
    again = Memory.open(path)
    assert (again.studies(), again.trials("s-1"), again.notes()) == ([study()], [trial], [note])
    assert again.start_trial(new_trial({"dropout": 0.3})).number == 1
    again.close()


def test_a_second_holder_is_told_who_holds_the_file(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "memory.duckdb"
    said = f"{path} is held by process {os.getpid()}: use that one, or stop it with `virtualmle stop`."
    with pytest.raises(MemoryLocked) as caught:
        Memory.open(path)
    assert (str(caught.value), caught.value.pid) == (said, os.getpid())
    code = (
        "import sys\nfrom pathlib import Path\nfrom memory.store import Memory, MemoryFault\n"
        "try: Memory.open(Path(sys.argv[1]))\nexcept MemoryFault as error: sys.stdout.write(str(error))"
    )
    other = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout == said
    assert memory.study("s-1") == study()


FULL_DISK = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from memory.errors import MemoryFault
from memory.store import Memory
path = Path(sys.argv[1])
memory = Memory.open(path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = path.stat().st_size + 4096
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    for number in range(1000):
        note = memory.add_note("s-1", "summary", f"{number} " + "x" * 7_900, [], [])
        print(note.note_id, flush=True)
except MemoryFault as fault:
    print(fault, flush=True)
"""


def test_a_disk_that_is_full_gives_one_line_and_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory.duckdb"
    memory = Memory.open(path)
    memory.add_study(study())
    memory.close()
    command = [sys.executable, "-c", FULL_DISK, str(path), str(ROOT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    *told, fault = ended.stdout.splitlines()
    assert fault.startswith(f"Memory at {path} failed: "), ended
    again = Memory.open(path)
    assert again.study("s-1") == study()
    assert [note.note_id for note in again.notes()][: len(told)] == told
    again.close()


def test_a_place_that_cannot_be_made_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        MemoryFault, match=r"^Memory cannot be kept at .*memory\.duckdb: (Not a directory|File exists)\.$"
    ):
        Memory.open(tmp_path / "file" / "memory.duckdb")
    with pytest.raises(MemoryFault, match=r"^.* is no file: move it away, or restore the file from a backup\.$"):
        Memory.open(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_gives_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MemoryFault, match=r"^.*memory\.duckdb cannot be opened: .*Permission denied.*$"):
        Memory.open(tmp_path / "memory.duckdb")


@pytest.mark.parametrize("kept", [0, 100, 5000, 20_000])
def test_a_truncated_file_gives_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "memory.duckdb"
    memory = Memory.open(path)
    memory.add_study(study())
    memory.close()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        MemoryFault, match=r"^.*(is damaged or not a memory file \(|is empty: a first start was cut off).*$"
    ):
        Memory.open(path)


def test_garbage_and_flipped_bytes_give_one_line(tmp_path: Path) -> None:
    path = tmp_path / "memory.duckdb"
    path.write_bytes(b"not a database " * 4000)
    with pytest.raises(MemoryFault, match=r"^.* is damaged or not a memory file \(.*$"):
        Memory.open(path)
    path.unlink()
    memory = Memory.open(path)
    memory.close()
    content = bytearray(path.read_bytes())
    content[12_500:14_000] = b"\xff" * 1500
    path.write_bytes(content)
    with pytest.raises(MemoryFault, match=r"^.* is damaged or not a memory file \(.*$"):
        Memory.open(path)


def test_many_threads_share_one_memory(memory: Memory) -> None:
    def tune(worker: int) -> None:
        for step in range(3):
            trial = memory.start_trial(
                new_trial({"dropout": 0.1 * (step + 1)}, seed=worker, request_key=f"{worker}/{step}")
            )
            attempt = memory.start_attempt(trial.trial_id, pid=worker, create_time=1.0)
            memory.add_epochs(trial.trial_id, [epoch(1)])
            memory.finish_trial(result(trial.trial_id))
            memory.end_attempt(attempt.attempt_id, "finished")
            memory.add_note("s-1", "reflection", f"{worker}/{step}", [trial.trial_id], [])
            memory.trials("s-1")

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(tune, range(5)))
    trials = memory.trials("s-1")
    assert len(trials) == len({trial.trial_id for trial in trials}) == 15
    assert {trial.number for trial in trials} == set(range(3))
    assert all(len({trial.config_hash for trial in trials if trial.number == number}) == 1 for number in range(3))
    assert len(memory.notes()) == 15
    assert memory.open_attempts() == memory.unfinished_trials() == []


def test_the_same_request_from_many_threads_is_one_trial(memory: Memory) -> None:
    with ThreadPoolExecutor(6) as pool:
        trials = list(pool.map(lambda _: memory.start_trial(new_trial(request_key="once")), range(12)))
    assert len({trial.trial_id for trial in trials}) == 1
