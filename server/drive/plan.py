"""What a drive was asked to do."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from memory.records import EarlyStop, Study
from server.drive.ablation import MemoryMode

PolicyName = Literal["playbook", "random", "tpe", "hybrid", "gp", "llm"]
FilterSeen = Literal["auto", "yes", "no", "reference"]
Provider = Literal["anthropic", "openai", "replay"]
Preset = Literal["strong", "paper"]

METRIC = "ndcg@10"
WITHHOLD = 0.1
"""What `drive` withholds unless it is told otherwise."""
SIGNS = {"min": ">=", "max": "<="}


class PlanError(ValueError):
    """An option that cannot be used; the message says what would be."""


@dataclass(frozen=True)
class ModelPlan:
    """The language model of `--policy llm`. The key itself is never part of a plan."""

    model: str
    provider: Provider
    base_url: str | None = None
    key_file: Path | None = None
    max_turns: int = 60
    max_tokens: int = 400_000
    """Tokens of all turns together, read and written."""
    max_context: int = 60_000
    """Tokens of one request, after which the dialogue begins anew with older trials as a table."""
    max_cost: float | None = None
    """US dollars."""
    prices: Path | None = None
    replay: Path | None = None
    """A transcript that says what was said then."""
    anonymous: bool = False
    """Whether datasets and fields go by other names."""
    dry_run: bool = False
    """Whether only the first prompt is wanted."""
    retries: int = 4
    """Of one request, after a refusal that may pass (429, 5xx, no connection)."""


@dataclass(frozen=True)
class Plan:
    """One drive. `trials` counts configurations; replicates of them do not count."""

    dataset: str = "demo"
    backbone: str = "sasrec"
    policy: PolicyName = "playbook"
    trials: int = 8
    budget_seconds: float | None = None
    trial_seconds: float | None = None
    seed: int = 0
    preset: Preset = "strong"
    fixed: dict[str, Any] = field(default_factory=dict[str, Any])
    filter_seen: FilterSeen = "auto"
    model: ModelPlan | None = None
    url: str | None = None
    """Of a server elsewhere; only for the words of the report."""
    early_stop: EarlyStop = "auto"
    guardrails: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    memory: MemoryMode = "on"
    reflection: bool = True
    """Whether each trial's lesson is written down, by policies that do so."""
    withhold: float = 0.0
    """The chance that the study is not told of a heuristic: a control for what heuristics are worth."""
    wait_seconds: float = 45.0
    gpu_seconds: float | None = None
    """How long the study's trainings may hold slots, all together."""
    parallel: int = 1
    """Trainings at a time; the server trains as many at once as it has slots."""
    resume: str | None = None
    """A study that was started before, to go on with."""

    def study_arguments(self) -> dict[str, Any]:
        """The arguments of start_study."""
        arguments: dict[str, Any] = {
            "dataset": self.dataset,
            "backbone": self.backbone,
            "metric": METRIC,
            "preset": self.preset,
            "filter_seen": self.filter_seen,
            "max_trials": self.trials,
            "policy": self.policy,
            "seed": self.seed,
        }
        if self.fixed:
            arguments["space"] = self.fixed
        if self.early_stop != "auto":
            arguments["early_stop"] = self.early_stop
        if self.withhold and self.memory == "on":
            arguments["withhold"] = self.withhold
        if self.guardrails:
            arguments["guardrails"] = self.guardrails
        for name in ("budget_seconds", "trial_seconds", "gpu_seconds"):
            if (seconds := getattr(self, name)) is not None:
                arguments[name] = seconds
        return arguments

    def command(self) -> str:
        """The command line that runs the same again."""
        words = ["virtualmle", "drive", "--dataset", self.dataset, "--backbone", self.backbone, "--policy", self.policy]
        words += ["--trials", str(self.trials), "--seed", str(self.seed), "--preset", self.preset]
        for name in ("budget_seconds", "trial_seconds", "gpu_seconds"):
            if (seconds := getattr(self, name)) is not None:
                words += ["--" + name.replace("_", "-"), f"{seconds:g}"]
        for name, value in self.fixed.items():
            words += ["--fix", f"{name}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"]
        if self.filter_seen != "auto":
            words += ["--filter-seen", self.filter_seen]
        if self.early_stop != "auto":
            words += ["--early-stop", self.early_stop]
        for name, limits in self.guardrails.items():
            for bound, value in limits.items():
                words += ["--guardrail", f"{name}{SIGNS[bound]}{value:g}"]
        if self.memory != "on":
            words += ["--memory", self.memory]
        if self.withhold != WITHHOLD:
            words += ["--withhold", f"{self.withhold:g}"]
        if not self.reflection:
            words += ["--no-reflection"]
        if self.parallel > 1:
            words += ["--parallel", str(self.parallel)]
        if self.url is not None:
            words += ["--url", self.url]
        if self.resume is not None:
            words += ["--resume", self.resume]
        if self.model is not None and self.model.replay is not None:
            words += ["--replay", str(self.model.replay)]
        elif self.model is not None:
            words += ["--provider", self.model.provider, "--model", self.model.model]
            words += ["--base-url", self.model.base_url] if self.model.base_url else []
        if self.model is not None and self.model.anonymous:
            words += ["--anonymous"]
        return shlex.join(words)


def plan_of(study: Study) -> Plan:
    """What a drive would be asked for to get this study again."""
    numbers = study.max_trials or 8
    return Plan(
        dataset=study.dataset,
        backbone=study.backbone,
        policy=cast(PolicyName, study.policy),
        trials=numbers,
        budget_seconds=study.budget_seconds,
        trial_seconds=study.trial_seconds,
        gpu_seconds=study.gpu_seconds,
        seed=study.seed,
        preset=cast(Preset, study.preset),
        fixed={field.name: field.default for field in study.space.fields if field.fixed},
        filter_seen=study.filter_seen,
        early_stop=study.early_stop,
        guardrails=study.limits,
        withhold=study.withhold,
    )


def provider_of(model: str, base_url: str | None) -> Provider:
    """Who serves a model unless it is said: what begins with claude is Anthropic's, at no address of one's own."""
    return "anthropic" if model.startswith("claude") and base_url is None else "openai"


def fixed_fields(settings: list[str]) -> dict[str, Any]:
    """`FIELD=VALUE` settings, each value typed as YAML; 1e-3 is a number here too."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise PlanError(f"--fix wants FIELD=VALUE, as in --fix dropout=0.2; got {setting!r}.")
        try:
            found[name.strip()] = _numbers(yaml.safe_load(text))
        except yaml.YAMLError:
            raise PlanError(f"--fix {setting!r}: {text!r} is not YAML; quote it, or give a plain value.") from None
    return found


def limits_of(settings: list[str]) -> dict[str, dict[str, float]]:
    """`NAME>=VALUE` and `NAME<=VALUE` as the guardrails of a study; what is measured is the server's to know."""
    found: dict[str, dict[str, float]] = {}
    for setting in settings:
        bound = next((bound for bound, sign in SIGNS.items() if sign in setting), "min")
        name, _, text = setting.partition(SIGNS[bound])
        try:
            found.setdefault(name.strip(), {})[bound] = float(text)
        except ValueError:
            raise PlanError(
                f"--guardrail wants NAME>=VALUE or NAME<=VALUE, as in --guardrail 'coverage@10>=0.2'; got {setting!r}."
            ) from None
    return found


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    if isinstance(value, list):
        return [_numbers(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in cast(dict[str, Any], value).items()}
    return value
