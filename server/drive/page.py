"""report.md: the report as a person reads it, and the files of a report on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from server.answers import TrialAnswer
from server.drive.live import score_words
from server.drive.loop import sigma_of
from server.drive.picture import draw, series
from server.drive.report import Report, build
from server.drive.state import Drive
from server.policies.base import ranked, standings
from server.words import changed, counted

PICTURE = "best-so-far.svg"


def write_report(drive: Drive, folder: Path) -> Report:
    """Write report.json, report.md and the picture into `folder`; each appears whole or not at all."""
    report = build(drive)
    history = drive.desk_open.observations()
    title = f"{report.backbone} on {report.dataset.name}, policy {report.policy}"
    picture = draw(series(history, sigma_of(drive.desk_open), report.metric, title))
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
    answers = list(drive.desk_open.trials.values())
    parts = [
        f"# {report.backbone} on {report.dataset.name}",
        _tuned(drive, report),
        "## Verdict",
        verdict(drive, report),
        *(f"> {remark}" for remark in drive.remarks),
        f"![Best validation {report.metric} so far over trainings]({PICTURE})",
        "## Trials",
        _trials(answers, report.metric),
        "## For scale",
        _scale(report),
        "## Best configuration",
        _best(drive, report),
        "## What was learned",
        _learned(report),
        "## How to get it again",
        f"```sh\n{drive.plan.command()}\n```",
        _protocol(drive, report),
    ]
    return "\n\n".join(parts) + "\n"


def _tuned(drive: Drive, report: Report) -> str:
    data = report.dataset
    synthetic = drive.desk_open.study.brief.dataset.get("synthetic")
    made = " The dataset is **synthetic**: generated, so its numbers say nothing about real users." if synthetic else ""
    return (
        f"Policy `{report.policy}` tuned `{report.backbone}` (preset `{report.preset}`) on `{data.name}` "
        f"({data.users:,} users, {data.items:,} items, {data.interactions:,} interactions) for {report.metric}: "
        f"{counted(len(standings(drive.desk_open.observations())), 'configuration')} in "
        f"{counted(report.trainings, 'training')} and "
        f"{_duration(report.seconds)}.{made}"
    )


def verdict(drive: Drive, report: Report) -> str:
    """One paragraph: whether the best beats the default on the sealed test by more than seed noise."""
    desk, metric = drive.desk_open, report.metric
    if desk.finish is None:
        ended = "The study is not finished"
        if drive.interrupted:
            ended = "The drive was interrupted before the end"
        elif drive.failure is not None:
            ended = f"The drive broke off ({drive.failure}) before the end"
        return f"{ended}: the sealed test was not revealed, and nothing is claimed. {_so_far(drive)}"
    words = desk.finish.words or "The study is finished."
    found = [words]
    if report.best is not None and metric in report.best.test:
        found.append(f"Test {metric}: {report.best.test[metric]:.4f} over {_seeds(report.best.trial_ids)}")
        if metric in report.default.test and report.best.trial_ids != report.default.trial_ids:
            found[-1] += f", the default {report.default.test[metric]:.4f} over {_seeds(report.default.trial_ids)}"
        found[-1] += "."
    if (report.test_reveal or 0) > 1 and "test reused" not in words.lower():
        found.append(f"Test reused: this was reveal {report.test_reveal} of this dataset.")
    return " ".join(found)


def _so_far(drive: Drive) -> str:
    best = next(iter(ranked(drive.desk_open.observations())), None)
    if best is None or best.mean is None:
        return "No training had scored."
    metric = drive.desk_open.study.brief.metric
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
        answer.status,
        score_words(answer, metric) or "–",
        "–" if delta is None else f"{delta:+.1%}",
        answer.verdict or "–",
        answer.epochs,
        "–" if answer.seconds is None else f"{answer.seconds:.1f}",
    ]


def _scale(report: Report) -> str:
    """What needs no training, the default and the best, side by side on validation."""
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
    values = [one[name] for one in measures if name in one]
    return sum(values) / len(values) if values else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _best(drive: Drive, report: Report) -> str:
    if report.best is None:
        return "No configuration scored."
    default = drive.desk_open.space.default()
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
    """Stored text is data: one line, and no markup of its own."""
    return json.dumps(" ".join(text.split()), ensure_ascii=False)[1:-1].replace('\\"', '"').replace("<", "&lt;")


def _protocol(drive: Drive, report: Report) -> str:
    brief = drive.desk_open.study.brief
    versions = report.versions
    reveal = f" This was reveal {report.test_reveal} of this dataset content." if report.test_reveal else ""
    return (
        f"Study `{report.study_id}`, seed {report.seed}; split `{report.dataset.split}`, content "
        f"`{report.dataset.content_hash}`. Ranking over all items, history filtered: {brief.filter_seen}. Selection on "
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
