"""Measures the effect of each structural and scoring field on the preset `strong`: validation, with intervals.

python -m benchmarks.fields [--data DIR] [--datasets Office_Products] [--backbones sasrec,hstu] [--seeds 0,1,2]
                            [--changes NAME,NAME] [--write]
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.harness import files, machine
from benchmarks.harness.markdown import between, grouped, newest, short, table
from benchmarks.harness.measure_ours import Ours, spec_hash, train_ours
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from memory.statistics.noise import Sigma, estimate, relative, standard_error
from memory.statistics.t_distribution import t_quantile
from trainers.contract.fields import space_of
from trainers.contract.presets import preset
from trainers.contract.space import Config, Space, SpaceError
from trainers.contract.specs import SPECS
from trainers.contract.wire import RESULT_FILE
from trainers.data import Dataset

DOCUMENT = machine.ROOT / "docs" / "results" / "fields.md"
METRIC = "ndcg@10"
FALSE_TABLES, CHANCES = 0.1, 30
DEFAULT = "the preset itself"
HEAD = """# What each field does

Validation ndcg@10 of the preset `strong` with one change, against the preset, over the same seeds. A change of
structure or training is trained anew: its interval comes from seed noise (`memory/statistics/noise.py`), pooled over
all changes of the table that keep half of the preset's score. A change of scoring takes the weights of the preset's
trainings: it is compared seed by seed, and its interval comes from how those differences vary, pooled likewise; it
says nothing of other users. "helps" and "hurts" are beyond what thirty changes without any effect would reach in one
table of ten; "may
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
"""Changes of the preset, measured one at a time. One that a backbone lacks, or that changes nothing, is skipped."""


Judge = Callable[[Sequence[Row], Sequence[Sequence[Row]]], "list[Measured]"]
"""Compares the rows of each change with the rows of the preset."""


@dataclass(frozen=True)
class Question:
    """The preset with one change, on one dataset and with one seed."""

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
        """Whether only scoring changes, so that the weights of the preset's training can be used."""
        return bool(self.changes) and all(self.space.field(name).group == "scoring" for name in self.changes)


def words(changes: Config) -> str:
    """The changes as text, such as `loss=bce, num_negatives=8`."""
    return ", ".join(f"{name}={str(value).lower()}" for name, value in changes.items()) or DEFAULT


def questions(
    datasets: Sequence[Dataset], backbones: Sequence[str], names: set[str], seeds: Sequence[int]
) -> Iterator[Question]:
    """The questions for the preset with every seed, then those for one change after another."""
    for dataset in datasets:
        for backbone in backbones:
            for changes in ({}, *CHANGES):
                first = Question(dataset, backbone, changes, seeds[0])
                if (names and changes and not names & {*changes, words(changes)}) or not _changes_the_preset(first):
                    continue
                for seed in seeds:
                    yield Question(dataset, backbone, changes, seed)


def _changes_the_preset(question: Question) -> bool:
    try:
        return not question.changes or question.config != question.space.default()
    except SpaceError:
        return False


def wanted(pending: Sequence[Question], device: str, threads: int, scratch: Path) -> Iterator[Wanted]:
    """The row that each question asks for. Each is measured in its own run directory."""
    for number, question in enumerate(pending):
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
    """Trains, or scores the preset's weights again. Trains the preset first where needed. Raises ChildFailed."""
    ours = Ours(question.dataset, question.backbone, question.config, threads, question.seed, device)
    preset_folder = folder.parent / f"t-{question.dataset.name}-{question.backbone}-{question.seed}"
    if question.changes and question.scores_only:
        if not (preset_folder / RESULT_FILE).exists():
            answer(Question(question.dataset, question.backbone, {}, question.seed), device, threads, folder)
        measured = train_ours(ours, folder, weights_of=preset_folder.name)
    else:
        measured = train_ours(ours, folder if question.changes else preset_folder)
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
    for (dataset, backbone, hardware), cell_rows in grouped(
        rows, lambda row: (row.dataset, row.name.split()[0], row.hardware)
    ).items():
        by_change = [newest(group) for group in grouped(cell_rows, lambda row: row.name).values()]
        default = next((group for group in by_change if group[0].name.endswith(DEFAULT)), None)
        if default is None:
            continue
        others = [group for group in by_change if group is not default]
        trained = [group for group in others if group[0].values["group"] == "training"]
        rescored = [group for group in others if group[0].values["group"] == "scoring"]
        lines = lines_of(default, trained, compare_trained) + lines_of(default, rescored, compare_by_seed)
        headings = (
            "change", "what changes", "ndcg@10", "against the preset", "interval", "", "coverage@10", "popularity@10",
            "epochs", "seeds",
        )  # fmt: skip
        preset_line = [DEFAULT, "", f"{mean(default, METRIC):.4f}", "", "", "", *last_columns(default)]
        about = f"{hardware}, {between(cell_rows)}"
        parts.append(f"## {dataset}, {backbone}\n\n{about}\n\n{table(headings, [preset_line, *lines], left=2)}\n")
    return "\n".join(parts)


def lines_of(default: Sequence[Row], others: Sequence[Sequence[Row]], judge: Judge) -> list[list[str]]:
    """The lines of the changes, the largest gain first."""
    judged = sorted(zip(judge(default, others), others, strict=True), key=lambda pair: -pair[0].gain)
    lines: list[list[str]] = []
    for comparison, rows in judged:
        change, group = rows[0].name.split(" ", 1)[1], str(rows[0].values["group"])
        gain, interval = f"{relative(comparison.gain):+.1%}", comparison.interval
        word = comparison.word
        lines.append([change, group, f"{mean(rows, METRIC):.4f}", gain, interval, word, *last_columns(rows)])
    return lines


@dataclass(frozen=True)
class Measured:
    """The mean log gain of a change over several seeds, with its standard error and degrees of freedom."""

    gain: float
    error: float
    df: float

    @property
    def _width(self) -> float:
        """How far a gain must lie from 0 so that one table in ten of CHANCES changes without effect has one there."""
        return t_quantile((1 - FALSE_TABLES) ** (1 / CHANCES), self.df) * self.error

    @property
    def interval(self) -> str:
        return f"{relative(self.gain - self._width):+.1%} to {relative(self.gain + self._width):+.1%}"

    @property
    def word(self) -> str:
        if abs(self.gain) > self._width:
            return "helps" if self.gain > 0 else "hurts"
        return "may help" if self.gain > t_quantile(0.9, self.df) * self.error else "noise"


def compare_trained(default: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[Measured]:
    """Compares changes that were trained with the preset, by pooled seed noise."""
    groups = [[row.number(METRIC) for row in rows] for rows in (default, *others)]
    # the scores of a ruined model vary more between seeds than those of any sound model
    sound = [scores for scores in groups if fmean(scores) > 0.5 * fmean(groups[0])]
    sigma = estimate(sound, int(default[0].number("users")))
    base = fmean(map(math.log, groups[0]))
    return [
        Measured(
            fmean(math.log(max(score, 1e-6)) for score in scores) - base,
            standard_error(sigma, len(scores), len(groups[0])),
            sigma.df,
        )
        for scores in groups[1:]
    ]


def compare_by_seed(default: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[Measured]:
    """Compares changes of scoring with the preset, seed by seed."""
    base = {row.seed: row.number(METRIC) for row in default}
    deltas = [[math.log(row.number(METRIC) / base[row.seed]) for row in rows if row.seed in base] for rows in others]
    squares = sum((delta - fmean(group)) ** 2 for group in deltas for delta in group)
    df = sum(len(group) - 1 for group in deltas)
    sigma = Sigma((squares / df) ** 0.5 if df else 0.0, max(df, 1))
    return [Measured(fmean(group), sigma.sigma / len(group) ** 0.5, sigma.df) for group in deltas]


def last_columns(rows: Sequence[Row]) -> list[str]:
    """The last four columns of a line: coverage, popularity, epochs and seeds."""
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
    parser.add_argument("--write", action="store_true", help="write docs/results/fields.md")
    options = parser.parse_args(arguments)
    store = Store(options.results or RESULTS / "fields.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        names = options.datasets.split(",")
        datasets = [files.stored(Path(scratch) / "datasets", options.data, name) for name in names]
        seeds = [int(seed) for seed in options.seeds.split(",")]
        pending = list(questions(datasets, options.backbones.split(","), {*options.changes}, seeds))
        missing = complete(store, wanted(pending, options.device, options.threads, Path(scratch)), options.minutes)
    print(tables(store.rows))
    if options.write:
        command = "Again: `python -m benchmarks.fields --write`\n\n"
        DOCUMENT.write_text(HEAD + command + tables(store.rows), encoding="utf-8")
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
