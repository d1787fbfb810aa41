"""What memory knows beyond single records: where to begin a study, what claims expect, what is open, what was tried."""

from __future__ import annotations

from collections.abc import Collection

from memory import claim_rows, exchange
from memory.calibration import Calibration, calibration, predictions_of
from memory.claim_book import ClaimBook
from memory.connection import Connection, Cursor
from memory.elsewhere import Elsewhere, elsewhere_of
from memory.landscape import Landscape
from memory.priors import Belief, Start, beliefs_of, starts_of
from memory.questions import Question, question
from trainers.space import Space
from trainers.spec import DatasetFacts

NEAREST = 8
"""Datasets that advise a new study, the most similar ones."""
BELIEFS = 8
"""Fields that claims speak of to a new study, at most."""
CONTRADICTIONS = 100
"""Pairs of claims looked at for open questions, at most."""


class Lore:
    """Reads only; every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection, book: ClaimBook) -> None:
        self._connection = connection
        self._book = book

    def starts(self, space: Space, facts: DatasetFacts, metric: str) -> list[Start]:
        """What to train first in a study in `space`, by the datasets that are most like its own."""
        with self._connection.read() as cursor:
            return starts_of(self._near(cursor, space.backbone, facts), facts, space, metric)

    def beliefs(self, space: Space, facts: DatasetFacts, metric: str) -> list[Belief]:
        """What claims let one expect of single fields in such a study, the most first."""
        with self._connection.read() as cursor:
            names = [field.name for field in space.free()]
            claims = [(name, one[0]) for name, one in self._book.touching(cursor, names, space.backbone).items()]
            found = beliefs_of(claims, self._near(cursor, space.backbone, facts), facts, space, metric)
        return sorted(found, key=lambda one: -abs(one.gain))[:BELIEFS]

    def elsewhere(
        self, backbone: str, facts: DatasetFacts, metric: str, without: Collection[str] = ()
    ) -> list[Elsewhere]:
        """What was trained on such datasets, but for the trials of `without`."""
        with self._connection.read() as cursor:
            own = elsewhere_of(self._near(cursor, backbone, facts), facts, metric, without)
            return [*own, *exchange.elsewhere(cursor, backbone, facts, metric)][:NEAREST]

    def _near(self, cursor: Cursor, backbone: str, facts: DatasetFacts) -> list[Landscape]:
        near = claim_rows.nearest(cursor, backbone, facts, NEAREST)
        found = (self._book.land(cursor, dataset_hash, backbone) for dataset_hash in near)
        return [land for land in found if land is not None and land.runs]

    def questions(self) -> list[Question]:
        """Standing claims that contradict each other, with the experiment that would separate them."""
        with self._connection.read() as cursor:
            pairs = claim_rows.contradictions(cursor, CONTRADICTIONS)
            ids = list(dict.fromkeys(name for pair in pairs for name in pair))
            claims, evidence = self._book.written(cursor, ids), claim_rows.evidence(cursor, ids)
            facts = claim_rows.facts(cursor)
        found = [
            question(
                pair,
                (claims[pair[0]][0], claims[pair[1]][0]),
                {one.dataset_hash: one for one in evidence.get(pair[0], [])},
                facts,
            )
            for pair in pairs
        ]
        return [one for one in found if one is not None]

    def calibration(self, policy: str) -> Calibration | None:
        """How well the predictions of an engineer came true, over all studies of its label; None without any."""
        with self._connection.read() as cursor:
            return calibration(predictions_of(cursor, policy))

    def varied(self, backbone: str) -> list[str]:
        """The fields that trials of the backbone changed, most often changed first."""
        with self._connection.read() as cursor:
            return claim_rows.varied(cursor, backbone)
