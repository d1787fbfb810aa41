"""Keeps the verdicts of claims current: judges claims again after a new trial, and judges new claims."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence

from memory.claim import Claim, ClaimError
from memory.errors import MemoryFault
from memory.records import Note, Study, Trial
from memory.statistics.effects import ALPHA, Evidence, Verdict, evidence_of, judge
from memory.statistics.landscape import Landscape
from memory.tables import claim_rows, notes
from memory.tables.connection import Cursor
from trainers.contract.space import Space, Value

KEPT = 16
"""The most landscapes that are cached: those used last. Others are read from the file when they are needed."""
Written = tuple[Claim, float, frozenset[str]]
"""A claim, the error rate that it may spend, and the ids of the trials that it was written from."""


class ClaimBook:
    """The claims of one memory file. Every method runs inside its caller's transaction."""

    def __init__(self) -> None:
        self._lands: OrderedDict[tuple[str, str], Landscape] = OrderedDict()
        self._defaults: dict[str, str] = {}
        self._claims: dict[str, Written] = {}

    def landed(self, cursor: Cursor, study: Study, trial: Trial) -> list[str]:
        """Adds a trial that has just finished. Returns the ids of the claims that are judged again because of it."""
        run = claim_rows.run(cursor, trial.trial_id, study)
        if run is None:
            return []
        cached = self._lands.get((study.dataset_hash, study.backbone))
        if cached is not None:
            cached.add(run, trial.config, study.space.rests(trial.config))
        land = cached or self.land(cursor, study.dataset_hash, study.backbone)
        if land is None:
            return []
        steps: dict[str, list[tuple[Value, Value]]] = {}
        for name, first, second in land.steps_of(run):
            steps.setdefault(name, []).append((first, second))
        claims = self.touching(cursor, list(steps), study.backbone)
        shared: dict[Hashable, Evidence | None] = {}
        new: dict[str, list[Evidence]] = {}
        for heuristic_id, (claim, _, written_from) in claims.items():
            change = claim.change
            if any(change.covers(*step) or change.covers(*step[::-1]) for step in steps[change.field]):
                if not claim.scope.holds(land.backbone, land.facts):
                    continue
                key = (claim.metric, change, claim.given, written_from & land.trial_ids)
                if key not in shared:
                    shared[key] = evidence_of(claim, land, written_from)
                if (evidence := shared[key]) is not None:
                    new[heuristic_id] = [evidence]
        return claim_rows.record(cursor, new, {name: claims[name][:2] for name in new})

    def touching(self, cursor: Cursor, fields: Sequence[str], backbone: str) -> dict[str, Written]:
        """The claims that are not superseded, change one of these fields and may apply to the backbone."""
        return self.written(cursor, claim_rows.touching(cursor, fields, backbone))

    def written(self, cursor: Cursor, heuristic_ids: Sequence[str]) -> dict[str, Written]:
        """The claims of these heuristics as they were written. Each is parsed only once."""
        unread = [name for name in heuristic_ids if name not in self._claims]
        for row in claim_rows.written(cursor, unread) if unread else ():
            claim = Claim.model_validate_json(row["claim"])
            self._claims[row["heuristic_id"]] = (claim, row["alpha"], frozenset(row["evidence"]))
        return {name: self._claims[name] for name in heuristic_ids}

    def weigh(self, cursor: Cursor, claim: Claim, written_from: Collection[str]) -> list[Evidence]:
        """The evidence for a claim from every dataset and backbone, without the trials that it is written from."""
        places = [place for place in claim_rows.places(cursor) if claim.scope.backbone in (None, place[1])]
        lands = (self.land(cursor, *place) for place in places)
        evidence = (evidence_of(claim, land, written_from) for land in lands if land is not None)
        return [item for item in evidence if item is not None]

    def add(
        self, cursor: Cursor, study: Study, text: str, evidence: Sequence[str], supersedes: Sequence[str], claim: Claim,
        force: bool,
    ) -> Note:  # fmt: skip
        """Stores a heuristic with its claim, first evidence and verdict, or returns the heuristic that claims the same.

        Raises ClaimError where the data refute the claim and `force` is not set, and MemoryFault where a heuristic with
        this text has another claim.
        """
        if (same_id := claim_rows.same(cursor, claim)) is not None and same_id not in supersedes:
            return notes.one(cursor, same_id)
        measured = self.weigh(cursor, claim, evidence)
        verdict = judge(claim, measured, ALPHA)
        refuted = verdict.verdict == "refuted"
        if refuted and not force:
            raise ClaimError(f"{refusal(claim, verdict)} force=true writes it all the same, and marks it.")
        note = notes.add(cursor, study.study_id, "heuristic", text, evidence, supersedes)
        if note.claim is not None:
            raise MemoryFault(f"{note.note_id!r} says this already with another claim; supersede it.")
        alpha = claim_rows.add(cursor, note.note_id, claim, refuted)
        claim_rows.record(cursor, {note.note_id: measured}, {note.note_id: (claim, alpha)})
        return notes.one(cursor, note.note_id)

    def take_in(self, cursor: Cursor, heuristic_id: str, claim: Claim) -> None:
        """Stores the claim of a heuristic from another home, judged by the trials of this home."""
        alpha = claim_rows.add(cursor, heuristic_id, claim, False)
        claim_rows.record(cursor, {heuristic_id: self.weigh(cursor, claim, ())}, {heuristic_id: (claim, alpha)})

    def land(self, cursor: Cursor, dataset_hash: str, backbone: str) -> Landscape | None:
        """The landscape of a backbone on a dataset content, from the cache or the file; None without studies."""
        key = (dataset_hash, backbone)
        if key not in self._lands:
            land = claim_rows.landscape(cursor, dataset_hash, backbone, self._default_hashes(cursor, key))
            if land is None:
                return None
            self._lands[key] = land
        self._lands.move_to_end(key)
        while len(self._lands) > KEPT:
            self._lands.popitem(last=False)
        return self._lands[key]

    def _default_hashes(self, cursor: Cursor, place: tuple[str, str]) -> dict[str, str]:
        """The hash of the default configuration, by study id. Each space is parsed only once."""
        rows = cursor.rows(
            "SELECT study_id, space FROM studies WHERE dataset_hash = $dataset_hash AND backbone = $backbone",
            {"dataset_hash": place[0], "backbone": place[1]},
        )
        for row in rows:
            if row["study_id"] not in self._defaults:
                space = Space.model_validate_json(row["space"])
                self._defaults[row["study_id"]] = space.hash(space.default())
        return {row["study_id"]: self._defaults[row["study_id"]] for row in rows}


def refusal(claim: Claim, verdict: Verdict) -> str:
    """One sentence that says why a claim that the data refute is refused."""
    low, high = (f"{100 * bound:+.1f} %" for bound in (verdict.low or 0.0, verdict.high or 0.0))
    pairs = "1 matched pair" if verdict.n_pairs == 1 else f"{verdict.n_pairs} matched pairs"
    return f"The data refute this already: over {pairs} {claim.change.field} did {low} to {high} ({claim.words()})."
