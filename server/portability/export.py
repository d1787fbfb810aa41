"""Exports a study's tuned model to a folder of the user's, and recommends items with it."""

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

from memory.off_loop import off_loop
from memory.records import Study, Trial
from server.executors.base import ExecutorError, write_whole
from server.portability import model_card
from server.runtime import Runtime
from server.study import standings, verdicts
from server.study.history import read_history
from server.study.standings import Standing
from server.version import installed_version
from server.views.finish import finish_answer
from trainers.contract.regular_files import read_regular
from trainers.contract.specs import SPECS
from trainers.contract.wire import RESULT_FILES, ChildTask, Exported, ExportSpec, Recommendations, RecommendSpec

CARD, CONFIG = "README.md", "config.json"
Result = TypeVar("Result", Exported, Recommendations)


class ModelUnavailable(RuntimeError):
    """The study's model cannot be exported or used; the message says why and what to do."""


class ExportRequest(BaseModel):
    """What `virtualmle export` asks of the owner; `folder` is absolute."""

    model_config = ConfigDict(frozen=True)

    study_id: str
    folder: Path
    refit: bool = False


class ExportAnswer(BaseModel):
    """What was written and where. `missing` says what could not be included, and why."""

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


async def export(runtime: Runtime, request: ExportRequest) -> ExportAnswer:
    """Writes the chosen model of a study to the folder. Raises ModelUnavailable, ExecutorError, MemoryFault."""
    study, standing = await off_loop(_check_request, runtime, request)
    trial, settings = standing.best_trial, runtime.settings
    spec = ExportSpec(
        trial_id=trial.trial_id, threads=settings.threads, memory_mb=settings.trial_memory_mb,
        refit_epochs=trial.best_epoch if request.refit else None,
    )  # fmt: skip
    with _writable(request.folder):
        async with _run_child(runtime, "export", spec, Exported, trial if request.refit else None) as (
            staging,
            exported,
        ):
            subject = await off_loop(_subject, runtime, study, standing, exported, request.refit)
            files = [*exported.files, CONFIG, CARD]
            write_whole(staging / CONFIG, json.dumps(model_card.config(subject), indent=1) + "\n")
            write_whole(staging / CARD, model_card.card(subject))
            await asyncio.to_thread(_move, staging, request.folder, files)
    return ExportAnswer(
        study_id=study.study_id, trial_id=trial.trial_id, refit=request.refit, folder=str(request.folder), files=files,
        missing=f"No ONNX encoder: {exported.no_onnx}." if exported.no_onnx else "",
    )  # fmt: skip


def _check_request(runtime: Runtime, request: ExportRequest) -> tuple[Study, Standing]:
    """The study and its chosen configuration. Raises ModelUnavailable if they cannot be exported in this way."""
    study = runtime.memory.study(request.study_id)
    standing = chosen(runtime, study)
    _refuse_refit(runtime, study, request)
    return study, standing


def _subject(runtime: Runtime, study: Study, standing: Standing, exported: Exported, refit: bool) -> model_card.Subject:
    """Everything that the model card holds."""
    memory = runtime.memory
    words = finish_answer(memory, runtime.settings, study).words or ""
    noise = verdicts.noise_of(study, memory.trials(study.study_id))
    reveal = memory.reveals.of_study(study.study_id)
    return model_card.Subject(
        study, standing, standing.best_trial, exported, noise, reveal, words, installed_version(), refit
    )


async def recommend(runtime: Runtime, request: RecommendRequest) -> Recommendations:
    """The best items after a history, by the chosen model of a study. Raises the same errors as `export`."""
    trial = (await off_loop(lambda: chosen(runtime, runtime.memory.study(request.study_id)))).best_trial
    spec = RecommendSpec(
        trial_id=trial.trial_id, history=request.history, k=request.k, exclude_seen=request.exclude_seen
    )  # fmt: skip
    async with _run_child(runtime, "recommend", spec, Recommendations) as (_, answer):
        return answer


def chosen(runtime: Runtime, study: Study) -> Standing:
    """The configuration whose test was revealed, or the best so far in an unfinished study. Raises ModelUnavailable."""
    trials = runtime.memory.trials(study.study_id)
    reveal = runtime.memory.reveals.of_study(study.study_id)
    if reveal is not None:
        return next(ranked for ranked in standings.ranked(study, trials) if reveal.chosen[0] in ranked.trial_ids)
    best = read_history(runtime.memory, study.study_id).incumbent
    if best is None:
        raise ModelUnavailable(
            f"Study {study.study_id!r} has no configuration that could be chosen: no training scored, or each violates "
            "a guardrail."
        )
    return best


def _refuse_refit(runtime: Runtime, study: Study, request: ExportRequest) -> None:
    if request.refit and study.backbone not in SPECS:
        raise ModelUnavailable(f"--refit knows the built-in backbones; train {study.backbone} on all data by itself.")
    if request.refit and runtime.memory.reveals.of_study(study.study_id) is None:
        raise ModelUnavailable(
            f"Study {study.study_id!r} is not finished: --refit trains on the test events, too, so the test must be "
            f"revealed first. finish_study(study_id={study.study_id!r}) does that."
        )


@contextmanager
def _writable(folder: Path) -> Generator[None]:
    """Raises ModelUnavailable if the folder cannot be written, before the work where possible, otherwise after it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ModelUnavailable(f"{str(folder)!r} is there already and not empty; name a new folder.")
        if not os.access(folder.parent, os.W_OK | os.X_OK):
            raise ModelUnavailable(f"{str(folder)!r} cannot be made: {str(folder.parent)!r} is not writable.")
        yield
    except OSError as error:
        raise ModelUnavailable(f"{str(folder)!r} cannot be written: {error.strerror or error}.") from None


@asynccontextmanager
async def _run_child(
    runtime: Runtime, task: ChildTask, spec: BaseModel, kind: type[Result], trains: Trial | None = None
) -> AsyncGenerator[tuple[Path, Result]]:
    """Runs `task` in a temporary run directory; yields the directory and the child's answer, then removes it."""
    directory = runtime.settings.trials_dir / f"{task}-{secrets.token_hex(4)}"
    try:
        try:
            directory.mkdir(parents=True)
            write_whole(directory / f"{task}.json", spec.model_dump_json(indent=1))
        except OSError as error:
            raise ExecutorError(f"{directory.name} cannot be written: {error.strerror or error}.") from None
        await runtime.supervisor.run_task(directory, task, trains)
        try:
            answer = kind.model_validate_json(read_regular(directory / RESULT_FILES[task]))
        except (OSError, ValidationError) as error:
            raise ExecutorError(f"{RESULT_FILES[task]} cannot be read: {' '.join(str(error).split())[:200]}") from None
        if answer.status != "ok":
            raise ModelUnavailable(answer.message)
        yield directory, answer
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _move(staging: Path, folder: Path, names: list[str]) -> None:
    """Copies the files, perhaps to another file system, then renames: the folder is either complete or absent."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        part.mkdir()
        for name in names:
            shutil.copyfile(staging / name, part / name)
        part.replace(folder)  # replaces an empty folder, and fails on any other
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
