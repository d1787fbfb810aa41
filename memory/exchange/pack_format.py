"""The format of a pack: heuristics, the trainings behind them and meta-features, for another home to check."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from memory.errors import MemoryFault
from memory.tables.rows import as_json
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Value

FORMAT = 1
MOST_HEURISTICS, MOST_TRIALS = 1_000, 200_000
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Part(BaseModel):
    """A frozen part of a pack; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PackDataset(Part):
    """A dataset by its content hash and meta-features. A pack holds none of its events."""

    dataset_hash: Name
    name: Name
    facts: DatasetFacts


class PackHeuristic(Part):
    """A heuristic or summary. `verdict` is the verdict of the exporting home; the importing home judges it again."""

    kind: Literal["heuristic", "summary"] = "heuristic"
    text: str
    claim: str | None = None
    """The claim as JSON text, None without a claim."""
    dataset: Name = "unknown"
    backbone: Name = "any"
    verdict: str | None = None


class PackTrial(Part):
    """One scored training; `scores` are validation metrics by name."""

    dataset_hash: Name
    backbone: Name
    filter_seen: Name
    trainer_version: Name
    config_hash: Name
    config: dict[str, Value]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    scores: dict[str, float]

    @field_validator("scores")
    @classmethod
    def _finite(cls, scores: dict[str, float]) -> dict[str, float]:
        if not scores or not all(score >= 0 and math.isfinite(score) for score in scores.values()):
            raise ValueError("scores are finite numbers from 0 on, at least one")
        return scores


class Pack(Part):
    """A whole pack. `digest` is the SHA-256 of all other fields."""

    format: Literal[1] = FORMAT
    name: Name
    datasets: tuple[PackDataset, ...] = ()
    heuristics: Annotated[tuple[PackHeuristic, ...], Field(max_length=MOST_HEURISTICS)] = ()
    trials: Annotated[tuple[PackTrial, ...], Field(max_length=MOST_TRIALS)] = ()
    digest: str = ""

    def sealed(self) -> Pack:
        """A copy of this pack with its digest."""
        return self.model_copy(update={"digest": self.computed_digest()})

    def computed_digest(self) -> str:
        """The SHA-256 of all fields but `digest`, as JSON, in hexadecimal."""
        return hashlib.sha256(as_json(self.model_dump(mode="json", exclude={"digest"})).encode()).hexdigest()


class NewerPack(Part):
    """A pack in a format that this version does not read. Its digest cannot be checked."""

    format: Annotated[int, Field(gt=FORMAT, lt=2**31)]
    name: Name
    digest: Annotated[str, Field(min_length=1, max_length=128)]


class Imported(Part):
    """The result of an import. `left_out` has one line for each entry that this home has already.

    A pack with anything that this home does not know is quarantined: nothing of it is stored but its name, its digest
    and the reasons.
    """

    pack_id: str | None
    name: str
    heuristics: int = 0
    trials: int = 0
    left_out: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()


class PackLine(Part):
    """A pack in the list of this home's packs; `quarantined` has the reasons, and is empty for an imported one."""

    name: str
    digest: str
    imported_at: datetime
    heuristics: int = 0
    trials: int = 0
    quarantined: tuple[str, ...] = ()


def format_of(document: object) -> int:
    """The format that a document claims to have; 0 for anything that is no pack."""
    claimed = cast(Mapping[str, Any], document).get("format") if isinstance(document, dict) else None
    return claimed if type(claimed) is int else 0


def read_pack(document: object) -> Pack | NewerPack:
    """Parses a pack and checks its digest. Raises MemoryFault, in one line, where either fails."""
    try:
        if format_of(document) > FORMAT:
            whole = cast(Mapping[str, Any], document)
            return NewerPack.model_validate({name: whole.get(name) for name in NewerPack.model_fields})
        pack = Pack.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the pack"
        raise MemoryFault(f"This is no memory pack of format {FORMAT}: {place[:200]}: {first['msg']}.") from None
    try:
        digest = pack.computed_digest()
    except UnicodeEncodeError:
        raise MemoryFault("The pack holds half a character, which is no text; get it again.") from None
    if digest != pack.digest:
        raise MemoryFault(
            "The pack's digest does not fit its content: it was changed or cut short after it was written. Nothing was "
            "imported; get it again from where it was exported."
        )
    return pack
