"""A pack: what one home has learned, for another one to check. Heuristics, the trainings behind them, meta-features."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from memory.errors import MemoryFault
from memory.rows import as_json
from trainers.space import Value
from trainers.spec import DatasetFacts

FORMAT = 1
MOST_HEURISTICS, MOST_TRIALS = 1_000, 200_000
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackDataset(Part):
    """A dataset by its content hash and meta-features; none of its events are in a pack."""

    dataset_hash: Name
    name: Name
    facts: DatasetFacts


class PackHeuristic(Part):
    """A heuristic or summary. `verdict` is what its own home knew of it; here it starts anew."""

    kind: Literal["heuristic", "summary"] = "heuristic"
    text: str
    claim: str | None = None
    """The claim as JSON."""
    dataset: Name = "unknown"
    backbone: Name = "any"
    verdict: str | None = None


class PackTrial(Part):
    """One scored training; `scores` are of validation."""

    dataset_hash: Name
    backbone: Name
    filter_seen: Name
    trainer_version: Name
    config_hash: Name
    config: dict[str, Value]
    seed: int
    scores: dict[str, float]

    @field_validator("scores")
    @classmethod
    def _finite(cls, scores: dict[str, float]) -> dict[str, float]:
        if not scores or not all(score >= 0 and math.isfinite(score) for score in scores.values()):
            raise ValueError("scores are finite numbers from 0 on, at least one")
        return scores


class Pack(Part):
    """All of it. `digest` is of the rest."""

    format: Literal[1] = FORMAT
    name: Name
    datasets: tuple[PackDataset, ...] = ()
    heuristics: Annotated[tuple[PackHeuristic, ...], Field(max_length=MOST_HEURISTICS)] = ()
    trials: Annotated[tuple[PackTrial, ...], Field(max_length=MOST_TRIALS)] = ()
    digest: str = ""

    def sealed(self) -> Pack:
        """The same with its digest."""
        return self.model_copy(update={"digest": self.worked_out()})

    def worked_out(self) -> str:
        """SHA-256 of everything else, as JSON."""
        return hashlib.sha256(as_json(self.model_dump(mode="json", exclude={"digest"})).encode()).hexdigest()


class Imported(Part):
    """What an import came to; `left_out` says why, a line each."""

    pack_id: str | None
    name: str
    heuristics: int = 0
    trials: int = 0
    left_out: tuple[str, ...] = ()


def read_pack(given: object) -> Pack:
    """A pack whose digest is right; raises MemoryFault in one line where it is not, or is no pack."""
    try:
        pack = Pack.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the pack"
        raise MemoryFault(f"This is no memory pack of format {FORMAT}: {place}: {first['msg']}.") from None
    if pack.worked_out() != pack.digest:
        raise MemoryFault(
            "The pack's digest does not fit its content: it was changed or cut short after it was written. Nothing was "
            "imported; get it again from where it was exported."
        )
    return pack
