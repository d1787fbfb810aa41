"""A study replayed on a table of finished trainings: a policy proposes, the table answers, the server's rules judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.invented import BEGAN, METRIC, study
from memory.records import Study, Trial
from server import admission, studies
from server.diagnosis import diagnose
from server.executors.recorded import Table
from server.policies.base import Brief, Observation, Policy, Proposal
from trainers.space import Space
from trainers.spec import DatasetFacts

PATIENCE = 20
"""Proposals in a row that train nothing new, after which a policy is taken to have nothing left."""

MakePolicy = Callable[[], Policy]


@dataclass(frozen=True)
class Step:
    """After one training: the configuration that was trained, and the one that leads."""

    trained: str
    leading: str


@dataclass
class Replayed:
    """The books of one replayed study."""

    study: Study
    table: Table
    trials: list[Trial]
    history: list[Observation]
    steps: list[Step]


def play(
    table: Table, space: Space, facts: DatasetFacts, make: MakePolicy, seed: int, trainings: int,
    advise: Callable[[Brief], Brief] = lambda brief: brief,
) -> Replayed:  # fmt: skip
    """The trainings of one study with `seed`, whose trial 0 is the default of `space`; fewer where nothing is left.

    `advise` adds what memory knows to the policy's brief.
    """
    book = Replayed(study(space, table.dataset, facts, filter_seen="reference", seed=seed), table, [], [], [])
    policy, idle = make(), 0
    known = {"users": float(facts.users), "mean_length": facts.mean_length}
    brief = advise(Brief(METRIC, space.backbone, known))
    while len(book.steps) < trainings and idle < PATIENCE:
        proposal = policy.propose(space, book.history, brief, Random(f"{seed}:{len(book.history)}:{idle}"))
        if proposal is None:
            break
        idle = 0 if _train(book, proposal) else idle + 1
    return book


def _train(book: Replayed, proposal: Proposal) -> bool:
    """Answers one proposal from the table; whether it was new."""
    new = admission.plan_trial(
        book.study, book.trials, proposal.changes, proposal.parent, proposal.replicate_of, None
    )  # fmt: skip
    if any(one.config_hash == new.config_hash and one.seed == new.seed for one in book.trials):
        return False
    found = book.table.training(new.config_hash, new.seed)
    known = {trial.config_hash: trial.number for trial in book.trials}
    number = known.get(new.config_hash, len(set(known.values())))
    trial = Trial(
        **new.model_dump(), trial_id=f"t-{len(book.trials)}", number=number, created_at=BEGAN, status=found.status,
        validation=found.validation, best_epoch=found.best_epoch, epochs=len(found.epochs), seconds=found.seconds,
    )  # fmt: skip
    judged = studies.verdict(book.study, trial, [*book.trials, trial])
    told = judged.comparison.verdict if judged.comparison else None
    book.trials.append(trial.model_copy(update={"verdict": told}))
    score = studies.score_of(book.study, trial)
    book.history.append(
        Observation(
            trial_id=trial.trial_id, number=number, config=trial.config, seed=trial.seed, status=trial.status,
            score=score, changes=trial.changes, parent=trial.parent, replicate_of=trial.replicate_of,
            verdict=told,
            diagnosis=tuple(diagnose(trial, found.epochs, METRIC, judged.noise.sigma, {})), seconds=found.seconds,
            epochs=trial.epochs, best_epoch=trial.best_epoch,
        )
    )  # fmt: skip
    best = studies.chosen(book.study, book.trials)
    leading = best.config_hash if best else trial.config_hash
    book.steps.append(Step(trial.config_hash, leading))
    return True
