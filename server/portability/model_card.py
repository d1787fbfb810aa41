"""The model card of an export: data, protocol, metrics with intervals, and how to train and use the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory.records import Reveal, Study, Trial
from memory.statistics.noise import Sigma
from memory.statistics.t_distribution import t_quantile
from server.drive.plan import Plan
from server.policies.sampling import changes_between
from server.study.requests import StudyRequest
from server.study.standings import Standing
from trainers.contract.metrics import filter_rule, filter_words
from trainers.contract.presets import Preset, preset
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import CHECKPOINT_FILE, Exported

DRIVE_METRIC = "ndcg@10"
"""The metric of every `drive`."""
_WHAT = {
    "model.safetensors": "weights, configuration, item ids and the counts of its scoring: all that `load` needs",
    CHECKPOINT_FILE: "what the trainer left",
    "item_embeddings.safetensors": "`embeddings` (items, width): an item's encoder score is its row times the state",
    "encoder.onnx": "the encoder; `items` (users, width) and `lengths` (users,), int64, padded on the right with any "
    "item, the oldest first, at most max_length → `states` (users, width)",
    "encoder.onnx.data": "its weights, where they are too large for one file",
    "items.parquet": "`index`, an item's row and number, and `id`, its name in the data",
    "config.json": "configuration, data, metrics of every seed, noise and versions",
}


@dataclass(frozen=True)
class Subject:
    """What is exported: a configuration with its trainings; the weights are those of `trial`."""

    study: Study
    standing: Standing
    trial: Trial
    exported: Exported
    noise: Sigma
    reveal: Reveal | None
    words: str
    """How the configuration compared with the default, in words."""
    version: str
    refit: bool = False
    """Whether the weights come from a training on all events, for as many epochs as `trial` took to its best."""


def config(subject: Subject) -> dict[str, object]:
    """config.json: the content of the card, for programs. A refit has no metrics of its own."""
    study, trial = subject.study, subject.trial
    tests = subject.reveal.test if subject.reveal else {}
    seeds = {
        replicate.seed: {"validation": replicate.validation, "test": tests.get(replicate.trial_id)}
        for replicate in subject.standing.trials
    }
    return {
        "version": 1,
        "study_id": study.study_id,
        "trial_id": trial.trial_id,
        "backbone": study.backbone,
        "config": trial.config,
        "seed": trial.seed,
        "refit": subject.refit,
        "epochs": trial.best_epoch,
        "interactions": subject.exported.interactions,
        "dataset": {
            "name": study.dataset, "content_hash": study.dataset_hash, "split": study.split, **study.facts.model_dump(),
        },
        "metric": study.metric,
        "filter_seen": study.filter_seen,
        "filter": filter_rule(study.filter_seen, study.facts),
        "recipe": _recipe(study),
        "validation": None if subject.refit else trial.validation,
        "test": None if subject.refit else tests.get(trial.trial_id),
        "seeds": seeds,
        "test_reveal": subject.reveal.ordinal if subject.reveal else None,
        "noise": {"sigma": subject.noise.sigma, "df": subject.noise.df},
        "versions": {"virtualmle": subject.version, "trainer": trial.trainer_version, **trial.versions},
    }  # fmt: skip


def card(subject: Subject) -> str:
    """The text of the export's README.md."""
    study, trial, exported = subject.study, subject.trial, subject.exported
    parts = [
        f"# {study.backbone} on {study.dataset}",
        *_provenance(subject),
        "## Files",
        _table(("file", "content"), [(f"`{name}`", _WHAT[name]) for name in (*exported.files, "config.json")]),
        *_onnx(exported),
        "## Use",
        _use(subject),
        "## Metrics",
        *_metrics(subject),
        "## Data and protocol",
        _protocol(subject),
        "## Configuration",
        _table(
            ("field", "value"), [(name, f"`{value}`") for name, value in study.space.canonical(trial.config).items()]
        ),
        "## Again",
        _how_to_repeat(subject),
        _versions(subject),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _how_to_repeat(subject: Subject) -> str:
    """How to train these weights again, if a single command does that."""
    study, trial = subject.study, subject.trial
    if subject.refit:
        return f"```sh\nvirtualmle export {study.study_id} DIR --refit\n```"
    if study.metric != DRIVE_METRIC or trial.status != "ok":
        why = (
            f"its best epoch was chosen by {study.metric}"
            if study.metric != DRIVE_METRIC
            else f"it ended {trial.status}"
        )
        return f"No single command trains it again, since {why}; `config.json` holds configuration and seed."
    return f"The same training, where the dataset is there under its name:\n\n```sh\n{command(subject)}\n```"


def command(subject: Subject) -> str:
    """The command line that trains the exported configuration again as trial 0 of a study."""
    study, trial = subject.study, subject.trial
    request = StudyRequest(
        dataset=study.dataset, backbone=study.backbone, policy="playbook", max_trials=1, seed=trial.seed,
        preset=_preset(study), filter_seen=study.filter_seen,
        space=changes_between(study.space, _default_config(study), trial.config),
    )  # fmt: skip
    return Plan(request).command()


def _default_config(study: Study) -> Config:
    """The default configuration of a study that fixes nothing."""
    if study.backbone not in SPECS:
        return study.space.default()
    return preset(_preset(study), study.backbone, study.facts).model_dump()


def _preset(study: Study) -> Preset:
    return "paper" if study.preset == "paper" else "strong"


def _provenance(subject: Subject) -> list[str]:
    trial, exported = subject.trial, subject.exported
    if not subject.refit:
        text = f"The weights of trial {trial.trial_id}, seed {trial.seed}: the best of {len(subject.standing.trials)} "
        epoch = f", from epoch {trial.best_epoch}" if trial.best_epoch is not None else ""
        text += f"by validation{epoch}, trained on {exported.interactions:,} training events."
        return [text, subject.words]
    return [
        f"**Refit: these weights have no test score.** Configuration and seed of trial {trial.trial_id} were trained "
        f"anew for {trial.best_epoch} epochs on all {exported.interactions:,} events kept of the dataset, validation "
        "and test included. The metrics below are those of the trainings that chose it, on the training split.",
        subject.words,
    ]


def _onnx(exported: Exported) -> list[str]:
    if exported.no_onnx:
        return [f"No ONNX encoder: {exported.no_onnx}."]
    return [
        f"The ONNX encoder's states differ from the trained one's by {exported.onnx_difference:.1g} of the largest."
    ]


def _use(subject: Subject) -> str:
    if subject.study.backbone not in SPECS:
        return "Ask its own command for predictions: it reads `checkpoint.safetensors`."
    seen = ", exclude_seen=False" if filter_rule(subject.study.filter_seen, subject.study.facts) == "no" else ""
    return (
        "```python\nfrom trainers.predict import load\n\n"
        f'model = load("this folder")\nmodel.recommend([["item", "item"]], k=10{seen})  # item ids, the oldest first\n'
        "```\n\nIt needs the packages torch, numpy, pydantic and safetensors, and virtualmle itself: "
        "`pip install --no-deps` with its clone or wheel leaves out what only a server needs."
    )


def _metrics(subject: Subject) -> list[str]:
    trials, tests = subject.standing.trials, subject.reveal.test if subject.reveal else {}
    study_width = t_quantile(0.975, subject.noise.df) * subject.noise.sigma / len(trials) ** 0.5
    rows: list[tuple[str, ...]] = []
    for name in subject.trial.validation:
        width = study_width if name == subject.study.metric else None
        rows.append((name, *_cells([trial.validation for trial in trials], subject.trial.validation, name, width)))
        test = [tests[trial.trial_id] for trial in trials if trial.trial_id in tests]
        rows[-1] += _cells(test, tests.get(subject.trial.trial_id), name, width)
    head = ("metric", "validation", "mean of seeds", "95 % interval", "test", "mean of seeds", "95 % interval")
    seeds = ", ".join(str(trial.seed) for trial in trials)
    about = (
        f"Full ranking, one item to find for each user, in validation for {subject.study.facts.measured_users:,} of "
        f"them. Means are over the seeds {seeds}. Intervals come from the seed noise of {subject.study.metric} "
        f"({subject.noise.sigma:.1%} of a score), without that of which users there are; others were not estimated."
    )
    if subject.reveal is None:
        about += " The study is not finished, so the test is sealed."
    return [about, _table(head, rows)]


def _cells(
    scores: Sequence[Mapping[str, float]], exported: Mapping[str, float] | None, name: str, width: float | None
) -> tuple[str, ...]:
    if not scores or exported is None:
        return ("–", "–", "–")
    mean = sum(metrics[name] for metrics in scores) / len(scores)
    if width is None:
        return f"{exported[name]:.4f}", f"{mean:.4f}", "–"
    low, high = mean * max(0.0, 1 - width), min(1.0, mean * (1 + width))
    return f"{exported[name]:.4f}", f"{mean:.4f}", f"{low:.4f} – {high:.4f}"


def _protocol(subject: Subject) -> str:
    study, facts = subject.study, subject.study.facts
    events = f"{facts.interactions:,} events" + (" of training" if facts.validated_users is not None else "")
    lines = [
        ("dataset", f"{study.dataset}: {facts.users:,} users, {facts.items:,} items, {events}"),
        ("content hash", study.dataset_hash),
        ("split", study.split),
        ("filter_seen", filter_words(study.filter_seen, facts)),
        *([("recipe", f"`virtualmle data add {study.dataset} FILE {recipe}`")] if (recipe := _recipe(study)) else []),
        (
            "study",
            f"{study.study_id}, policy {study.policy}, preset {study.preset}, chosen by validation {study.metric}",
        ),
    ]
    return _table(("", ""), lines)


def _recipe(study: Study) -> str | None:
    """The options that made the dataset from its file; None where none are known."""
    recipe = json.loads(study.brief).get("recipe")
    return str(recipe) if recipe else None


def _versions(subject: Subject) -> str:
    trial = subject.trial
    versions = {"virtualmle": subject.version, "trainer": trial.trainer_version, **trial.versions}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = f", {trial.device}" if trial.device else ""
    return f"Trained by {listed}; threads {trial.threads}{where}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
