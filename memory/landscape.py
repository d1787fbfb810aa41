"""What is known of one backbone on one dataset: its scored runs, and which configurations differ in one field only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from memory.noise import Sigma, estimate
from trainers.space import Config, Value
from trainers.spec import DatasetFacts


@dataclass(frozen=True)
class Setting:
    """What must agree between two runs beside dataset and backbone, or their scores do not compare."""

    filter_seen: str
    trainer_version: str


@dataclass(frozen=True)
class Run:
    """One scored training. `order` counts trials of the home in the order in which they were planned."""

    trial_id: str
    setting: Setting
    config_hash: str
    seed: int
    order: int
    parent: str | None
    """The configuration that it was planned from, where that is another one."""
    is_default: bool
    """Whether it is of its study's default, which nothing selected."""
    weights: str
    """The trial whose weights it scored: its own, or another's."""
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """Two configurations that differ in `field` only, in the order in which they were first planned."""

    field: str
    setting: Setting
    first: str
    second: str


@dataclass
class Landscape:
    """Grows by one run at a time; one for each dataset content and backbone."""

    dataset_hash: str
    backbone: str
    facts: DatasetFacts
    runs: dict[tuple[Setting, str], list[Run]] = field(default_factory=dict[tuple[Setting, str], list[Run]])
    settings: dict[Setting, None] = field(default_factory=dict[Setting, None])
    values: dict[str, Config] = field(default_factory=dict[str, Config])
    """By configuration, its fields that have an effect."""
    _groups: dict[str, dict[str, dict[str, None]]] = field(default_factory=dict[str, dict[str, dict[str, None]]])
    """By field and by the hash of the rest: the configurations that share it."""
    _rests: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    _noises: dict[str, Sigma] = field(default_factory=dict[str, Sigma])

    def add(self, run: Run, values: Mapping[str, Value], rests: Mapping[str, str]) -> None:
        """Takes a run; `rests` holds, by field, the hash of its configuration without that field.

        A seed that is there already on the same weights is the same evidence and is left out.
        """
        known = self.runs.setdefault((run.setting, run.config_hash), [])
        if any((one.seed, one.weights) == (run.seed, run.weights) for one in known):
            return
        known.append(run)
        self.settings[run.setting] = None
        self.values[run.config_hash] = dict(values)
        self._rests[run.config_hash] = rests
        for name, rest in rests.items():
            self._groups.setdefault(name, {}).setdefault(rest, {})[run.config_hash] = None
        self._noises.clear()

    def fields_of(self, config_hash: str) -> list[str]:
        """The fields in which another configuration differs from this one alone."""
        rests = self._rests.get(config_hash, {})
        return [name for name, rest in rests.items() if len(self._groups[name][rest]) > 1]

    def pairs(self, name: str) -> Iterator[Pair]:
        """Every two configurations of one setting that differ in this field only."""
        for hashes in self._groups.get(name, {}).values():
            for setting in self._settings(hashes):
                there = [one for one in hashes if (setting, one) in self.runs]
                there.sort(key=lambda one: self.runs[setting, one][0].order)
                for place, first in enumerate(there):
                    for second in there[place + 1 :]:
                        if self.values[first][name] != self.values[second][name]:
                            yield Pair(name, setting, first, second)

    def _settings(self, hashes: Mapping[str, None]) -> list[Setting]:
        return [
            setting
            for setting in self.settings
            if len(hashes) > 1 and any((setting, one) in self.runs for one in hashes)
        ]

    def noise(self, metric: str) -> Sigma:
        """Relative seed noise of the metric here, from every configuration that several seeds were trained of."""
        if metric not in self._noises:
            self._noises[metric] = self._noise(metric)
        return self._noises[metric]

    def _noise(self, metric: str) -> Sigma:
        groups: list[list[float]] = []
        for known in self.runs.values():
            own = [one.scores[metric] for one in known if metric in one.scores and one.weights == one.trial_id]
            if len(own) > 1:
                groups.append(own)
        return estimate(groups, self.facts.measured_users)
