"""How much memory a training will want, told before it starts from its spec and corrected by what was seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from pydantic import ValidationError

from memory.records import Study, Trial
from trainers.space import Config
from trainers.spec import SPECS, DatasetFacts

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
    """One per owner. Learns from each training how far off the rough estimate is, by dataset and backbone.

    `trials_of`: what earlier owners saw of a study, oldest first; asked once, when its first trial is to start here.
    """

    def __init__(self, trials_of: Callable[[str], Sequence[Trial]] = lambda _study_id: ()) -> None:
        self._trials_of = trials_of
        self._recalled: set[str] = set()
        self._ratios: dict[tuple[str, str], deque[float]] = {}

    def of(self, study: Study, trial: Trial) -> float:
        """In MiB."""
        if study.study_id not in self._recalled:
            self._recalled.add(study.study_id)
            for earlier in self._trials_of(study.study_id):
                self.saw(study, earlier)
        ratios = self._ratios.get((study.dataset_hash, study.backbone))
        factor = median(ratios) if ratios else 1.0
        return PROCESS_MB + SPARE * factor * body_mb(study.backbone, trial.config, study.facts)

    def saw(self, study: Study, trial: Trial) -> None:
        """A trial that has ended; its peak is that of the process on a CPU, of its tensors on a GPU."""
        if trial.status != "ok" or not trial.peak_memory_mb or trial.weights_of is not None:
            return
        on_cpu = (trial.device or "cpu").startswith("cpu")
        held = max(1.0, trial.peak_memory_mb - (PROCESS_MB if on_cpu else 0.0))
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
