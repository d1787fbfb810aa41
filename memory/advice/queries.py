"""Queries that combine many records: starting points, expected effects, open questions, fields tried so far."""

from __future__ import annotations

from collections.abc import Collection

from memory.advice.questions import Question, question
from memory.advice.starts import Belief, Start, beliefs_of, starts_of
from memory.claims.book import ClaimBook
from memory.claims.calibration import Calibration, calibration, predictions_of
from memory.exchange import packs
from memory.statistics.elsewhere import Elsewhere, elsewhere_of
from memory.statistics.landscape import Landscape
from memory.tables import claim_rows
from memory.tables.connection import Connection, Cursor
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Space

NEAREST = 8
"""A new study takes advice from this many datasets, the most similar ones."""
BELIEFS = 8
"""A new study gets at most this many beliefs."""
CONTRADICTIONS = 100
"""At most this many pairs of claims are searched for open questions."""


class AdviceQueries:
    """Advice, read from memory. Every method only reads, in one transaction, and is safe from any thread."""

    def __init__(self, connection: Connection, book: ClaimBook) -> None:
        self._connection = connection
        self._book = book

    def starts(self, space: Space, facts: DatasetFacts, metric: str) -> list[Start]:
        """The changes to train first in a study of `space`, from the datasets most similar to its own."""
        with self._connection.read() as cursor:
            return starts_of(self._nearest_landscapes(cursor, space.backbone, facts), facts, space, metric)

    def beliefs(self, space: Space, facts: DatasetFacts, metric: str) -> list[Belief]:
        """The effect that claims predict for single fields in such a study, the largest first."""
        with self._connection.read() as cursor:
            names = [field.name for field in space.free()]
            touching = self._book.touching(cursor, names, space.backbone)
            claims = [(name, claim) for name, (claim, _, _) in touching.items()]
            beliefs = beliefs_of(claims, self._nearest_landscapes(cursor, space.backbone, facts), facts, space, metric)
        return sorted(beliefs, key=lambda belief: -abs(belief.gain))[:BELIEFS]

    def elsewhere(
        self, backbone: str, facts: DatasetFacts, metric: str, without: Collection[str] = ()
    ) -> list[Elsewhere]:
        """Scores of trainings on similar datasets, this home's first; the trials in `without` are left out."""
        with self._connection.read() as cursor:
            local = elsewhere_of(self._nearest_landscapes(cursor, backbone, facts), facts, metric, without)
            return [*local, *packs.elsewhere(cursor, backbone, facts, metric)][:NEAREST]

    def _nearest_landscapes(self, cursor: Cursor, backbone: str, facts: DatasetFacts) -> list[Landscape]:
        near = claim_rows.nearest(cursor, backbone, facts, NEAREST)
        lands = (self._book.land(cursor, dataset_hash, backbone) for dataset_hash in near)
        return [land for land in lands if land is not None and land.runs]

    def questions(self) -> list[Question]:
        """Claims that contradict each other, with the experiment that would decide between them."""
        with self._connection.read() as cursor:
            pairs = claim_rows.contradictions(cursor, CONTRADICTIONS)
            ids = list(dict.fromkeys(name for pair in pairs for name in pair))
            claims, evidence = self._book.written(cursor, ids), claim_rows.evidence(cursor, ids)
            facts = claim_rows.facts(cursor)
        questions = [
            question(
                pair,
                (claims[pair[0]][0], claims[pair[1]][0]),
                {item.dataset_hash: item for item in evidence.get(pair[0], [])},
                facts,
            )
            for pair in pairs
        ]
        return [item for item in questions if item is not None]

    def calibration(self, policy: str) -> Calibration | None:
        """How well predictions came true over all studies with this `policy`; None without predictions."""
        with self._connection.read() as cursor:
            return calibration(predictions_of(cursor, policy))

    def varied(self, backbone: str) -> list[str]:
        """The fields that trials of the backbone changed, most often changed first."""
        with self._connection.read() as cursor:
            return claim_rows.varied(cursor, backbone)
