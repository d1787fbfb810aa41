"""What the choice among thirty configurations lacks after so many trainings, beside other ways to spend them.

Each arm is told thirty configurations and a default, and names the next to be trained. SMAC's intensifier is that of
Hutter et al. 2011 (section 4.2), OCBA the allocation of Chen et al. 2000 with the noise that the prior states, and
successive halving that of Karnin et al. 2013, over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean

from benchmarks.harness.markdown import table
from benchmarks.verdicts.simulated import DRAWN, drawn
from memory.statistics.decide import Rule, contenders
from memory.statistics.noise import PRIOR_USERS, estimate, prior, spread
from memory.statistics.recorded import Recorded
from server.policies.racing import SEEDS

HEADING = "Choosing among thirty"
BUDGETS = (31, 40, 50, 70, 100)
RIGHT = 0.01
"""A choice is right if it lacks at most this much to the best."""
WORDS = f"""\
Thirty recorded configurations and their default; each way of spending trainings names the next one, and which
configuration it would choose now. *Highest* trains all in turn and takes the highest mean; *SMAC* is the
intensifier of Hutter et al. 2011, *OCBA* the allocation of Chen et al. 2000 with the noise that our prior states,
*halving* successive halving over seeds (Karnin et al. 2013). *The rule* gives a leader a second seed, then trains
what may be better still, and stops where nothing is that matters: after so many trainings (last column), with a
`min_gain` of 2 %, or with that of a study that names none. Cells: what the choice lacks to the best, mean over
studies; in brackets how often it lacks at most {RIGHT:.0%}."""

Scores = list[list[float]]
"""Log scores by configuration; the default is the first."""
Arm = Callable[[Scores, Recorded], Iterator[tuple[int, int]]]
"""Yields (configuration to train, choice so far): the training is done before the next is asked for."""


def best_mean(scores: Scores) -> int:
    return max((number for number, values in enumerate(scores) if values), key=lambda number: fmean(scores[number]))


def highest(scores: Scores, known: Recorded) -> Iterator[tuple[int, int]]:
    """Every configuration in turn."""
    yield 0, 0
    while True:
        for number in range(1 if len(scores[0]) == 1 and not scores[1] else 0, len(scores)):
            yield number, best_mean(scores)


def smac(scores: Scores, known: Recorded) -> Iterator[tuple[int, int]]:
    """A challenger is trained until its mean falls behind the incumbent's, or it has as many seeds and takes over."""
    yield 0, 0
    incumbent = 0
    while True:
        for challenger in range(1, len(scores)):
            if challenger == incumbent:
                continue
            yield incumbent, incumbent
            size = 1
            while True:
                lacking = min(size, len(scores[incumbent])) - len(scores[challenger])
                for _ in range(max(lacking, 0)):
                    yield challenger, incumbent
                if fmean(scores[challenger]) < fmean(scores[incumbent]):
                    break
                if len(scores[challenger]) >= len(scores[incumbent]):
                    incumbent = challenger
                    break
                size *= 2


def ocba(scores: Scores, known: Recorded) -> Iterator[tuple[int, int]]:
    """After one seed each, the configuration that is furthest below its optimal share of the trainings."""
    for number in range(len(scores)):
        yield number, best_mean(scores) if number else 0
    while True:
        best = best_mean(scores)
        top = fmean(scores[best])
        noise = [known.sigma * spread(fmean(values) - top, PRIOR_USERS, known) for values in scores]
        gaps = [max(top - fmean(values), 1e-4) for values in scores]
        shares = [(width / gap) ** 2 for width, gap in zip(noise, gaps, strict=True)]
        others = sum(
            (share / width) ** 2 for n, (share, width) in enumerate(zip(shares, noise, strict=True)) if n != best
        )
        shares[best] = noise[best] * math.sqrt(others)
        total = sum(shares)
        count = sum(map(len, scores)) + 1
        yield max(range(len(scores)), key=lambda n: count * shares[n] / total - len(scores[n])), best


def halving(scores: Scores, known: Recorded) -> Iterator[tuple[int, int]]:
    """Rounds of as many trainings, each for the better half of the configurations of the round before."""
    rest = list(range(len(scores)))
    size = len(scores)
    for number in rest:
        yield number, best_mean(scores) if number else 0
    while True:
        rest = sorted(rest, key=lambda number: -fmean(scores[number]))[: max(2, len(rest) // 2)]
        for place in range(size // 2):
            yield rest[place % len(rest)], max(rest, key=lambda number: fmean(scores[number]))


def by_rule(min_gain: float | None, scores: Scores, known: Recorded) -> Iterator[tuple[int, int]]:
    """As our policies do: a leader gets a second seed; in the end, what may be better still is trained."""
    yield 0, 0
    leader = 0
    for number in range(1, len(scores)):
        yield number, leader
        leader = _rule(scores, known, min_gain)[1]
        if leader and len(scores[leader]) < SEEDS:
            yield leader, leader
            leader = _rule(scores, known, min_gain)[1]
    while True:
        following, leader = _rule(scores, known, min_gain)
        if following is None:
            return
        yield following, leader


def _rule(scores: Scores, known: Recorded, min_gain: float | None = None) -> tuple[int | None, int]:
    """What the rule would train, and what it would choose."""
    trained = {number: values for number, values in enumerate(scores) if values}
    found = list(
        contenders({n: {f"{n}-{s}": v for s, v in enumerate(values)} for n, values in trained.items()}).values()
    )
    groups = [[math.exp(value) for value in values] for values in trained.values() if len(values) > 1]
    best = max(one.mean for one in found)
    rule = Rule(estimate(groups, PRIOR_USERS, best=math.exp(best), known=known), PRIOR_USERS, best, min_gain, known)
    following, leader = rule.next_training(found), rule.leader(found)
    assert leader is not None
    return None if following is None else following.number, leader.number


ARMS: dict[str, Arm] = {
    "highest": highest, "SMAC": smac, "OCBA": ocba, "halving": halving, "the rule, 2 %": partial(by_rule, 0.02),
    "the rule": partial(by_rule, None),
}  # fmt: skip


def play(arm: Arm, folder: Path, seed: int) -> tuple[list[float], int]:
    """What the choice lacks at each of BUDGETS, and how many trainings were spent."""
    effects, known, rng = drawn(folder, seed)
    means = [0.0, *effects]
    noise = prior(PRIOR_USERS, known).sigma * math.exp(rng.gauss(0, DRAWN))
    draws = [Random(f"{seed}:{number}") for number in range(len(means))]  # the same trainings for every arm
    scores: Scores = [[] for _ in means]
    regrets: list[float] = []
    choice, trained = 0, 0
    best = max(means)
    for number, choice in arm(scores, known):
        while len(regrets) < len(BUDGETS) and trained == BUDGETS[len(regrets)]:
            regrets.append(best - means[choice])
        if len(regrets) == len(BUDGETS):
            break
        width = noise * spread(means[number] - best, PRIOR_USERS, known)
        scores[number].append(math.log(0.05) + means[number] + width * draws[number].gauss(0, 1))
        trained += 1
    else:
        choice = _rule(scores, known)[1]
    regrets += [best - means[choice]] * (len(BUDGETS) - len(regrets))
    return regrets, trained


def section(pool: Executor, folder: Path, studies: int) -> str:
    """Regret and share of right choices by arm and number of trainings."""
    lines: list[Sequence[str]] = []
    for name, arm in ARMS.items():
        runs = list(pool.map(partial(play, arm, folder), range(studies), chunksize=5))
        cells = [
            f"{1 - math.exp(-fmean(regrets[place] for regrets, _ in runs)):.1%} "
            f"({fmean(regrets[place] <= RIGHT for regrets, _ in runs):.0%})"
            for place in range(len(BUDGETS))
        ]
        lines.append([name, *cells, f"{fmean(trained for _, trained in runs):.0f}"])
    return table(["trainings", *map(str, BUDGETS), "spent"], lines)
