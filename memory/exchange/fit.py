"""Whether a pack fits a home: every backbone, field, value, claim and text in it must be one that the home knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from memory.claim import Claim, ClaimError, checked, read_claim
from memory.errors import MemoryFault
from memory.exchange.pack_format import FORMAT, NewerPack, Pack, PackHeuristic
from memory.tables.rows import checked_text
from trainers.contract.space import Field, Space, SpaceError, Value

MOST_REASONS = 10
ANY = "any"
"""The backbone of a heuristic that names none."""


def misfits(pack: Pack | NewerPack, spaces: Mapping[str, Space]) -> list[str]:
    """One line for each thing in the pack that a home with these `spaces`, by backbone, does not know.

    The lines after the first MOST_REASONS are only counted.
    """
    if isinstance(pack, NewerPack):
        return [f"it has format {pack.format}, and this virtualmle reads formats up to {FORMAT}"]
    reasons = [*_unknown_backbones(pack, spaces), *_heuristic_misfits(pack, spaces), *_config_misfits(pack, spaces)]
    more = len(reasons) - MOST_REASONS
    return [*reasons[:MOST_REASONS], *([f"{more} more"] if more > 0 else [])]


def claim_of(heuristic: PackHeuristic, spaces: Mapping[str, Space]) -> Claim | None:
    """The claim checked against the space of its backbone, or against any space where it names no backbone.

    Raises ClaimError where it fits none.
    """
    if heuristic.claim is None:
        return None
    claim = read_claim(heuristic.claim)
    backbone = claim.scope.backbone
    if backbone is not None and backbone not in spaces:
        raise ClaimError(f"There is no backbone {backbone!r} here.")
    faults: list[ClaimError] = []
    for space in spaces.values() if backbone is None else (spaces[backbone],):
        try:
            return checked(claim, space)
        except ClaimError as fault:
            faults.append(fault)
    raise faults[0]


def _unknown_backbones(pack: Pack, spaces: Mapping[str, Space]) -> list[str]:
    trials = Counter(trial.backbone for trial in pack.trials)
    notes = Counter(heuristic.backbone for heuristic in pack.heuristics)
    unknown = [name for name in {**trials, **notes} if name not in spaces and name != ANY]
    return [
        f"{_count(trials[name], 'training')} and {_count(notes[name], 'heuristic')} of the backbone {name!r}, which is "
        "not here"
        for name in unknown
    ]


def _heuristic_misfits(pack: Pack, spaces: Mapping[str, Space]) -> list[str]:
    reasons: list[str] = []
    for heuristic in pack.heuristics:
        try:
            checked_text(heuristic.kind, heuristic.text)
            claim_of(heuristic, spaces)
        except (MemoryFault, OverflowError) as fault:
            reasons.append(f"heuristic {heuristic.text[:60]!r}: {str(fault)[:300].rstrip('.')}")
    return reasons


def _config_misfits(pack: Pack, spaces: Mapping[str, Space]) -> list[str]:
    fields = {name: {field.name: field for field in space.fields} for name, space in spaces.items()}
    seen = {
        (trial.backbone, name, type(value), value)  # True, 1 and 1.0 are equal, and not all are allowed
        for trial in pack.trials
        if trial.backbone in fields
        for name, value in trial.config.items()
    }
    reasons = (_value_misfit(backbone, fields[backbone].get(name), name, value) for backbone, name, _, value in seen)
    return sorted({reason for reason in reasons if reason})


def _value_misfit(backbone: str, field: Field | None, name: str, value: Value) -> str | None:
    if field is None:
        return f"{backbone} has no field {name[:60]!r} here"
    try:
        field.check(value)
    except (SpaceError, OverflowError):
        shown = value if isinstance(value, bool) else f"{value!r:.60}" if not _is_huge(value) else "a huge number"
        return f"{backbone}: {name}={shown} is not allowed here: {name} is {field.allowed()}"
    return None


def _is_huge(value: Value) -> bool:
    return isinstance(value, int) and value.bit_length() > 1024


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"
