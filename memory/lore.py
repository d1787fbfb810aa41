"""What memory knows beyond single records: where to begin a study, what claims expect, what is open, what was tried."""

from __future__ import annotations

from memory import claim_rows
from memory.calibration import Calibration, calibration, predictions_of
from memory.claim_book import ClaimBook
from memory.connection import Connection
from memory.priors import Belief, Start
from memory.questions import Question
from trainers.space import Space
from trainers.spec import DatasetFacts


class Lore:
    """Reads only; every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection, book: ClaimBook) -> None:
        self._connection = connection
        self._book = book

    def starts(self, space: Space, facts: DatasetFacts, metric: str) -> list[Start]:
        """What to train first in a study in `space` on such a dataset."""
        with self._connection.read() as cursor:
            return self._book.starts(cursor, space, facts, metric)

    def beliefs(self, space: Space, facts: DatasetFacts, metric: str) -> list[Belief]:
        """What claims let one expect of single fields in such a study."""
        with self._connection.read() as cursor:
            return self._book.beliefs(cursor, space, facts, metric)

    def questions(self) -> list[Question]:
        """Standing claims that contradict each other, with the experiment that would separate them."""
        with self._connection.read() as cursor:
            return self._book.questions(cursor)

    def calibration(self, policy: str) -> Calibration | None:
        """How well the predictions of an engineer came true, over all studies of its label; None without any."""
        with self._connection.read() as cursor:
            return calibration(predictions_of(cursor, policy))

    def varied(self, backbone: str) -> list[str]:
        """The fields that trials of the backbone changed, most often changed first."""
        with self._connection.read() as cursor:
            return claim_rows.varied(cursor, backbone)
