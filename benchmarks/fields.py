"""What each structural and scoring field does, one at a time, to the preset `strong`: validation, with intervals.

python -m benchmarks.fields [--data DIR] [--datasets Office_Products] [--backbones sasrec,hstu] [--seeds 0,1,2]
                            [--changes NAME,NAME] [--write]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks import files, machine
from benchmarks.measure_ours import Ours, spec_hash, train_ours
from benchmarks.measuring import Wanted, complete, exit_code
from benchmarks.rows import RESULTS, Row, Store, Value
from benchmarks.tables import between, grouped, newest, short, table
from memory.noise import FALSE_STUDIES, TRIALS, Comparison, Sigma, compare, estimate, t_quantile
from trainers.data import Dataset
from trainers.fields import space_of
from trainers.space import Config, Space, SpaceError
from trainers.spec import SPECS, preset

DOCUMENT = machine.ROOT / "docs" / "fields.md"
METRIC = "ndcg@10"
DEFAULT = "the preset itself"
HEAD = """# What each field does

Validation ndcg@10 of the preset `strong` with one change, against the preset, over the same seeds. A change of
structure or training is trained anew: its interval comes from seed noise (`memory/noise.py`), pooled over all changes
of the table that keep half of the preset's score. A change of scoring takes the weights of the preset's trainings: it
is compared seed by seed, and its interval comes from how those differences vary, pooled likewise; it says nothing of
other users. "helps" and "hurts" are beyond what thirty changes without any effect would reach in one table of ten; "may
help" is a gain that one in ten such changes would show. Binary losses start from a plateau that a patience of 8 epochs
does not always outlast.

"""
CHANGES: tuple[Config, ...] = (
    {"position": "relative"}, {"position": "rotary"}, {"feed_forward": "gelu"}, {"feed_forward": "swiglu"},
    {"block_norm": "post"}, {"share_blocks": True}, {"pooling": "mean"}, {"tie_embeddings": False},
    {"scale_embeddings": True}, {"normalize_embeddings": True}, {"normalize_embeddings": True, "temperature": 0.1},
    {"num_blocks": 1}, {"attention_dropout": 0.1},
    {"loss": "sampled_softmax"}, {"loss": "sampled_softmax", "logq_correction": True},
    {"loss": "sampled_softmax", "negative_distribution": "popularity"},
    {"loss": "sampled_softmax", "negative_distribution": "popularity", "logq_correction": True},
    {"loss": "bce"}, {"loss": "gbce"}, {"loss": "bce", "num_negatives": 1, "negative_sharing": "position"},
    {"learning_rate_schedule": "linear"}, {"learning_rate_schedule": "cosine"}, {"warmup_epochs": 3},
    {"popularity_alpha": 0.1}, {"popularity_alpha": 0.3},
    {"transition_alpha": 0.5}, {"transition_alpha": 1.0}, {"transition_alpha": 2.0},
    {"item_cf_alpha": 0.5}, {"item_cf_alpha": 1.0}, {"item_cf_alpha": 2.0},
    {"transition_alpha": 1.0, "prior_norm": "count"}, {"item_cf_alpha": 1.0, "prior_norm": "count"},
    {"item_cf_alpha": 1.0, "prior_recent_k": 1}, {"item_cf_alpha": 1.0, "prior_recent_k": 10},
    {"item_cf_alpha": 1.0, "item_cf_window": 3}, {"item_cf_alpha": 1.0, "item_cf_window": 50},
    {"item_cf_alpha": 1.0, "prior_top_k": 20}, {"item_cf_alpha": 1.0, "prior_top_k": 200},
    {"item_cf_alpha": 1.0, "score_normalization": "none"}, {"item_cf_alpha": 1.0, "rerank_top_k": 100},
    {"transition_alpha": 1.0, "item_cf_alpha": 1.0},
)  # fmt: skip
"""Each a change of the preset; those that a backbone does not know, or that change nothing of it, are left out."""


Judge = Callable[[Sequence[Row], Sequence[Sequence[Row]]], list[Comparison]]


@dataclass(frozen=True)
class Question:
    """The preset with one change, on a dataset with a seed."""

    dataset: Dataset
    backbone: str
    changes: Config
    seed: int

    @property
    def space(self) -> Space:
        spec = preset("strong", self.backbone, self.dataset.facts)
        return space_of(SPECS[self.backbone], spec.model_dump())

    @property
    def config(self) -> Config:
        return self.space.apply(self.space.default(), self.changes)

    @property
    def scores_only(self) -> bool:
        """Whether it takes the weights of the preset's training."""
        return bool(self.changes) and all(self.space.field(name).group == "scoring" for name in self.changes)


def words(changes: Config) -> str:
    """Such as `loss=bce, num_negatives=8`."""
    return ", ".join(f"{name}={str(value).lower()}" for name, value in changes.items()) or DEFAULT


def questions(
    datasets: Sequence[Dataset], backbones: Sequence[str], names: set[str], seeds: Sequence[int]
) -> Iterator[Question]:
    """The preset first, with every seed; then change by change."""
    for dataset in datasets:
        for backbone in backbones:
            for changes in ({}, *CHANGES):
                first = Question(dataset, backbone, changes, seeds[0])
                if (names and changes and not names & {*changes, words(changes)}) or not _admitted(first):
                    continue
                for seed in seeds:
                    yield Question(dataset, backbone, changes, seed)


def _admitted(question: Question) -> bool:
    try:
        return not question.changes or question.config != question.space.default()
    except SpaceError:
        return False


def wanted(asked: Sequence[Question], device: str, threads: int, scratch: Path) -> Iterator[Wanted]:
    """Each question, to be answered in a run directory of its own."""
    for number, question in enumerate(asked):
        dataset = question.dataset
        row = Row(
            name=f"{question.backbone} {words(question.changes)}", dataset=dataset.name,
            dataset_hash=dataset.content_hash, spec_hash=spec_hash(question.backbone, question.config),
            commit=machine.commit("trainers"), hardware=machine.hardware(device, threads),
            versions=machine.versions("torch"), seed=question.seed, values={},
        )  # fmt: skip
        measure = partial(answer, question, device, threads, scratch / f"t-{number}")
        yield Wanted(f"{dataset.name}: {row.name}, seed {question.seed}", row, measure)


def answer(question: Question, device: str, threads: int, folder: Path) -> dict[str, Value]:
    """Trains, or takes the weights of the preset, which is trained where that has not been done. Raises ChildFailed."""
    ours = Ours(question.dataset, question.backbone, question.config, threads, question.seed, device)
    kept = folder.parent / f"t-{question.dataset.name}-{question.backbone}-{question.seed}"
    if question.changes and question.scores_only:
        if not (kept / "result.json").exists():
            answer(Question(question.dataset, question.backbone, {}, question.seed), device, threads, folder)
        measured = train_ours(ours, folder, weights_of=kept.name)
    else:
        measured = train_ours(ours, folder if question.changes else kept)
    result = measured.result
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "users": question.dataset.facts.measured_users,
        "group": "scoring" if question.scores_only else "training",
        "status": result.status,
        METRIC: result.validation[METRIC],
        "recall@10": result.validation["recall@10"],
        **result.measures,
        "epochs": result.epochs,
        "seconds": result.seconds + result.eval_seconds,
    }


def tables(rows: Sequence[Row]) -> str:
    """A table for each dataset, backbone and processor, the largest gain first."""
    parts: list[str] = []
    for (dataset, backbone, hardware), found in grouped(
        rows, lambda row: (row.dataset, row.name.split()[0], row.hardware)
    ).items():
        same = [newest(one) for one in grouped(found, lambda row: row.name).values()]
        default = next((one for one in same if one[0].name.endswith(DEFAULT)), None)
        if default is None:
            continue
        others = [one for one in same if one is not default]
        lines = lines_of(default, [one for one in others if one[0].values["group"] == "training"], compared)
        lines += lines_of(default, [one for one in others if one[0].values["group"] == "scoring"], paired)
        headings = (
            "change", "what changes", "ndcg@10", "against the preset", "interval", "", "coverage@10", "popularity@10",
            "epochs", "seeds",
        )  # fmt: skip
        own = [DEFAULT, "", f"{mean(default, METRIC):.4f}", "", "", "", *shown(default)]
        about = f"{hardware}, {between(found)}"
        parts.append(f"## {dataset}, {backbone}\n\n{about}\n\n{table(headings, [own, *lines], left=2)}\n")
    return "\n".join(parts)


def lines_of(default: Sequence[Row], others: Sequence[Sequence[Row]], judge: Judge) -> list[list[str]]:
    """The lines of changes, best first."""
    judged = sorted(zip(judge(default, others), others, strict=True), key=lambda pair: -pair[0].delta)
    said = {"better": "helps", "worse": "hurts", "retest": "may help"}
    lines: list[list[str]] = []
    for found, rows in judged:
        change, group = rows[0].name.split(" ", 1)[1], str(rows[0].values["group"])
        gain, interval = f"{found.delta:+.1%}", f"{found.low:+.1%} to {found.high:+.1%}"
        word = said.get(found.verdict, "noise")
        lines.append([change, group, f"{mean(rows, METRIC):.4f}", gain, interval, word, *shown(rows)])
    return lines


def compared(default: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[Comparison]:
    """Changes that were trained anew, by seed noise."""
    groups = [[row.number(METRIC) for row in rows] for rows in (default, *others)]
    # where a change ruins the model, its seeds differ by more than those of any sound one
    sound = [scores for scores in groups if fmean(scores) > 0.5 * fmean(groups[0])]
    sigma = estimate(sound, int(default[0].number("users")))
    return [compare(scores, groups[0], sigma) for scores in groups[1:]]


def paired(default: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[Comparison]:
    """Changes of scoring, seed by seed."""
    base = {row.seed: row.number(METRIC) for row in default}
    deltas = [[row.number(METRIC) / base[row.seed] - 1 for row in rows if row.seed in base] for rows in others]
    squares = sum((delta - fmean(group)) ** 2 for group in deltas for delta in group)
    df = sum(len(group) - 1 for group in deltas)
    sigma = Sigma((squares / df) ** 0.5 if df else 0.0, max(df, 1))
    found: list[Comparison] = []
    for group in deltas:
        width = t_quantile((1 - FALSE_STUDIES) ** (1 / TRIALS), sigma.df) * sigma.sigma / len(group) ** 0.5
        delta = fmean(group)
        verdict = "better" if delta > width else "worse" if delta < -width else "tied"
        found.append(Comparison(delta, delta - width, delta + width, verdict, ""))
    return found


def shown(rows: Sequence[Row]) -> list[str]:
    """The last columns of a line."""
    numbers = [f"{mean(rows, 'coverage@10'):.2f}", short(mean(rows, "popularity@10")), short(mean(rows, "epochs"))]
    failed = sum(row.values["status"] != "ok" for row in rows)
    return [*numbers, str(len(rows)) + (f" ({failed} not ok)" if failed else "")]


def mean(rows: Sequence[Row], name: str) -> float:
    return fmean(row.number(name) for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--datasets", default="Office_Products", metavar="A,B")
    parser.add_argument("--backbones", default="sasrec,hstu", metavar="A,B")
    parser.add_argument("--seeds", default="0,1,2", metavar="A,B")
    parser.add_argument("--changes", default=[], metavar="NAME", action="append", help="a field, or FIELD=VALUE, …")
    parser.add_argument("--write", action="store_true", help="write docs/fields.md")
    given = parser.parse_args(arguments)
    store = Store(given.results or RESULTS / "fields.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        names = given.datasets.split(",")
        datasets = [files.stored(Path(scratch) / "datasets", given.data, name) for name in names]
        seeds = [int(seed) for seed in given.seeds.split(",")]
        asked = list(questions(datasets, given.backbones.split(","), {*given.changes}, seeds))
        left = complete(store, wanted(asked, given.device, given.threads, Path(scratch)), given.minutes)
    print(tables(store.rows))
    if given.write:
        command = "Again: `python -m benchmarks.fields --write`\n\n"
        DOCUMENT.write_text(HEAD + command + tables(store.rows), encoding="utf-8")
    return exit_code(left)


if __name__ == "__main__":
    sys.exit(main())
