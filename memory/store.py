"""Memory: what one owner process remembers of studies, trials and notes, in one DuckDB file."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from memory.advice.queries import AdviceQueries
from memory.claim import Claim, checked
from memory.claims.book import ClaimBook
from memory.claims.credit import ExposureLog
from memory.errors import MemoryFault
from memory.exchange.packs import Packs
from memory.records import Attempt, NewTrial, Note, NoteKind, Study, Trial
from memory.tables import attempts, notes, trials
from memory.tables.connection import Connection, Cursor
from memory.tables.curve_cache import CurveCache, Points
from memory.tables.migrations import migrate, shipped
from memory.tables.note_cache import NoteCache
from memory.tables.policy_runs import PolicyRuns
from memory.tables.reveals import Reveals
from memory.tables.rows import new_id
from memory.tables.snapshots import Snapshots
from memory.tables.studies import Studies
from memory.tables.trial_cache import TrialCache
from trainers.contract.facts import DatasetFacts
from trainers.contract.wire import Epoch, TrialResult

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
        self._trials = TrialCache()
        self._curves = CurveCache()
        self._replicates: dict[tuple[str, str, datetime], list[tuple[int, tuple[float, ...]]]] = {}
        self._note_cache = NoteCache(connection)
        self.advice = AdviceQueries(connection, self._book)
        self.exposures = ExposureLog(connection)
        self.runs = PolicyRuns(connection)
        self.snapshots = Snapshots(connection, self._studies)
        self.reveals = Reveals(connection, self._studies)
        self.packs = Packs(connection, self._book, self._note_cache)

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
        with self._connection.held():
            if (known := self._studies.known(study_id)) is not None:
                return known
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

    @contextmanager
    def _writing_trials(self) -> Generator[Cursor]:
        """A transaction that writes trials, and what is kept of them: where it fails, all of it is read again."""
        with self._connection.held():  # nobody may see what is kept before it is cleared
            try:
                with self._connection.write() as cursor:
                    yield cursor
            except BaseException:
                self._trials.clear()
                self._curves.clear()
                raise

    def start_trial(self, new: NewTrial, *, confirms: bool = False) -> Trial:
        """Stores a queued trial under a fresh id; the one that is there where the study saw this request_key before.

        Its number is that of `replicate_of` or of its configuration, else the next. A closing study: if it `confirms`.
        """
        study_id = new.study_id
        try:
            with self._writing_trials() as cursor:
                study = self._studies.one(cursor, study_id)
                roster = self._rosters[study_id] = self._rosters.get(study_id) or trials.roster(cursor, study_id)
                return self._trials.stored(trials.start(cursor, study, new, roster, confirms))
        except BaseException:
            self._rosters.pop(study_id, None)  # what did not come to be must not be counted
            raise

    def slot_seconds(self, study_id: str) -> float:
        """How long the study's trainings have held a slot so far, those under way included."""
        with self._connection.read() as cursor:
            return self._studies.slot_seconds(cursor, study_id)

    def trial(self, trial_id: str) -> Trial:
        """The trial as it stands; its status is derived from its attempts and its result."""
        with self._connection.held():
            if (known := self._trials.known_trial(trial_id)) is not None:
                return known
            with self._connection.read() as cursor:
                return trials.one(cursor, trial_id)

    def trials(self, study_id: str) -> list[Trial]:
        """All trials of a study, oldest first."""
        with self._connection.held():
            known = self._trials.known_study(study_id)
        return self.trials_of([study_id])[study_id] if known is None else known

    def trials_of(self, study_ids: Sequence[str]) -> dict[str, list[Trial]]:
        """All trials of each study, oldest first. Raises UnknownStudy."""
        with self._connection.read() as cursor:
            for study_id in study_ids:
                self._studies.one(cursor, study_id)
            return self._trials.read_studies(cursor, study_ids)

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
        with self._writing_trials() as cursor:
            trial = self._trials.known_trial(result.trial_id) or trials.one(cursor, result.trial_id)
            if not trial.finished:
                trial = self._trials.stored(trials.finish(cursor, trial, result))
                self._forget_replicates(self._studies.one(cursor, trial.study_id))
        with self._connection.write() as cursor:  # apart: a fault in judging claims must not lose the result
            judged = self._book.landed(cursor, self._studies.one(cursor, trial.study_id), trial)
        self._note_cache.refresh(judged)
        return trial

    def record_verdict(self, trial_id: str, verdict: str) -> None:
        """Stores what was told of a trial against noise; the newest verdict is the trial's."""
        with self._writing_trials() as cursor:
            trials.record_verdict(cursor, trial_id, verdict)
            self._trials.judged(trial_id, verdict)

    def replicates(self, backbone: str, metric: str, before: datetime) -> list[tuple[int, tuple[float, ...]]]:
        """Users, and scores by seed, of each configuration that studies begun `before` trained with several seeds.

        Trials that share a training (`weights_of`) count once.
        """
        with self._connection.read() as cursor:
            key = backbone, metric, before
            if key not in self._replicates:
                rows = trials.replicates(cursor, *key)
                self._replicates[key] = [
                    (DatasetFacts.model_validate_json(row["facts"]).measured_users, tuple(row["scores"]))
                    for row in rows
                ]
            return self._replicates[key]

    def _forget_replicates(self, study: Study) -> None:
        """A trial of the study has landed, which later studies count. Called inside a transaction."""
        outdated = [key for key in self._replicates if key[2] > study.created_at]
        for key in outdated:
            del self._replicates[key]

    # Attempts and epochs

    def start_attempt(self, trial_id: str, pid: int, create_time: float) -> Attempt:
        """Stores that a process works on the trial: pid and create_time (seconds since 1970) name it for good."""
        with self._writing_trials() as cursor:
            attempt, study_id = attempts.start(cursor, trial_id, pid, create_time)
            self._trials.attempted(trial_id, "running")
            self._curves.restarted(study_id, trial_id)
            return attempt

    def end_attempt(self, attempt_id: str, cause: str) -> None:
        """Stores why an attempt ended; the first cause stays."""
        with self._writing_trials() as cursor:
            self._trials.attempted(attempts.end(cursor, attempt_id, cause), "interrupted")

    def attempts(self, trial_id: str) -> list[Attempt]:
        """All attempts of a trial, oldest first."""
        with self._connection.read() as cursor:
            return attempts.of_trial(cursor, trial_id)

    def open_attempts(self) -> list[Attempt]:
        """The attempts of any trial that are not known to have ended, oldest first."""
        with self._connection.read() as cursor:
            return attempts.unended(cursor)

    def add_epochs(self, trial_id: str, epochs: Sequence[Epoch]) -> None:
        """Stores epochs of the trial's last attempt; those that are there already stay as they are."""
        with self._writing_trials() as cursor:
            study_id = attempts.add_epochs(cursor, trial_id, epochs)
            self._curves.added(study_id, trial_id, epochs)

    def epochs(self, trial_id: str) -> list[Epoch]:
        """The epochs of the trial's last attempt, in order."""
        with self._connection.read() as cursor:
            return attempts.epochs(cursor, trial_id)

    def epochs_by_trial(self, study_id: str) -> dict[str, list[Epoch]]:
        """The epochs of each trial's last attempt, in order, by trial; trials without epochs are left out."""
        with self._connection.read() as cursor:
            return attempts.epochs_by_trial(cursor, study_id)

    def curves(self, study_id: str, metric: str) -> dict[str, Points]:
        """By trial of a study the epochs of its last attempt that told the metric: (epoch, value), in order."""
        with self._connection.read() as cursor:
            return self._curves.of_study(cursor, study_id, metric)

    def copy_to(self, path: Path) -> None:
        """Writes the whole memory into another file, as it stands now."""
        self._connection.copy_to(path)

    # Notes

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
        self._note_cache.refresh([note.note_id, *supersedes])
        return note

    def note(self, note_id: str) -> Note:
        """The note as it stands."""
        with self._connection.read() as cursor:
            return notes.one(cursor, note_id)

    def notes(
        self, *, study_id: str | None = None, kind: NoteKind | None = None, include_superseded: bool = False
    ) -> list[Note]:
        """Notes, oldest first, of one study or all and of one kind or all."""
        return [
            note
            for note in self._note_cache.all()
            if study_id in (None, note.study_id)
            and kind in (None, note.kind)
            and (include_superseded or note.superseded_by is None)
        ]
