"""Keeps the verdicts of claims true: what a new trial changes, and what a new claim finds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence

from memory import claim_rows, notes
from memory.claims import Claim, ClaimError
from memory.connection import Cursor
from memory.effects import ALPHA, Evidence, Verdict, evidence_of, judge
from memory.errors import MemoryFault
from memory.landscape import Landscape
from memory.records import Note, Study, Trial
from trainers.space import Space, Value

KEPT = 16
"""Landscapes held in memory, those used last; any other is read again when it is asked for."""
Written = tuple[Claim, float, frozenset[str]]
"""A claim with what it may spend on being wrong, and the trials that it was written from."""


class ClaimBook:
    """Of one memory file. Every method is a step of its caller's transaction."""

    def __init__(self) -> None:
        self._lands: OrderedDict[tuple[str, str], Landscape] = OrderedDict()
        self._defaults: dict[str, str] = {}
        self._claims: dict[str, Written] = {}

    def landed(self, cursor: Cursor, study: Study, trial: Trial) -> list[str]:
        """Takes a trial that has just got its result; answers the claims that were judged anew by its pairs."""
        run = claim_rows.run(cursor, trial.trial_id, study)
        if run is None:
            return []
        known = self._lands.get((study.dataset_hash, study.backbone))
        if known is not None:
            known.add(run, trial.config, study.space.rests(trial.config))
        land = known or self.land(cursor, study.dataset_hash, study.backbone)
        if land is None:
            return []
        steps: dict[str, list[tuple[Value, Value]]] = {}
        for name, first, second in land.steps_of(run):
            steps.setdefault(name, []).append((first, second))
        claims = self.touching(cursor, list(steps), study.backbone)
        shared: dict[Hashable, Evidence | None] = {}
        found: dict[str, Evidence] = {}
        for heuristic_id, (claim, _, written_from) in claims.items():
            change = claim.change
            if any(change.covers(*step) or change.covers(*step[::-1]) for step in steps[change.field]):
                if not claim.scope.holds(land.backbone, land.facts):
                    continue
                key = (claim.metric, change, claim.given, written_from & land.trial_ids)
                if key not in shared:
                    shared[key] = evidence_of(claim, land, written_from)
                if (one := shared[key]) is not None:
                    found[heuristic_id] = one
        new = {name: [one] for name, one in found.items()}
        return claim_rows.record(cursor, new, {name: claims[name][:2] for name in found})

    def touching(self, cursor: Cursor, fields: Sequence[str], backbone: str) -> dict[str, Written]:
        """The standing claims over any of these fields that may speak of the backbone."""
        return self.written(cursor, claim_rows.touching(cursor, fields, backbone))

    def written(self, cursor: Cursor, heuristic_ids: Sequence[str]) -> dict[str, Written]:
        """The claims of these heuristics as they were written; each is parsed once."""
        unread = [name for name in heuristic_ids if name not in self._claims]
        for row in claim_rows.written(cursor, unread) if unread else ():
            claim = Claim.model_validate_json(row["claim"])
            self._claims[row["heuristic_id"]] = (claim, row["alpha"], frozenset(row["evidence"]))
        return {name: self._claims[name] for name in heuristic_ids}

    def weigh(self, cursor: Cursor, claim: Claim, written_from: Collection[str]) -> list[Evidence]:
        """What all that is known says of a claim, without the trials that it is written from."""
        places = [place for place in claim_rows.places(cursor) if claim.scope.backbone in (None, place[1])]
        lands = (self.land(cursor, *place) for place in places)
        found = (evidence_of(claim, land, written_from) for land in lands if land is not None)
        return [one for one in found if one is not None]

    def add(
        self, cursor: Cursor, study: Study, text: str, evidence: Sequence[str], supersedes: Sequence[str], claim: Claim,
        force: bool,
    ) -> Note:  # fmt: skip
        """Stores a heuristic with its claim, first evidence and verdict; answers the one that claims this already.

        Raises ClaimError where the data refute the claim and it is not forced.
        """
        if (known := claim_rows.same(cursor, claim)) is not None and known not in supersedes:
            return notes.one(cursor, known)
        found = self.weigh(cursor, claim, evidence)
        against = judge(claim, found, ALPHA)
        refuted = against.verdict == "refuted"
        if refuted and not force:
            raise ClaimError(f"{refusal(claim, against)} force=true writes it all the same, and marks it.")
        note = notes.add(cursor, study.study_id, "heuristic", text, evidence, supersedes)
        if note.claim is not None:
            raise MemoryFault(f"{note.heuristic_id!r} says this already with another claim; supersede it.")
        alpha = claim_rows.add(cursor, note.heuristic_id, claim, refuted)
        claim_rows.record(cursor, {note.heuristic_id: found}, {note.heuristic_id: (claim, alpha)})
        return notes.one(cursor, note.heuristic_id)

    def take_in(self, cursor: Cursor, heuristic_id: str, claim: Claim) -> None:
        """Stores the claim of a heuristic from another home, with what our own trials say of it."""
        alpha = claim_rows.add(cursor, heuristic_id, claim, False)
        claim_rows.record(cursor, {heuristic_id: self.weigh(cursor, claim, ())}, {heuristic_id: (claim, alpha)})

    def land(self, cursor: Cursor, dataset_hash: str, backbone: str) -> Landscape | None:
        """All that is known of a backbone on a dataset content."""
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
        """By study, the hash of its default configuration; a space is parsed once."""
        rows = cursor.rows(
            "SELECT study_id, space FROM studies WHERE dataset_hash = $dataset_hash AND backbone = $backbone",
            {"dataset_hash": place[0], "backbone": place[1]},
        )
        for row in rows:
            if row["study_id"] not in self._defaults:
                space = Space.model_validate_json(row["space"])
                self._defaults[row["study_id"]] = space.hash(space.default())
        return {row["study_id"]: self._defaults[row["study_id"]] for row in rows}


def refusal(claim: Claim, against: Verdict) -> str:
    """Why a claim that the data refute is not simply kept."""
    low, high = (f"{100 * bound:+.1f} %" for bound in (against.low or 0.0, against.high or 0.0))
    pairs = "1 matched pair" if against.n_pairs == 1 else f"{against.n_pairs} matched pairs"
    return f"The data refute this already: over {pairs} {claim.change.field} did {low} to {high} ({claim.words()})."
