"""The tuned model leaves the home: its files in a folder of the user's, and recommendations by it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from memory.records import Study, Trial
from server import card, studies
from server.executors.base import ExecutorError, write_whole
from server.reveal import finish_answer
from server.runtime import Runtime
from server.studies import Standing
from server.version import installed_version
from trainers.spec import RESULT_FILES, SPECS, Exported, ExportSpec, Recommendations, RecommendSpec, Task

CARD, CONFIG = "README.md", "config.json"
Result = TypeVar("Result", Exported, Recommendations)


class TakeHomeRefused(RuntimeError):
    """The study has nothing of the kind to give; the message says why and what to do."""


class ExportRequest(BaseModel):
    """What `virtualmle export` asks of the owner; `folder` is absolute."""

    model_config = ConfigDict(frozen=True)

    study_id: str
    folder: Path
    refit: bool = False


class ExportAnswer(BaseModel):
    """What was written where. `missing`: what is not among it, and why."""

    study_id: str
    trial_id: str
    refit: bool
    folder: str
    files: list[str]
    missing: str = ""


class RecommendRequest(BaseModel):
    """What `virtualmle recommend` asks of the owner."""

    model_config = ConfigDict(frozen=True)

    study_id: str
    history: tuple[str, ...]
    k: int = 10
    exclude_seen: bool | None = None


async def export(runtime: Runtime, asked: ExportRequest) -> ExportAnswer:
    """Writes the chosen model of a study to the folder. Raises TakeHomeRefused, ExecutorError, MemoryFault."""
    study = runtime.memory.study(asked.study_id)
    standing = chosen(runtime, study)
    trial = standing.best_trial
    _refuse_refit(runtime, study, asked)
    settings = runtime.settings
    spec = ExportSpec(
        trial_id=trial.trial_id, threads=settings.threads, memory_mb=settings.trial_memory_mb,
        refit_epochs=trial.best_epoch if asked.refit else None,
    )  # fmt: skip
    with _writable(asked.folder):
        async with _worked(runtime, "export", spec, Exported, trial if asked.refit else None) as (staging, exported):
            finished = finish_answer(runtime.memory, settings, study)
            subject = card.Subject(
                study, standing, trial, exported, studies.noise_of(study, runtime.memory.trials(study.study_id)),
                runtime.memory.reveal(study.study_id), finished.words or "", installed_version(), asked.refit,
            )  # fmt: skip
            files = [*exported.files, CONFIG, CARD]
            write_whole(staging / CONFIG, json.dumps(card.config(subject), indent=1) + "\n")
            write_whole(staging / CARD, card.card(subject))
            await asyncio.to_thread(_move, staging, asked.folder, files)
    return ExportAnswer(
        study_id=study.study_id, trial_id=trial.trial_id, refit=asked.refit, folder=str(asked.folder), files=files,
        missing=f"No ONNX encoder: {exported.no_onnx}." if exported.no_onnx else "",
    )  # fmt: skip


async def recommend(runtime: Runtime, asked: RecommendRequest) -> Recommendations:
    """The best items after a history, by the chosen model of a study. Raises like `export`."""
    trial = chosen(runtime, runtime.memory.study(asked.study_id)).best_trial
    spec = RecommendSpec(
        trial_id=trial.trial_id, history=asked.history, k=asked.k, exclude_seen=asked.exclude_seen
    )  # fmt: skip
    async with _worked(runtime, "recommend", spec, Recommendations) as (_, found):
        return found


def chosen(runtime: Runtime, study: Study) -> Standing:
    """The configuration that the study's test was revealed for; while it is not finished, the best so far."""
    trials = runtime.memory.trials(study.study_id)
    reveal = runtime.memory.reveal(study.study_id)
    if reveal is not None:
        return next(one for one in studies.standings(study, trials) if reveal.chosen[0] in one.trial_ids)
    best = studies.chosen(study, trials)
    if best is None:
        raise TakeHomeRefused(
            f"Study {study.study_id!r} has no configuration that could be chosen: no training scored, or each violates "
            "a guardrail."
        )
    return best


def _refuse_refit(runtime: Runtime, study: Study, asked: ExportRequest) -> None:
    if asked.refit and study.backbone not in SPECS:
        raise TakeHomeRefused(f"--refit knows the built-in backbones; train {study.backbone} on all data by itself.")
    if asked.refit and runtime.memory.reveal(study.study_id) is None:
        raise TakeHomeRefused(
            f"Study {study.study_id!r} is not finished: --refit trains on the test events, too, so the test must be "
            f"revealed first. finish_study(study_id={study.study_id!r}) does that."
        )


@contextmanager
def _writable(folder: Path) -> Generator[None]:
    """Says before the work, rather than after it, that the folder cannot be written; and after it, if so then."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TakeHomeRefused(f"{str(folder)!r} is there already and not empty; name a new folder.")
        if not os.access(folder.parent, os.W_OK | os.X_OK):
            raise TakeHomeRefused(f"{str(folder)!r} cannot be made: {str(folder.parent)!r} is not writable.")
        yield
    except OSError as error:
        raise TakeHomeRefused(f"{str(folder)!r} cannot be written: {error.strerror or error}.") from None


@asynccontextmanager
async def _worked(
    runtime: Runtime, task: Task, spec: BaseModel, kind: type[Result], trains: Trial | None = None
) -> AsyncGenerator[tuple[Path, Result]]:
    """A directory of its own in which a child did `task`, and what it answered; gone afterwards."""
    directory = runtime.settings.trials / f"{task}-{secrets.token_hex(4)}"
    try:
        try:
            directory.mkdir(parents=True)
            write_whole(directory / f"{task}.json", spec.model_dump_json(indent=1))
        except OSError as error:
            raise ExecutorError(f"{directory.name} cannot be written: {error.strerror or error}.") from None
        await runtime.supervisor.produce(directory, task, trains)
        try:
            found = kind.model_validate_json((directory / RESULT_FILES[task]).read_bytes())
        except (OSError, ValidationError) as error:
            raise ExecutorError(f"{RESULT_FILES[task]} cannot be read: {' '.join(str(error).split())[:200]}") from None
        if found.status != "ok":
            raise TakeHomeRefused(found.message)
        yield directory, found
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _move(staging: Path, folder: Path, names: list[str]) -> None:
    """Copies the files, to another file system perhaps, and renames: there is a whole folder, or none."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        part.mkdir()
        for name in names:
            shutil.copyfile(staging / name, part / name)
        part.replace(folder)  # an empty folder gives way, one that is not refuses
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
