"""How much memory a training will want, told before it starts from its spec and corrected by what was seen."""

from __future__ import annotations

from collections import deque
from statistics import median

from pydantic import ValidationError

from memory.records import Study, Trial
from trainers.space import Config
from trainers.spec import SPECS, DatasetFacts, TrialResult

PROCESS_MB = 390.0
"""A process that trains something tiny, or the memory that a GPU's driver holds for one."""
UNKNOWN_MB = 1024.0
"""A trainer of the user's own, before one has been seen."""
SEEN = 32
"""The newest trainings that correct the estimate."""
SPARE = 1.15
FLOATS_A_TOKEN = 17
"""Of each block, by hidden dimension: what it keeps for its way back."""
MOST_SCORES = 32_000_000


class MemoryNeed:
    """One per owner. Learns from each training of it how far off the rough estimate is, by dataset and backbone."""

    def __init__(self) -> None:
        self._ratios: dict[tuple[str, str], deque[float]] = {}

    def of(self, study: Study, trial: Trial) -> float:
        """In MiB."""
        ratios = self._ratios.get((study.dataset_hash, study.backbone))
        factor = median(ratios) if ratios else 1.0
        return PROCESS_MB + SPARE * factor * body_mb(study.backbone, trial.config, study.facts)

    def saw(self, study: Study, trial: Trial, result: TrialResult) -> None:
        """How a training ended; its peak is that of the process on a CPU, of its tensors on a GPU."""
        if result.status != "ok" or not result.peak_memory_mb or result.weights_of is not None:
            return
        on_cpu = (result.device or "cpu").startswith("cpu")
        held = max(1.0, result.peak_memory_mb - (PROCESS_MB if on_cpu else 0.0))
        key = (study.dataset_hash, study.backbone)
        rough = body_mb(study.backbone, trial.config, study.facts)
        self._ratios.setdefault(key, deque(maxlen=SEEN)).append(held / rough)


def body_mb(backbone: str, config: Config, facts: DatasetFacts) -> float:
    """What tables, activations and scores take, roughly; the process itself is not in it."""
    try:
        spec = SPECS[backbone].model_validate(config)
    except (KeyError, ValidationError):  # a trainer of the user's own, or a field of another version
        return UNKNOWN_MB - PROCESS_MB
    table = facts.items * spec.hidden_dim * (1 if spec.tie_embeddings else 2)
    tokens = min(spec.batch_size, facts.users) * min(facts.mean_length, spec.max_length)
    kept = tokens * spec.hidden_dim * (spec.num_blocks * FLOATS_A_TOKEN + 8)
    drawn = facts.items if spec.loss == "full_softmax" else spec.num_negatives + 1
    floats = 7 * table + kept + min(tokens * drawn, MOST_SCORES) + 20 * facts.interactions
    return max(1.0, 4 * floats / 2**20)
