"""Checks whether verdicts on claims are true: studies on landscapes with known effects, and claims on every field.

python -m benchmarks.claims_truth [--repeats 40] [--datasets 6] [--trainings 30] [--jobs 2] [--json] [--write]

Nothing is trained: a score is a function of the configuration and noise of 3 %. On the null landscape nothing has an
effect. On the known one learning rate 0.003 is better by 10 %, dropout 0.2 worse by 8 %, and the rest does nothing.
Each repeat runs one study a dataset with one policy: `greedy` changes one field of the best single training so far,
the others are the server's. For every value of every field, one claim says that it helps and one that it hurts. Two
more pairs are about a field that no study may change. Claims are judged in order, at the level that the store gives the
n-th claim (`spent`), and at 5 % each (`plain`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.harness.invented import METRIC, facts
from benchmarks.harness.markdown import table
from benchmarks.replay.arms import policy
from benchmarks.replay.loop import play
from benchmarks.replay.memory import landscape_of
from memory.claim import Claim, read_claim
from memory.statistics.effects import ALPHA, Evidence, evidence_of, judge, share_of_alpha
from server.policies.base import Observation, Policy, PolicyContext, Proposal, ranked, tried
from server.policies.sampling import every, untried
from server.replay.recorded import Table, Training
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space
from trainers.contract.specs import SPECS

PAGE = Path(__file__).parents[1] / "docs" / "results" / "claims.md"
SIGMA = 0.03
EFFECTS: dict[str, dict[Any, float]] = {"learning_rate": {0.003: 0.10}, "dropout": {0.2: -0.08}}
GRID: dict[str, list[Any]] = {
    "learning_rate": [0.0003, 0.001, 0.003], "dropout": [0.2, 0.5], "num_blocks": [1, 2], "hidden_dim": [32, 64, 128],
    "batch_size": [128, 256],
}  # fmt: skip
UNTESTED = "beta2"
POLICIES = ("greedy", "tpe+racing", "playbook", "hybrid")


class Greedy:
    """Keep-if-higher: changes one random field of the best single training, and never trains a configuration twice."""

    reflects = False

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: Random
    ) -> Proposal | None:
        if not history:
            return Proposal({})
        best = ranked(history)[0]

        def step() -> Config:
            field = rng.choice(space.free())
            return {**best.config, field.name: rng.choice(field.choices)}

        config = untried(space, tried(space, history), rng, step)
        if config is None:
            return None
        changes = {name: value for name, value in config.items() if value != best.config[name]}
        return Proposal(changes, parent=best.trials[0].trial_id)


@dataclass(frozen=True)
class Drawn(Table):
    """A table whose trainings are drawn around a known mean."""

    known: bool = False
    seed: str = ""

    def training(self, config_hash: str, seed: int) -> Training:
        config = self.configs[config_hash]
        gains = (EFFECTS.get(name, {}).get(value, 0.0) for name, value in config.items()) if self.known else ()
        mean = 0.05
        for gain in gains:
            mean *= 1 + gain
        z = Random(sha256(f"{self.seed}:{config_hash}:{seed}".encode()).digest()).gauss()
        return Training(seed, "ok", {METRIC: mean * (1 + SIGMA * z)}, simulated=True)


@dataclass(frozen=True)
class JudgedClaim:
    """One claim after the studies: the truth, and its verdict at both levels."""

    truth: str
    spent: str
    plain: str


def grid() -> Space:
    """The space of all studies in this benchmark."""
    whole = space_of(SPECS["sasrec"])
    fixed = {field.name: field.default for field in whole.fields if field.name not in GRID}
    return whole.restrict({**fixed, **GRID})


def claims() -> list[tuple[Claim, str]]:
    """Every claim, with its truth on the known landscape."""
    all_claims: list[tuple[Claim, str]] = []
    for name, values in {**GRID, UNTESTED: [0.98, 0.999]}.items():
        for value in values:
            effect = EFFECTS.get(name, {}).get(value, 0.0)
            for sign in ("+", "-"):
                claim = read_claim({"change": {"field": name, "to": value}, "sign": sign})
                others = [EFFECTS.get(name, {}).get(other, 0.0) for other in values if other != value]
                differences = {effect - other for other in others}
                truth = "untested" if name == UNTESTED else _truth(differences, sign)
                all_claims.append((claim, truth))
    return all_claims


def _truth(effects: Iterable[float], sign: str) -> str:
    signs = {(effect > 0) - (effect < 0) for effect in effects}
    if signs == {0}:
        return "nothing there"
    if 1 in signs and -1 in signs:
        return "either"
    return "true" if (1 in signs) == (sign == "+") else "false"


def repeat(known: bool, name: str, datasets: int, trainings: int, seed: int) -> list[JudgedClaim]:
    """Fills one memory with a study on each dataset, then judges every claim over all of them."""
    space, evidence = grid(), dict[int, list[Evidence]]()
    configs = {space.hash(config): config for config in every(space)}
    all_claims = claims()
    for dataset in range(datasets):
        dataset_facts = facts(mean_length=8.0 + dataset)
        drawn = Drawn(f"d{dataset}", space, configs, {}, known, f"{seed}:{dataset}")
        make = partial(_make_policy, name)
        replay = play(drawn, space, dataset_facts, make, seed * 1000 + dataset, trainings)
        land = landscape_of(replay, f"d{dataset}", dataset_facts, space)
        for place, (claim, _) in enumerate(all_claims):
            if (item := evidence_of(claim, land)) is not None:
                evidence.setdefault(place, []).append(item)
    judged: list[JudgedClaim] = []
    settled: list[int] = []
    for place, (claim, truth) in enumerate(all_claims):
        claim_evidence = evidence.get(place, [])
        spent = judge(claim, claim_evidence, share_of_alpha(place, settled)).verdict
        settled += [place + 1] if spent != "insufficient" else []
        actual = truth if known or truth == "untested" else "nothing there"
        judged.append(JudgedClaim(actual, spent, judge(claim, claim_evidence, ALPHA).verdict))
    return judged


def _make_policy(name: str) -> Policy:
    return Greedy() if name == "greedy" else policy(name)


def summary(judged: Sequence[JudgedClaim]) -> dict[str, dict[str, float]]:
    """By truth: the number of claims, and the share of each verdict."""
    shares: dict[str, dict[str, float]] = {}
    for truth in ("nothing there", "true", "false", "untested"):
        group = [claim for claim in judged if claim.truth == truth]
        if group:
            shares[truth] = {"claims": len(group)} | {
                f"{level} {verdict}": fmean(getattr(claim, level) == verdict for claim in group)
                for level in ("spent", "plain")
                for verdict in ("supported", "refuted", "mixed")
            }
    return shares


def page(summaries: dict[str, dict[str, dict[str, dict[str, float]]]], command: str) -> str:
    """The text of docs/results/claims.md."""
    heads = ["landscape", "policy", "what is true", "claims", "supported", "refuted", "mixed",
             "at 5 % each: supported", "refuted", "mixed"]  # fmt: skip
    lines = [
        [landscape, name, truth, f"{shares.pop('claims'):.0f}", *(f"{share:.1%}" for share in shares.values())]
        for landscape, policies in summaries.items()
        for name, truths in policies.items()
        for truth, shares in ((truth, dict(shares)) for truth, shares in truths.items())
    ]
    return f"{HEAD}{table(heads, lines, 3)}\n\nAgain: `{command}`\n"


HEAD = """# Whether verdicts of claims are true

A claim says that a change of one field moves the metric. Matched pairs decide it: trials of one dataset that differ in
that field only (`memory/statistics/effects.py`). A pair never uses the runs that made its parent the incumbent, pairs
that share a configuration share its noise, datasets are combined by random effects, and the interval may be looked at
after every trial. Below, landscapes whose effects are known; the rest to 100 % is `insufficient`.

"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.claims_truth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40, metavar="N")
    parser.add_argument("--datasets", type=int, default=6, metavar="N")
    parser.add_argument("--trainings", type=int, default=30, metavar="N", help="a study")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--write", action="store_true", help=f"write docs/results/{PAGE.name}")
    options = parser.parse_args(arguments)
    summaries: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for landscape, known in (("null", False), ("known", True)):
            for name in POLICIES:
                run_repeat = partial(repeat, known, name, options.datasets, options.trainings)
                judged = [claim for part in pool.map(run_repeat, range(options.repeats)) for claim in part]
                summaries.setdefault(landscape, {})[name] = summary(judged)
                print(f"{landscape}: {name}", file=sys.stderr)
    command = f"python -m benchmarks.claims_truth --repeats {options.repeats} --datasets {options.datasets}"
    text = page(summaries, f"{command} --trainings {options.trainings}")
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    print(json.dumps(summaries, indent=1) if options.as_json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
