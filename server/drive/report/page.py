"""Writes the files of a report: report.md for people, report.json for programs, and the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from server.answers import TrialAnswer
from server.charts.svg import draw, series
from server.drive.loop import sigma_of
from server.drive.report.live import score_words, status_words, verdict_word
from server.drive.report.report import Report, build
from server.drive.state import Drive
from server.policies.base import configurations, ranked
from server.policies.phrases import changed, counted

PICTURE = "best-so-far.svg"


def write_report(drive: Drive, folder: Path) -> Report:
    """Write report.json, report.md and the picture into `folder`; each appears whole or not at all."""
    report = build(drive)
    history = drive.open_study.observations()
    title = f"{report.backbone} on {report.dataset.name}, policy {report.policy}"
    picture = draw(series(history, sigma_of(drive.open_study), report.metric, title))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / PICTURE, picture)
    _write(folder / "report.json", report.model_dump_json(indent=1) + "\n")
    _write(folder / "report.md", page(drive, report))
    return report


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def page(drive: Drive, report: Report) -> str:
    """The whole of report.md."""
    answers = list(drive.open_study.trials.values())
    parts = [
        f"# {report.backbone} on {report.dataset.name}",
        *([f"> **{report.replay}**"] if report.replay else []),
        _summary(drive, report),
        "## Verdict",
        verdict(drive, report),
        *(f"> {remark}" for remark in drive.remarks),
        f"![Best validation {report.metric} so far over trainings]({PICTURE})",
        "## Trials",
        _trials(answers, report.metric),
        *_guardrails(report),
        "## For scale",
        _scale(report),
        "## Best configuration",
        _best(drive, report),
        "## What was learned",
        _learned(report),
        "## How to get it again",
        _again(drive, report),
        _protocol(drive, report),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(drive: Drive, report: Report) -> str:
    data = report.dataset
    synthetic = drive.open_study.study.brief.dataset.get("synthetic")
    made = " The dataset is **synthetic**: generated, so its numbers say nothing about real users." if synthetic else ""
    return (
        f"Policy `{report.policy}` tuned `{report.backbone}` (preset `{report.preset}`) on `{data.name}` "
        f"({data.users:,} users, {data.items:,} items, {data.interactions:,} interactions) for {report.metric}: "
        f"{counted(len(configurations(drive.open_study.observations())), 'configuration')} in "
        f"{counted(report.trainings, 'training')} and "
        f"{_duration(report.seconds)}.{made}"
    )


def verdict(drive: Drive, report: Report) -> str:
    """One paragraph: whether the best beats the default on the sealed test by more than seed noise."""
    study_client, metric = drive.open_study, report.metric
    if study_client.finish is None:
        ended = "The study is not finished"
        if drive.interrupted:
            ended = "The drive was interrupted before the end"
        elif drive.failure is not None:
            ended = f"The drive broke off ({drive.failure}) before the end"
        return f"{ended}: the sealed test was not revealed, and nothing is claimed. {_so_far(drive)}"
    words = study_client.finish.words or "The study is finished."
    sentences = [words]
    if report.best is not None and metric in report.best.test:
        sentences.append(
            f"Test {metric}: {report.best.test[metric]:.4f} over {_seeds(report.best.tested or report.best.trial_ids)}"
        )
        if metric in report.default.test and report.best.trial_ids != report.default.trial_ids:
            seeds = _seeds(report.default.tested or report.default.trial_ids)
            sentences[-1] += f", the default {report.default.test[metric]:.4f} over {seeds}"
        sentences[-1] += "."
    if (report.test_reveal or 0) > 1 and "test reused" not in words.lower():
        sentences.append(f"Test reused: this was reveal {report.test_reveal} of this dataset.")
    return " ".join(sentences)


def _so_far(drive: Drive) -> str:
    observations = drive.open_study.observations()
    best = next(iter(ranked(observations)), None)
    if best is None and any(trial.violations for trial in observations):
        return "Every configuration so far violates a guardrail."
    if best is None or best.mean is None:
        return "No training had scored."
    metric = drive.open_study.study.brief.metric
    over = counted(len(best.scores), "seed")
    return f"Best on validation so far: number {best.number}, {metric} {best.mean:.4f} over {over}."


def _seeds(trial_ids: Sequence[str]) -> str:
    return counted(len(trial_ids), "seed")


def _trials(answers: Sequence[TrialAnswer], metric: str) -> str:
    lines = [
        f"| # | trial | on | changes | seed | status | {metric} | vs default | verdict | epochs | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(_cell(value) for value in _row(answer, metric)) + " |" for answer in answers]
    return "\n".join(lines) if answers else "None ended."


def _row(answer: TrialAnswer, metric: str) -> list[Any]:
    delta = answer.delta.get("default")
    return [
        answer.number,
        f"`{answer.trial_id}`",
        f"`{answer.parent}`" if answer.parent else "–",
        changed(answer.changes) if not answer.replicate_of else f"as {answer.number}, new seed",
        answer.seed,
        status_words(answer),
        score_words(answer, metric) or "–",
        "–" if delta is None else f"{delta:+.1%}",
        verdict_word(answer) or "–",
        answer.epochs,
        "–" if answer.seconds is None else f"{answer.seconds:.1f}",
    ]


def _guardrails(report: Report) -> list[str]:
    """What the study's guardrails were, and which configurations violate them; nothing without guardrails."""
    if not report.guardrails:
        return []
    limits = [
        f"{name} {'at least' if bound == 'min' else 'at most'} {value:g}"
        for name, bounds in report.guardrails.items()
        for bound, value in bounds.items()
    ]
    violating = {trial.number: trial.violations for trial in report.trials if trial.violations}
    lines = [f"- number {number}: {'; '.join(violations)}" for number, violations in sorted(violating.items())]
    none = "No configuration violates one."
    head = f"Guardrails: {', '.join(limits)}. {'These violate one and are never chosen:' if lines else none}"
    return ["\n".join([head, *([""] if lines else []), *lines])]


def _again(drive: Drive, report: Report) -> str:
    """The command that tunes the same way in a new study, and what it cannot repeat."""
    plan = drive.plan
    command = f"```sh\n{plan.command()}\n```"
    if plan.playable == report.policy:
        return command
    return (
        f"No command can repeat what `{_cell(report.policy)}` did. This one tunes under the same settings, with the "
        f"policy `{plan.playable}`:\n\n{command}"
    )


def _scale(report: Report) -> str:
    """A table of the baselines, the default and the best configuration, by validation."""
    lines = [
        f"| validation | {report.metric} | coverage@10 | popularity@10 | ms for 1,000 users |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, metrics in report.baselines.items():
        lines.append(f"| {name.replace('_', ' ')} | {metrics.get(report.metric, 0.0):.4f} | – | – | – |")
    shown = [("the default", report.default.trial_ids, report.default.validation)]
    if report.best is not None and report.best.trial_ids != report.default.trial_ids:
        shown.append(("the best configuration", report.best.trial_ids, report.best.validation))
    for name, trial_ids, metrics in shown:
        measures = [trial.measures for trial in report.trials if trial.trial_id in trial_ids and trial.measures]
        cells = [_mean(measures, measure) for measure in ("coverage@10", "popularity@10", "ms_per_1000_users")]
        lines.append(f"| {name} | {_number(metrics.get(report.metric))} | {' | '.join(map(_number, cells))} |")
    return "\n".join(lines)


def _mean(measures: Sequence[dict[str, float]], name: str) -> float | None:
    values = [trial_measures[name] for trial_measures in measures if name in trial_measures]
    return sum(values) / len(values) if values else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _best(drive: Drive, report: Report) -> str:
    if report.best is None and any(trial.violations for trial in report.trials):
        return "None: every configuration violates a guardrail."
    if report.best is None:
        return "No configuration scored."
    default = drive.open_study.space.default()
    changes = {name: value for name, value in report.best.config.items() if value != default.get(name)}
    differs = f"Changed from the default: {changed(changes)}." if changes else "It is the default configuration."
    text = yaml.safe_dump(report.best.config, sort_keys=False)
    kept = f"\n\nWeights: `{report.best.checkpoint}`" if report.best.checkpoint else ""
    return f"{differs}\n\n```yaml\n{text}```{kept}"


def _learned(report: Report) -> str:
    lines = [
        f"- **{note.kind}** `{note.heuristic_id}`{f' ({note.verdict})' if note.verdict else ''}: {_quoted(note.text)}"
        for note in report.heuristics
    ]
    return "\n".join(lines) or "Nothing was written down."


def _quoted(text: str) -> str:
    """Stored text as one line without markup of its own, because it is data."""
    return json.dumps(" ".join(text.split()), ensure_ascii=False)[1:-1].replace('\\"', '"').replace("<", "&lt;")


def _protocol(drive: Drive, report: Report) -> str:
    brief = drive.open_study.study.brief
    versions = report.versions
    reveal = f" This was reveal {report.test_reveal} of this dataset content." if report.test_reveal else ""
    made = report.dataset.recipe
    recipe = f" Data: `virtualmle data add {report.dataset.name} FILE {made}`." if made else ""
    recipe += "".join(f" {_quoted(warning)}" for warning in report.dataset.warnings)
    return (
        f"Study `{report.study_id}`, seed {report.seed}; split `{report.dataset.split}`, content "
        f"`{report.dataset.content_hash}`. Ranking over all items, history filtered: {brief.filter_seen}.{recipe} "
        "Selection on "
        f"validation only, by the best mean over seeds; the test was sealed until the end.{reveal}{_early(report)} "
        f"{_calibration(report)} Relative seed noise "
        f"{report.noise.sigma:.1%} ({report.noise.df:.3g} degrees of freedom). virtualmle {versions.virtualmle}, torch "
        f"{versions.torch or 'not here'}, Python {versions.python}."
    )


def _calibration(report: Report) -> str:
    return f" Of what `{report.policy}` expected of trials so far: {report.calibration}" if report.calibration else ""


def _early(report: Report) -> str:
    stopped = sum(trial.status == "stopped" for trial in report.trials)
    if not stopped:
        return f" Early stopping: {report.early_stop}."
    return f" {counted(stopped, 'training')} stopped early (≥): far below earlier ones at that age, and never chosen."


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
