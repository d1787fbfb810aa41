"""Whether verdicts of claims are true: studies on landscapes whose effects are known, and claims over every field.

python -m benchmarks.claims_truth [--repeats 40] [--datasets 6] [--trainings 30] [--jobs 2] [--json] [--write]

Nothing is trained: a score is a function of the configuration and noise of 3 %. On the null landscape nothing has an
effect. On the known one learning rate 0.003 is better by 10 %, dropout 0.2 worse by 8 %, and the rest does nothing.
Each repeat runs one study a dataset with one policy: `greedy` changes one field of the best single training so far,
the others are the server's. Claims: of every value of every field, that it helps and that it hurts; and of a field that
no study may change. They are judged in their order, at the level that the store gives the n-th claim (`spent`), and
at 5 % each (`plain`).
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

from benchmarks.invented import METRIC, facts
from benchmarks.replay_arms import policy
from benchmarks.replay_loop import play
from benchmarks.replay_memory import landscape_of
from benchmarks.tables import table
from memory.claims import Claim, read_claim
from memory.effects import ALPHA, Evidence, evidence_of, judge, share_of_alpha
from server.executors.recorded import Table, Training
from server.policies.base import Brief, Observation, Policy, Proposal, ranked, tried
from server.policies.sampling import every, untried
from trainers.fields import space_of
from trainers.space import Config, Space
from trainers.spec import SPECS

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
SIGMA = 0.03
EFFECTS: dict[str, dict[Any, float]] = {"learning_rate": {0.003: 0.10}, "dropout": {0.2: -0.08}}
GRID: dict[str, list[Any]] = {
    "learning_rate": [0.0003, 0.001, 0.003], "dropout": [0.2, 0.5], "num_blocks": [1, 2], "hidden_dim": [32, 64, 128],
    "batch_size": [128, 256],
}  # fmt: skip
UNTESTED = "beta2"
POLICIES = ("greedy", "tpe+racing", "playbook", "hybrid")


class Greedy:
    """Keep if higher: one field of the best single training changed at random, no seed trained twice."""

    reflects = False

    def propose(self, space: Space, history: Sequence[Observation], brief: Brief, rng: Random) -> Proposal | None:
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
    """A table of which every training is drawn around a known mean."""

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
class Said:
    """One claim at the end: what is true of it, and its verdict at both levels."""

    truth: str
    spent: str
    plain: str


def grid() -> Space:
    """The space of every study here."""
    whole = space_of(SPECS["sasrec"])
    fixed = {field.name: field.default for field in whole.fields if field.name not in GRID}
    return whole.restrict({**fixed, **GRID})


def claims() -> list[tuple[Claim, str]]:
    """Every claim with what is true of it on the known landscape."""
    found: list[tuple[Claim, str]] = []
    for name, values in {**GRID, UNTESTED: [0.98, 0.999]}.items():
        for value in values:
            effect = EFFECTS.get(name, {}).get(value, 0.0)
            for sign in ("+", "-"):
                claim = read_claim({"change": {"field": name, "to": value}, "sign": sign})
                others = [EFFECTS.get(name, {}).get(other, 0.0) for other in values if other != value]
                turned = {effect - other for other in others}
                truth = "untested" if name == UNTESTED else _truth(turned, sign)
                found.append((claim, truth))
    return found


def _truth(effects: Iterable[float], sign: str) -> str:
    ways = {(effect > 0) - (effect < 0) for effect in effects}
    if ways == {0}:
        return "nothing there"
    if 1 in ways and -1 in ways:
        return "either"
    return "true" if (1 in ways) == (sign == "+") else "false"


def repeat(known: bool, name: str, datasets: int, trainings: int, seed: int) -> list[Said]:
    """One memory: a study on each dataset, claims judged by all of them."""
    space, evidence = grid(), dict[int, list[Evidence]]()
    configs = {space.hash(config): config for config in every(space)}
    all_claims = claims()
    for dataset in range(datasets):
        known_facts = facts(mean_length=8.0 + dataset)
        drawn = Drawn(f"d{dataset}", space, configs, {}, known, f"{seed}:{dataset}")
        make = partial(_made, name)
        book = play(drawn, space, known_facts, make, seed * 1000 + dataset, trainings)
        land = landscape_of(book, f"d{dataset}", known_facts, space)
        for place, (claim, _) in enumerate(all_claims):
            if (one := evidence_of(claim, land)) is not None:
                evidence.setdefault(place, []).append(one)
    said: list[Said] = []
    settled: list[int] = []
    for place, (claim, truth) in enumerate(all_claims):
        own = evidence.get(place, [])
        spent = judge(claim, own, share_of_alpha(place, settled)).verdict
        settled += [place + 1] if spent != "insufficient" else []
        there = truth if known or truth == "untested" else "nothing there"
        said.append(Said(there, spent, judge(claim, own, ALPHA).verdict))
    return said


def _made(name: str) -> Policy:
    return Greedy() if name == "greedy" else policy(name)


def summary(found: Sequence[Said]) -> dict[str, dict[str, float]]:
    """By what is true: how many claims, and the shares of their verdicts."""
    shares: dict[str, dict[str, float]] = {}
    for truth in ("nothing there", "true", "false", "untested"):
        own = [one for one in found if one.truth == truth]
        if own:
            shares[truth] = {"claims": len(own)} | {
                f"{level} {verdict}": fmean(getattr(one, level) == verdict for one in own)
                for level in ("spent", "plain")
                for verdict in ("supported", "refuted", "mixed")
            }
    return shares


def page(found: dict[str, dict[str, dict[str, dict[str, float]]]], command: str) -> str:
    """docs/claims.md."""
    heads = ["landscape", "policy", "what is true", "claims", "supported", "refuted", "mixed",
             "at 5 % each: supported", "refuted", "mixed"]  # fmt: skip
    lines = [
        [landscape, name, truth, f"{one.pop('claims'):.0f}", *(f"{share:.1%}" for share in one.values())]
        for landscape, policies in found.items()
        for name, truths in policies.items()
        for truth, one in ((truth, dict(one)) for truth, one in truths.items())
    ]
    return f"{HEAD}{table(heads, lines, 3)}\n\nAgain: `{command}`\n"


HEAD = """# Whether verdicts of claims are true

A claim says that a change of one field moves the metric. Matched pairs decide it: trials of one dataset that differ in
that field only (`memory/effects.py`). A pair never uses the runs that made its parent the incumbent, pairs that share a
configuration share its noise, datasets are combined by random effects, and the interval may be looked at after every
trial. Below, landscapes whose effects are known; the rest to 100 % is `insufficient`.

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
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    with ProcessPoolExecutor(given.jobs) as pool:
        for landscape, known in (("null", False), ("known", True)):
            for name in POLICIES:
                work = partial(repeat, known, name, given.datasets, given.trainings)
                said = [one for part in pool.map(work, range(given.repeats)) for one in part]
                found.setdefault(landscape, {})[name] = summary(said)
                print(f"{landscape}: {name}", file=sys.stderr)
    command = f"python -m benchmarks.claims_truth --repeats {given.repeats} --datasets {given.datasets}"
    text = page(found, f"{command} --trainings {given.trainings}")
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    print(json.dumps(found, indent=1) if given.as_json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
