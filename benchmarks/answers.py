"""Shows a finished study answer by answer, as Markdown: what the server says of each training, and of the end.

python -m benchmarks.answers --home DIR --study ID [--write]

No server may have the home open. Left out are other metrics, curves, ids, and verdicts on the default.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness.machine import ROOT
from memory.records import Study, Trial
from memory.store import Memory
from server.answers import TrialAnswer
from server.settings import Settings
from server.study.history import read_history
from server.views.finish import finish_answer
from server.views.trial import trial_answer

PAGE = ROOT / "docs" / "results" / "office-study.md"
CONFIRMING = "a fresh seed for the end"
HEAD = """# A study, answer by answer

What the server says of each training of
`virtualmle drive --dataset {dataset} --preset {preset} --policy {policy} --trials {trials}`
({users:,} users, {items:,} items, {split}): {tried} configurations, {trainings} trainings{reused}. Left out are other
metrics, curves, ids, and verdicts on the default. Scores before the end are those of the validation. Again:
`python -m benchmarks.answers --home DIR --study ID --write`.
"""
END = "\n## The end\n\nThe choice was made: number {number}. Its fresh seeds and those of the default:\n"


def item(study: Study, trial: Trial, answer: TrialAnswer) -> str:
    """One training as a list item."""
    changed = ", ".join(f"{name} {value}" for name, value in answer.changes.items())
    what = "another seed" if trial.replicate_of else changed or "the default"
    score = answer.metrics.get(study.metric)
    lines = [
        f"- **Number {answer.number}, seed {answer.seed}: {what}**. {study.metric} {_score(score)}{_cost(answer)}."
    ]
    lines += [f"  Why: {answer.hypothesis}."] if answer.hypothesis else []
    if answer.verdict and answer.number:
        lines.append(f"  Verdict: **{answer.verdict}**. {answer.verdict_words}")
    lines += [f"  Diagnosis: {found}." for found in answer.diagnosis]
    return "\n".join(lines)


def _score(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"


def _cost(answer: TrialAnswer) -> str:
    if answer.weights_of is not None:
        return " on weights that were there"
    return f" after {answer.epochs} epochs and {answer.seconds or 0:.0f} s"


def page(memory: Memory, settings: Settings, study: Study) -> Iterator[str]:
    """The paragraphs of the page."""
    history, ended = read_history(memory, study.study_id), False
    facts, reused = study.facts, sum(trial.weights_of is not None for trial in history.trials)
    yield HEAD.format(
        dataset=study.dataset, preset=study.preset, policy=study.policy, trials=study.max_trials, users=facts.users,
        items=facts.items, split=study.split, tried=len({trial.number for trial in history.trials}),
        trainings=len(history.trials) - reused,
        reused=f", and {reused} evaluations of weights that were there" if reused else "",
    )  # fmt: skip
    for trial in history.trials:
        if not ended and (trial.hypothesis or "").startswith(CONFIRMING):
            ended = True
            yield END.format(number=trial.number)
        yield item(study, trial, trial_answer(history, trial, memory.epochs(trial.trial_id)))
    yield f"\n> {finish_answer(memory, settings, study).words}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, metavar="DIR")
    parser.add_argument("--study", required=True, metavar="ID")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    settings = Settings(home=options.home)
    memory = Memory.open(settings.database)
    try:
        text = "\n".join(page(memory, settings, memory.study(options.study))) + "\n"
    finally:
        memory.close()
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
