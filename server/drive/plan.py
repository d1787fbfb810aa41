"""What a drive was asked to do: a study request, and how to tune it."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml
from pydantic import TypeAdapter

from server.drive.ablation import MemoryMode
from server.policies import PolicyName
from server.study.requests import StudyRequest

Engineer = Literal[PolicyName, "llm"]
Provider = Literal["anthropic", "openai", "replay"]

TRIALS = 8
"""How many configurations a drive tries by default."""
WITHHOLD = 0.1
"""Probability with which `drive` withholds a heuristic by default."""
SIGNS = {"min": ">=", "max": "<="}


class PlanError(ValueError):
    """An option cannot be used; the message says what could be."""


@dataclass(frozen=True)
class ModelPlan:
    """The language model of `--policy llm`. The key itself is never part of a plan."""

    model: str
    provider: Provider
    base_url: str | None = None
    key_file: Path | None = None
    max_turns: int = 60
    max_tokens: int = 400_000
    """Limit on the tokens of all turns together, read and written."""
    max_context: int = 60_000
    """Tokens of one request beyond which the dialogue begins anew, with older trials as a table."""
    max_cost: float | None = None
    """Limit in US dollars."""
    prices: Path | None = None
    replay: Path | None = None
    """A transcript to replay in place of a model."""
    anonymous: bool = False
    """Whether the model sees other names for datasets and fields."""
    dry_run: bool = False
    """Whether the drive only prints the first prompt."""
    retries: int = 4
    """Retries of one request, after a failure that may pass (429, 5xx, no connection)."""

    @property
    def where(self) -> str:
        """The endpoint, for messages."""
        return self.base_url or self.provider

    def options(self) -> list[str]:
        """The options of `drive` that choose this model."""
        words = ["--provider", self.provider, "--model", self.model]
        words += ["--base-url", self.base_url] if self.base_url else []
        words = words if self.replay is None else ["--replay-transcript", str(self.replay)]
        for name in ("key_file", "max_turns", "max_tokens", "max_context", "max_cost", "prices"):
            if (value := getattr(self, name)) != getattr(ModelPlan, name):
                words += ["--" + name.replace("_", "-"), _number(value) if isinstance(value, float) else str(value)]
        return [*words, "--anonymous"] if self.anonymous else words

    @property
    def portable(self) -> bool:
        """Whether a study may remember this model: a file or an address is named anew by whoever goes on.

        Other clients write studies, too, and a key must not follow an address that one of them chose.
        """
        return not (self.base_url or self.replay or self.prices or self.dry_run)


@dataclass(frozen=True)
class Resume:
    """An open study to go on with, and what differs from how it was started. None keeps what the study has."""

    study_id: str
    policy: Engineer | None = None
    reflection: bool | None = None
    parallel: int | None = None
    more_trials: int | None = None
    """Configurations to add to a study that has no limit of its own."""


@dataclass(frozen=True)
class Plan:
    """One drive: the study that it opens, and how the study is tuned."""

    request: StudyRequest
    model: ModelPlan | None = None
    url: str | None = None
    """URL of the remote server that is driven; only the report's command line needs it, as it does the next two."""
    token_file: Path | None = None
    home: Path | None = None
    memory: MemoryMode = "on"
    reflection: bool = True
    """Whether policies that write reflections may write one for each trial."""
    wait_seconds: float = 45.0
    parallel: int = 1
    """Trainings at a time; the server runs as many at once as it has slots."""
    resume: Resume | None = None
    replay: Path | None = None
    """The folder of recorded tables that the home replays; only the report's command line needs it."""

    @property
    def policy(self) -> str:
        """The policy that tunes, `llm` for a language model, or the label of another client."""
        return self.request.policy

    @property
    def playable(self) -> Engineer:
        """The policy that a drive can play: its own, or the playbook where another client or a lost model tuned."""
        own = self.request.policy
        plays = own in get_args(PolicyName) or (own == "llm" and self.model is not None)
        return cast(Engineer, own) if plays else "playbook"

    @property
    def max_trials(self) -> int:
        """Limit on configurations; replicates do not count."""
        return self.request.max_trials or TRIALS

    @property
    def budget_seconds(self) -> float | None:
        """Wall-clock limit of the drive."""
        return self.request.budget_seconds

    def study_arguments(self) -> dict[str, Any]:
        """The arguments of start_study. Without memory nothing is withheld: there would be nothing to compare.

        That is said as 0, since a study that asks for nothing gets the setting of its home.
        """
        request = self.request if self.memory == "on" else self.request.model_copy(update={"withhold": 0.0})
        arguments = {**request.model_dump(exclude_defaults=True), "policy": request.policy}
        options = self._stored_options()
        stored = {"drive_options": json.dumps(options)} if options else {}
        return {**arguments, "max_trials": self.max_trials, **stored}

    def _stored_options(self) -> dict[str, Any]:
        """What the study has to remember so that --resume goes on the same way; see `plan_of`."""
        options: dict[str, Any] = {}
        if self.memory != "on":
            options["memory"] = self.memory
        if not self.reflection:
            options["reflection"] = False
        if self.parallel > 1:
            options["parallel"] = self.parallel
        if self.model is not None and self.model.portable:
            options["model"] = MODEL_PLANS.dump_python(self.model, mode="json", exclude={"key_file"}, exclude_none=True)
        return options

    def command(self) -> str:
        """The command line that repeats this drive in a new study."""
        request, default = self.request, StudyRequest(dataset="")
        words = ["virtualmle", "drive", "--dataset", request.dataset, "--backbone", request.backbone]
        words += ["--policy", self.playable, "--trials", str(self.max_trials), "--seed", str(request.seed)]
        words += ["--preset", request.preset]
        for name in ("budget_seconds", "trial_seconds", "gpu_seconds", "min_gain", "confirm_seeds"):
            if (number := getattr(request, name)) is not None:
                words += ["--" + name.replace("_", "-"), _number(number)]
        for name, value in (request.space or {}).items():
            words += ["--fix", f"{name}={_yaml(value)}"]
        for name in ("metric", "filter_seen", "early_stop"):
            if getattr(request, name) != getattr(default, name):
                words += ["--" + name.replace("_", "-"), getattr(request, name)]
        for name, limits in (request.guardrails or {}).items():
            for bound, value in limits.items():
                words += ["--guardrail", f"{name}{SIGNS[bound]}{_number(value)}"]
        if request.allow_small:
            words += ["--allow-small"]
        if self.memory != "on":
            words += ["--memory", self.memory]
        if (request.withhold or 0.0) != WITHHOLD:
            words += ["--withhold", _number(request.withhold or 0.0)]
        if not self.reflection:
            words += ["--no-reflection"]
        if self.parallel > 1:
            words += ["--parallel", str(self.parallel)]
        return shlex.join([*words, *self._where(), *(self.model.options() if self.model is not None else [])])

    def resume_command(self, study_id: str) -> str:
        """The command line that goes on with a study that this drive opened."""
        words = ["virtualmle", "drive", "--resume", study_id, *self._where()]
        if self.model is not None and self.model.dry_run:
            words += ["--policy", "llm", "--model", "MODEL"]
        elif self.model is not None and (self.model.key_file or not self.model.portable):
            words += ["--policy", "llm", *self.model.options()]
        elif self.resume is not None and self.resume.policy is not None:
            words += ["--policy", self.playable, *(self.model.options() if self.model is not None else [])]
        return shlex.join(words)

    def _where(self) -> list[str]:
        """The options that name the server or the home."""
        places = {
            "--url": self.url, "--token-file": self.token_file, "--replay": self.replay, "--home": self.home,
        }  # fmt: skip
        return [word for option, place in places.items() if place is not None for word in (option, str(place))]


MODEL_PLANS = TypeAdapter(ModelPlan)


def provider_of(model: str, base_url: str | None) -> Provider:
    """The default provider of a model: Anthropic where the name begins with claude and there is no base URL."""
    return "anthropic" if model.startswith("claude") and base_url is None else "openai"


def fixed_fields(settings: list[str]) -> dict[str, Any]:
    """Parses `FIELD=VALUE` settings; values are YAML, and 1e-3 is a number, too."""
    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise PlanError(f"--fix wants FIELD=VALUE, as in --fix dropout=0.2; got {setting!r}.")
        try:
            fields[name.strip()] = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise PlanError(f"--fix {setting!r}: {text!r} is not YAML; quote it, or give a plain value.") from None
    return fields


def limits_of(settings: list[str]) -> dict[str, dict[str, float]]:
    """Parses `NAME>=VALUE` and `NAME<=VALUE` as a study's guardrails; the server checks the names."""
    limits: dict[str, dict[str, float]] = {}
    for setting in settings:
        bound = next((bound for bound, sign in SIGNS.items() if sign in setting), "min")
        name, _, text = setting.partition(SIGNS[bound])
        try:
            limit = float(text)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise PlanError(
                f"--guardrail wants NAME>=VALUE or NAME<=VALUE, as in --guardrail 'coverage@10>=0.2'; got {setting!r}."
            )
        limits.setdefault(name.strip(), {})[bound] = limit
    return limits


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written as 1e-3."""


class _Dumper(yaml.SafeDumper):
    """Writes what _Loader reads: text that looks like a number is quoted."""


for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def _yaml(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=math.inf, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return json.dumps(value) if "\n" in text else text


def _number(value: float) -> str:
    """The shortest text that reads as the same number."""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)
