"""One page of what was learned before: the answer of read_memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.claims.credit import is_withheld
from memory.records import Level, Note, Study, Trial
from memory.statistics.retrieval import Ranked, rank_notes
from memory.store import Memory
from server import answers
from server.settings import Settings
from server.study.opening import study_space
from server.views.digest import digest, within_budget
from server.views.items import dataset_line, note_item, study_line, trial_item
from trainers.data import find, list_datasets


@dataclass(frozen=True)
class MemoryQuestion:
    """What a client asks memory: about a study, about a dataset, or about everything. `offset` counts items."""

    study_id: str | None
    dataset: str | None
    level: Level | None
    query: str | None
    limit: int
    offset: int
    full: bool


def memory_page(memory: Memory, settings: Settings, question: MemoryQuestion) -> answers.MemoryAnswer:
    """The items of one page, with the snapshot of what was shown. Raises UnknownStudy, DataError."""
    study = memory.study(question.study_id) if question.study_id else None
    offset, limit, about_something = question.offset, question.limit, bool(study or question.dataset)
    studies, notes = memory.studies(), memory.notes()
    matching = _entries(memory, settings, studies, notes, study, question.dataset, question.level, question.query)
    if study is not None and question.level is None:
        page_notes = [entry.note for entry in matching[offset : offset + limit] if isinstance(entry, Ranked)]
        memory.exposures.expose(study, page_notes)
    entries = [entry for entry in matching if not _is_hidden(study, entry)]
    page = [_item(entry, question.full) for entry in entries[offset : offset + limit]]
    about = None
    if question.level is None and offset == 0:
        about = _digest(memory, settings, studies, notes, study, question.dataset)
    if question.level is None and not question.full and about_something:
        page = page[: within_budget(page, len(about.model_dump_json()) if about else 0)]
    more = offset + len(page) < len(entries)
    listed = [] if about_something else studies[:limit]
    trials = memory.trials_of([other.study_id for other in listed])
    return answers.MemoryAnswer(
        snapshot_id=memory.snapshots.take(question.study_id, [item.id for item in page]),
        studies=[study_line(other, trials[other.study_id]) for other in listed],
        datasets=[] if about_something else [dataset_line(dataset) for dataset in list_datasets(settings.datasets_dir)],
        digest=about,
        items=page,
        truncated=more,
        cursor=str(offset + len(page)) if more else None,
        next="start_study or run_trial; pass snapshot_id to say what the trial was planned from.",
    )


def _digest(
    memory: Memory,
    settings: Settings,
    studies: Sequence[Study],
    notes: Sequence[Note],
    study: Study | None,
    dataset: str | None,
) -> answers.Digest | None:  # fmt: skip
    """The digest for a study, or for one of the strong preset on a dataset; None if neither is named."""
    if study is not None:
        answer = digest(memory, study.space, study.facts, study.metric, studies, notes, study)
        skill = memory.advice.calibration(study.policy)
        return answer.model_copy(update={"calibration": skill.words if skill else None})
    if dataset is None:
        return None
    stored = find(settings.datasets_dir, dataset)
    newest = next((other for other in studies if other.dataset == dataset), None)
    backbone, metric = (newest.backbone, newest.metric) if newest else ("sasrec", "ndcg@10")
    space = study_space(backbone, "strong", stored, {}, settings.trainers_dir)
    return digest(memory, space, stored.facts, metric, studies, notes)


Entry = Ranked | tuple[Study, Trial]


def _entries(
    memory: Memory, settings: Settings, studies: Sequence[Study], notes: Sequence[Note], study: Study | None,
    dataset: str | None, level: Level | None, query: str | None,
) -> list[Entry]:  # fmt: skip
    """Everything that matches, in order; only one page of it becomes items."""
    entries: list[Entry] = []
    if level in (None, "reflection", "heuristic", "summary"):
        about = study or next((other for other in studies if other.dataset == dataset), None)
        facts = about.facts if about else (find(settings.datasets_dir, dataset).facts if dataset else None)
        fitting = [note for note in notes if level in (None, note.kind)]
        if facts is None:
            entries += [Ranked(note, 0.0, "") for note in fitting]
        else:
            entries += rank_notes(
                fitting, facts=facts, backbone=about.backbone if about else "", query=query, limit=len(fitting),
                study_facts={other.study_id: other.facts for other in studies},
            )  # fmt: skip
    if level == "trial" or (level is None and study is not None):
        wanted = [study] if study else [other for other in studies if dataset is None or other.dataset == dataset]
        trials = memory.trials_of([source.study_id for source in wanted])
        entries += [(source, trial) for source in wanted for trial in trials[source.study_id]]
    return entries


def _is_hidden(study: Study | None, entry: Entry) -> bool:
    """Whether the entry is withheld from the study by chance."""
    return study is not None and isinstance(entry, Ranked) and is_withheld(study, entry.note)


def _item(entry: Entry, full: bool) -> answers.MemoryItem:
    return note_item(entry.note, entry.why or None) if isinstance(entry, Ranked) else trial_item(*entry, full)
