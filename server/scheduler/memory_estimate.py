"""Estimates the memory of a training before it starts, from its spec and from the peaks of earlier trainings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from threading import Lock

from pydantic import ValidationError

from memory.records import Study, Trial
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Config
from trainers.contract.specs import SPECS

PROCESS_MB = 390.0
"""Memory of a process that trains something tiny, or memory that a GPU's driver holds for a process."""
UNKNOWN_MB = 1024.0
"""Memory assumed for a trainer of the user's own until one of its trainings has been measured."""
RECENT = 32
"""Number of newest trainings that correct the estimate."""
SPARE = 1.15
FLOATS_A_TOKEN = 17
"""Floats that each block keeps for the backward pass, for each token and hidden dimension."""
MOST_SCORES = 32_000_000


class MemoryEstimate:
    """One per owner, safe to use from any thread. Learns by dataset and backbone how far off the rough estimate is.

    `trials_of` returns the trials of a study under earlier owners, oldest first. It is called once, before the study's
    first trial starts here.
    """

    def __init__(self, trials_of: Callable[[str], Sequence[Trial]] = lambda _study_id: ()) -> None:
        self._trials_of = trials_of
        self._recalled: set[str] = set()
        self._ratios: dict[tuple[str, str], deque[float]] = {}
        self._lock = Lock()

    def of(self, study: Study, trial: Trial) -> float:
        """The memory that a trial needs, in MiB."""
        if study.study_id not in self._recalled:
            self._recalled.add(study.study_id)
            for earlier in self._trials_of(study.study_id):
                self.observe(study, earlier)
        with self._lock:
            ratios = self._ratios.get((study.dataset_hash, study.backbone))
            factor = median(ratios) if ratios else 1.0
        return PROCESS_MB + SPARE * factor * body_mb(study.backbone, trial.config, study.facts)

    def observe(self, study: Study, trial: Trial) -> None:
        """Learns from a trial that has ended. Its peak is that of the process on a CPU, of its tensors on a GPU."""
        if trial.status != "ok" or not trial.peak_memory_mb or trial.weights_of is not None:
            return
        on_cpu = (trial.device or "cpu").startswith("cpu")
        held = max(1.0, trial.peak_memory_mb - (PROCESS_MB if on_cpu else 0.0))
        key = (study.dataset_hash, study.backbone)
        rough = body_mb(study.backbone, trial.config, study.facts)
        with self._lock:
            self._ratios.setdefault(key, deque(maxlen=RECENT)).append(held / rough)


def body_mb(backbone: str, config: Config, facts: DatasetFacts) -> float:
    """Rough memory of tables, activations and scores in MiB, without the process itself."""
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
