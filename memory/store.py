"""Memory: what one owner process remembers of studies, trials and notes, in one DuckDB file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from memory import notes, trials
from memory.claim_book import ClaimBook
from memory.claims import Claim, checked
from memory.connection import Connection
from memory.credit import Ledger
from memory.errors import MemoryFault
from memory.exchange import Packs
from memory.lore import Lore
from memory.migrations import migrate, shipped
from memory.notebook import Notebook
from memory.policy_runs import PolicyRuns
from memory.records import Attempt, NewTrial, Note, NoteKind, Reveal, Study, Trial
from memory.rows import new_id
from memory.studies import Studies
from trainers.spec import DatasetFacts, Epoch, TrialResult

__all__ = ["Memory", "new_id"]


class Memory:
    """The store. Every method is one transaction, safe from any thread; what it answered survives a kill.

    Methods raise UnknownStudy, UnknownTrial, UnknownNote or UnknownAttempt for ids that do not exist, and MemoryFault
    for what the file or the disk refuses.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._book = ClaimBook()
        self._studies = Studies()
        self._rosters: dict[str, trials.Roster] = {}
        self._notebook = Notebook(connection)
        self.lore = Lore(connection, self._book)
        self.ledger = Ledger(connection)
        self.runs = PolicyRuns(connection)
        self.packs = Packs(connection, self._book, self._notebook)

    @classmethod
    def open(cls, path: Path) -> Memory:
        """Opens or makes the file at `path` and brings it to the newest schema.

        Raises MemoryLocked where another process holds it, and MemoryFault where it is damaged, newer than this
        version or out of reach; each message is one line.
        """
        connection = Connection(path)
        try:
            migrate(connection, shipped())
        except MemoryFault:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        """Lets go of the file; a second call does nothing."""
        self._connection.close()

    # Studies

    def add_study(self, study: Study) -> None:
        """Stores a new study; `finished` is a later fact of its own."""
        with self._connection.write() as cursor:
            self._studies.add(cursor, study)

    def study(self, study_id: str) -> Study:
        """The study as it stands."""
        with self._connection.read() as cursor:
            return self._studies.one(cursor, study_id)

    def studies(self) -> list[Study]:
        """All studies, newest first."""
        with self._connection.read() as cursor:
            return self._studies.all(cursor)

    def mark_finished(self, study_id: str) -> None:
        """Ends a study: it takes no more trials. A second call does nothing."""
        with self._connection.write() as cursor:
            self._studies.end(cursor, study_id)

    # Trials

    def start_trial(self, new: NewTrial) -> Trial:
        """Stores a queued trial under a fresh id; the one that is there where the study saw this request_key before.

        Its number is that of `replicate_of` or of an equal configuration in the study, else the next, from 0.
        """
        study_id = new.study_id
        try:
            with self._connection.write() as cursor:
                study = self._studies.one(cursor, study_id)
                roster = self._rosters[study_id] = self._rosters.get(study_id) or trials.roster(cursor, study_id)
                return trials.start(cursor, study, new, roster)
        except BaseException:
            self._rosters.pop(study_id, None)  # what did not come to be must not be counted
            raise

    def slot_seconds(self, study_id: str) -> float:
        """How long the study's trainings have held a slot so far, those under way included."""
        with self._connection.read() as cursor:
            return self._studies.slot_seconds(cursor, study_id)

    def trial(self, trial_id: str) -> Trial:
        """The trial as it stands; its status is derived from its attempts and its result."""
        with self._connection.read() as cursor:
            return trials.one(cursor, trial_id)

    def trials(self, study_id: str) -> list[Trial]:
        """All trials of a study, oldest first."""
        with self._connection.read() as cursor:
            found = trials.of_study(cursor, study_id)
            if not found:
                self._studies.one(cursor, study_id)
            return found

    def find_trial(self, study_id: str, config_hash: str, seed: int) -> Trial | None:
        """The latest trial of this configuration and seed that was neither cancelled nor crashed."""
        with self._connection.read() as cursor:
            return trials.equal(cursor, study_id, config_hash, seed)

    def trained(self, fingerprint: str) -> list[str]:
        """The `ok` trials of any study with this training fingerprint, the one to take weights from first."""
        with self._connection.read() as cursor:
            return trials.trained(cursor, fingerprint)

    def unfinished_trials(self) -> list[Trial]:
        """The queued, running and interrupted trials of all studies, oldest first."""
        with self._connection.read() as cursor:
            return trials.unfinished(cursor)

    def finish_trial(self, result: TrialResult) -> Trial:
        """Stores how a trial ended. The first result stays: a second one is ignored and the stored one answered.

        Metrics that are not finite are left out, and a message beyond 20,000 characters keeps its end.
        """
        with self._connection.write() as cursor:
            trial = trials.finish(cursor, result)
        with self._connection.write() as cursor:  # apart: a fault in judging claims must not lose the result
            judged = self._book.landed(cursor, self._studies.one(cursor, trial.study_id), trial)
        self._notebook.refresh(judged)
        return trial

    def record_verdict(self, trial_id: str, verdict: str) -> None:
        """Stores what was told of a trial against noise; the newest verdict is the trial's."""
        with self._connection.write() as cursor:
            trials.record_verdict(cursor, trial_id, verdict)

    def replicates(self, backbone: str, metric: str, before: datetime) -> list[tuple[int, tuple[float, ...]]]:
        """Users, and scores by seed, of each configuration that studies begun `before` trained with several seeds.

        Trials that share a training (`weights_of`) count once.
        """
        with self._connection.read() as cursor:
            rows = trials.replicates(cursor, backbone, metric, before)
            return [
                (DatasetFacts.model_validate_json(row["facts"]).measured_users, tuple(row["scores"])) for row in rows
            ]

    # Attempts and epochs

    def start_attempt(self, trial_id: str, pid: int, create_time: float) -> Attempt:
        """Stores that a process works on the trial: pid and create_time (seconds since 1970) name it for good."""
        with self._connection.write() as cursor:
            return trials.start_attempt(cursor, trial_id, pid, create_time)

    def end_attempt(self, attempt_id: str, cause: str) -> None:
        """Stores why an attempt ended; the first cause stays."""
        with self._connection.write() as cursor:
            trials.end_attempt(cursor, attempt_id, cause)

    def attempts(self, trial_id: str) -> list[Attempt]:
        """All attempts of a trial, oldest first."""
        with self._connection.read() as cursor:
            return trials.attempts(cursor, trial_id)

    def open_attempts(self) -> list[Attempt]:
        """The attempts of any trial that are not known to have ended, oldest first."""
        with self._connection.read() as cursor:
            return trials.open_attempts(cursor)

    def add_epochs(self, trial_id: str, epochs: Sequence[Epoch]) -> None:
        """Stores epochs of the trial's last attempt; those that are there already stay as they are."""
        with self._connection.write() as cursor:
            trials.add_epochs(cursor, trial_id, epochs)

    def epochs(self, trial_id: str) -> list[Epoch]:
        """The epochs of the trial's last attempt, in order."""
        with self._connection.read() as cursor:
            return trials.epochs(cursor, trial_id)

    def curves(self, study_id: str, metric: str) -> dict[str, list[tuple[int, float]]]:
        """By trial of a study the epochs of its last attempt that told the metric: (epoch, value), in order."""
        with self._connection.read() as cursor:
            return trials.curves(cursor, study_id, metric)

    def copy_to(self, path: Path) -> None:
        """Writes the whole memory into another file, as it stands now."""
        self._connection.copy_to(path)

    # What was learned and shown

    def add_note(
        self,
        study_id: str,
        kind: NoteKind,
        text: str,
        evidence: Sequence[str] = (),
        supersedes: Sequence[str] = (),
        claim: Claim | None = None,
        force: bool = False,
    ) -> Note:
        """Stores a note with its evidence (trials of the study), and for a heuristic its claim with a first verdict.

        The standing one where the study has this text and kind, or any study this claim. Raises MemoryFault where the
        text is empty or too long, evidence is of another study, the claim does not fit the study's space, or the data
        refute it already and it is not forced.
        """
        with self._connection.write() as cursor:
            study = self._studies.one(cursor, study_id)
            if claim is None:
                note = notes.add(cursor, study_id, kind, text, evidence, supersedes)
            else:
                note = self._book.add(cursor, study, text, evidence, supersedes, checked(claim, study.space), force)
        self._notebook.refresh([note.heuristic_id, *supersedes])
        return note

    def note(self, heuristic_id: str) -> Note:
        """The note as it stands."""
        with self._connection.read() as cursor:
            return notes.one(cursor, heuristic_id)

    def notes(
        self, *, study_id: str | None = None, kind: NoteKind | None = None, include_superseded: bool = False
    ) -> list[Note]:
        """Notes, oldest first, of one study or all and of one kind or all."""
        return [
            note
            for note in self._notebook.all()
            if study_id in (None, note.study_id)
            and kind in (None, note.kind)
            and (include_superseded or note.superseded_by is None)
        ]

    def take_snapshot(self, study_id: str | None, shown: Sequence[str]) -> str:
        """Stores which ids one read of memory showed, and answers the snapshot's id."""
        with self._connection.write() as cursor:
            if study_id is not None:
                self._studies.one(cursor, study_id)
            return notes.take_snapshot(cursor, study_id, shown)

    def latest_snapshot(self, study_id: str) -> str | None:
        """The id of the study's newest snapshot."""
        with self._connection.read() as cursor:
            return notes.latest_snapshot(cursor, study_id)

    def snapshot(self, snapshot_id: str) -> tuple[str, ...] | None:
        """The ids that a snapshot showed, in their order; None for an unknown one."""
        with self._connection.read() as cursor:
            return notes.shown(cursor, snapshot_id)

    def add_reveal(
        self,
        study_id: str,
        dataset_hash: str,
        chosen: Sequence[str],
        default: Sequence[str],
        test: Mapping[str, Mapping[str, float]],
    ) -> Reveal:
        """Stores a study's one look at the sealed test; `ordinal` counts the looks at this dataset content, from 1.

        A second call for the study answers the stored one. `test` is by trial id.
        """
        with self._connection.write() as cursor:
            self._studies.one(cursor, study_id)
            return notes.add_reveal(cursor, study_id, dataset_hash, chosen, default, test)

    def reveal(self, study_id: str) -> Reveal | None:
        """The study's look at the sealed test, if it had one. Never part of what read_memory shows."""
        with self._connection.read() as cursor:
            return notes.reveal(cursor, study_id)
