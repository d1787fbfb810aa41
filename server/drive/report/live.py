"""Shows a running drive on stderr: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.answers import StudyAnswer, TrialAnswer
from server.drive.plan import Plan
from server.policies.base import Proposal
from server.policies.phrases import changed, counted
from server.replay.marker import RECORDED

SYNTHETIC = "The dataset is synthetic (generated): its numbers say nothing about real users."


def headline(study: StudyAnswer, plan: Plan) -> str:
    """What is being tuned, in one line."""
    facts = study.brief.dataset
    size = f"{facts.get('users', 0):,} users, {facts.get('items', 0):,} items, {facts.get('interactions', 0):,} events"
    budget = f", {plan.budget_seconds:g} s" if plan.budget_seconds is not None else ""
    return (
        f"{study.brief.backbone} on {facts.get('name')} ({size}); policy {plan.policy}, "
        f"{counted(plan.max_trials, 'configuration')}{budget}; study {study.study_id}"
    )


def cells(answer: TrialAnswer, metric: str) -> list[str]:
    """A finished training as a row of the table."""
    delta = answer.delta.get("default")
    return [
        str(answer.number),
        changed(answer.changes) if not answer.replicate_of else "another seed",
        str(answer.seed),
        status_words(answer),
        score_words(answer, metric),
        "" if delta is None else f"{delta:+.1%}",
        verdict_word(answer),
        str(answer.epochs),
        "" if answer.seconds is None else f"{answer.seconds:.1f}",
    ]


def status_words(answer: TrialAnswer) -> str:
    """The status, and where the numbers come from if nothing was trained for them."""
    if answer.replayed is None:
        return answer.status
    return f"{answer.status} (replayed{'' if answer.replayed == RECORDED else f', {answer.replayed}'})"


def verdict_word(answer: TrialAnswer) -> str:
    """The verdict, or that a guardrail is violated, which leaves none."""
    return answer.verdict or ("violates" if answer.violations else "")


def score_words(answer: TrialAnswer, metric: str) -> str:
    """A score as it is shown; for a training that was stopped early it is only a lower bound."""
    score = answer.metrics.get(metric)
    return "" if score is None else f"{'≥ ' if answer.status == 'stopped' else ''}{score:.4f}"


def running_words(proposal: Proposal) -> str:
    """What is being trained now."""
    return changed(proposal.changes) if proposal.replicate_of is None else "another seed"


class Lines:
    """One line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def opened(self, study: StudyAnswer, plan: Plan) -> None:
        self._print(headline(study, plan))
        if study.brief.dataset.get("synthetic"):
            self._print(SYNTHETIC)
        if study.brief.replay:
            self._print(study.brief.replay)

    def started(self, proposal: Proposal, number: int) -> None:
        self._print(f"training {running_words(proposal)} …")

    def progress(self, epochs: float, most: float | None) -> None:
        return None

    def finished(self, answer: TrialAnswer, metric: str) -> None:
        number, what, seed, status, score, delta, verdict, epochs, seconds = cells(answer, metric)
        result = f"{metric} {score}" if score else answer.message or ""
        against = f" ({delta} vs default)" if delta else ""
        judged = f", {verdict}" if verdict else ""
        judged = f", violates a guardrail ({'; '.join(answer.violations)})" if answer.violations else judged
        took = f"; {epochs} epochs, {seconds or '?'} s"
        self._print(f"#{number} {what}, seed {seed}: {status} {result}{against}{judged}{took}")

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(" ".join(text.split())), soft_wrap=True)


class LiveTable:
    """The study as one growing table, with the running trainings below it."""

    def __init__(self, console: Console) -> None:
        self._rows: list[list[str]] = []
        self._title = ""
        self._metric = ""
        self._remarks: list[str] = []
        self._running: list[str] = []
        self._epochs: tuple[float, float | None] = (0.0, None)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.clear()
        self._live.refresh()
        self._live.__exit__(kind, error, at)

    def opened(self, study: StudyAnswer, plan: Plan) -> None:
        self._title, self._metric = headline(study, plan), study.brief.metric
        if study.brief.dataset.get("synthetic"):
            self._remarks.append(SYNTHETIC)
        if study.brief.replay:
            self._remarks.append(study.brief.replay)

    def started(self, proposal: Proposal, number: int) -> None:
        self._running.append(running_words(proposal))
        self._epochs = (0.0, None)

    def progress(self, epochs: float, most: float | None) -> None:
        self._epochs = (epochs, most)

    def finished(self, answer: TrialAnswer, metric: str) -> None:
        row = cells(answer, metric)
        self._rows.append(row)
        if self._running:
            self._running.pop(self._running.index(row[1]) if row[1] in self._running else 0)

    def say(self, text: str) -> None:
        self._remarks.append(" ".join(text.split()))

    def _render(self) -> Group:
        table = Table(title=Text(self._title) if self._title else None, title_justify="left", expand=False)
        for name in ("#", "change", "seed", "status", self._metric, "vs default", "verdict", "epochs", "seconds"):
            right = name in ("#", "seed", self._metric, "vs default", "epochs", "seconds")
            table.add_column(name, justify="right" if right else "left")
        for row in self._rows:
            table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
        parts: list[Any] = [table] if self._title else []
        if len(self._running) == 1:
            parts.append(self._bar(self._running[0]))
        else:
            parts += [Text(f"training {what}") for what in self._running]
        parts += [Text(remark, style="dim") for remark in self._remarks]
        return Group(*parts)

    def _bar(self, what: str) -> Table:
        epochs, most = self._epochs
        line = Table.grid(padding=(0, 1))
        of = f"epoch {int(epochs)} of at most {int(most)}" if most else "starting"
        bar = ProgressBar(total=most or 1.0, completed=min(epochs, most or 0.0), width=24, pulse=most is None)
        line.add_row(Text(f"training {what}"), bar, Text(of, style="dim"))
        return line


def _style(cell: str) -> str:
    return {
        "better": "bold green",
        "worse": "red",
        "violates": "red",
        "retest": "yellow",
        "diverged": "red",
        "out_of_memory": "red",
        "stopped": "dim",
    }.get(cell.split(" (")[0], "")


def view_for(console: Console) -> Lines | LiveTable:
    """The live table on a terminal, lines elsewhere."""
    return LiveTable(console) if console.is_terminal else Lines(console)
