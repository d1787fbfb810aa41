"""The model card of an export: data, protocol, metrics with intervals, and how to get and use the model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory.noise import Sigma, t_quantile
from memory.records import Reveal, Study, Trial
from server.drive.plan import METRIC, Plan
from server.policies.sampling import changes_between
from server.studies import Standing
from trainers.metrics import filter_rule
from trainers.space import Config
from trainers.spec import SPECS, Exported, Preset, preset

_WHAT = {
    "model.safetensors": "weights, configuration, item ids and the counts of its scoring: all that `load` needs",
    "checkpoint.safetensors": "what the trainer left",
    "item_embeddings.safetensors": "`embeddings` (items, width): an item's encoder score is its row times the state",
    "encoder.onnx": "the encoder; `items` (users, width) and `lengths` (users,), int64, padded on the right with any "
    "item, the oldest first, at most max_length → `states` (users, width)",
    "encoder.onnx.data": "its weights, where they are too large for one file",
    "items.parquet": "`index`, an item's row and number, and `id`, its name in the data",
    "config.json": "configuration, data, metrics of every seed, noise and versions",
}


@dataclass(frozen=True)
class Subject:
    """What is exported: a configuration with its trainings, of which `trial` left the weights."""

    study: Study
    standing: Standing
    trial: Trial
    exported: Exported
    noise: Sigma
    reveal: Reveal | None
    words: str
    """How it did beside the default."""
    version: str
    refit: bool = False
    """Whether the weights come from a training on every event, for as many epochs as `trial` was best at."""


def config(subject: Subject) -> dict[str, object]:
    """config.json: what the card says, for programs. A refit has no metrics of its own."""
    study, trial = subject.study, subject.trial
    tests = subject.reveal.test if subject.reveal else {}
    seeds = {
        one.seed: {"validation": one.validation, "test": tests.get(one.trial_id)} for one in subject.standing.trials
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
        "validation": None if subject.refit else trial.validation,
        "test": None if subject.refit else tests.get(trial.trial_id),
        "seeds": seeds,
        "test_reveal": subject.reveal.ordinal if subject.reveal else None,
        "noise": {"sigma": subject.noise.sigma, "df": subject.noise.df},
        "versions": {"virtualmle": subject.version, "trainer": trial.trainer_version, **trial.versions},
    }  # fmt: skip


def card(subject: Subject) -> str:
    """README.md of the export."""
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
        _again(subject),
        _versions(subject),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _again(subject: Subject) -> str:
    """The way to these weights, where there is one of a single command."""
    study, trial = subject.study, subject.trial
    if subject.refit:
        return f"```sh\nvirtualmle export {study.study_id} DIR --refit\n```"
    if study.metric != METRIC or trial.status != "ok":
        why = f"its best epoch was chosen by {study.metric}" if study.metric != METRIC else f"it ended {trial.status}"
        return f"No single command trains it again, since {why}; `config.json` holds configuration and seed."
    return f"The same training, where the dataset is there under its name:\n\n```sh\n{command(subject)}\n```"


def command(subject: Subject) -> str:
    """The command line that trains the exported configuration again as trial 0 of a study."""
    study, trial = subject.study, subject.trial
    plan = Plan(
        dataset=study.dataset, backbone=study.backbone, trials=1, seed=trial.seed, preset=_preset(study),
        fixed=changes_between(study.space, _start(study), trial.config), filter_seen=study.filter_seen,
    )  # fmt: skip
    return plan.command()


def _start(study: Study) -> Config:
    """The default of a study that fixes nothing."""
    if study.backbone not in SPECS:
        return study.space.default()
    return preset(_preset(study), study.backbone, study.facts).model_dump()


def _preset(study: Study) -> Preset:
    return "paper" if study.preset == "paper" else "strong"


def _provenance(subject: Subject) -> list[str]:
    trial, exported = subject.trial, subject.exported
    if not subject.refit:
        said = f"The weights of trial {trial.trial_id}, seed {trial.seed}: the best of {len(subject.standing.trials)} "
        epoch = f", from epoch {trial.best_epoch}" if trial.best_epoch is not None else ""
        said += f"by validation{epoch}, trained on {exported.interactions:,} training events."
        return [said, subject.words]
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
    known = t_quantile(0.975, subject.noise.df) * subject.noise.sigma / len(trials) ** 0.5
    rows: list[tuple[str, ...]] = []
    for name in subject.trial.validation:
        width = known if name == subject.study.metric else None
        rows.append((name, *_cells([one.validation for one in trials], subject.trial.validation, name, width)))
        test = [tests[one.trial_id] for one in trials if one.trial_id in tests]
        rows[-1] += _cells(test, tests.get(subject.trial.trial_id), name, width)
    head = ("metric", "validation", "mean of seeds", "95 % interval", "test", "mean of seeds", "95 % interval")
    seeds = ", ".join(str(one.seed) for one in trials)
    about = (
        f"Full ranking, one item to find for each user, in validation for {subject.study.facts.measured_users:,} of "
        f"them. Means are over the seeds {seeds}. Intervals come from the seed noise of {subject.study.metric} "
        f"({subject.noise.sigma:.1%} of a score), without that of which users there are; others were not estimated."
    )
    if subject.reveal is None:
        about += " The study is not finished, so the test is sealed."
    return [about, _table(head, rows)]


def _cells(
    found: Sequence[Mapping[str, float]], own: Mapping[str, float] | None, name: str, width: float | None
) -> tuple[str, ...]:
    if not found or own is None:
        return ("–", "–", "–")
    mean = sum(one[name] for one in found) / len(found)
    if width is None:
        return f"{own[name]:.4f}", f"{mean:.4f}", "–"
    low, high = mean * max(0.0, 1 - width), min(1.0, mean * (1 + width))
    return f"{own[name]:.4f}", f"{mean:.4f}", f"{low:.4f} – {high:.4f}"


def _protocol(subject: Subject) -> str:
    study, facts = subject.study, subject.study.facts
    events = f"{facts.interactions:,} events" + (" of training" if facts.validated_users is not None else "")
    lines = [
        ("dataset", f"{study.dataset}: {facts.users:,} users, {facts.items:,} items, {events}"),
        ("content hash", study.dataset_hash),
        ("split", study.split),
        ("filter_seen", study.filter_seen),
        (
            "study",
            f"{study.study_id}, policy {study.policy}, preset {study.preset}, chosen by validation {study.metric}",
        ),
    ]
    return _table(("", ""), lines)


def _versions(subject: Subject) -> str:
    trial = subject.trial
    found = {"virtualmle": subject.version, "trainer": trial.trainer_version, **trial.versions}
    said = ", ".join(f"{name} {version}" for name, version in found.items())
    where = f", {trial.device}" if trial.device else ""
    return f"Trained by {said}; threads {trial.threads}{where}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
