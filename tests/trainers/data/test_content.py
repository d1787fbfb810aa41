"""A dataset whose files were changed after it was added trains nothing, in the owner and in the child."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.handmade import trial
from tests.support.interactions import sequences, write
from tests.support.tool_client import tool_client
from trainers.child import tasks
from trainers.contract.wire import TrialResult
from trainers.data import (
    DataError,
    Dataset,
    TimeSplit,
    add,
    check_content,
    content,
    list_datasets,
    load_test,
    load_training,
    load_whole,
)


def test_the_times_of_training_events_are_stored_and_covered_by_a_checksum(tmp_path: Path) -> None:
    rows = "".join(f"{user},{(user + day) % 5},{86400 * day + user}\n" for user in range(9) for day in range(9))
    path = write(tmp_path / "timed.csv", "user,item,timestamp\n" + rows)
    dataset = add(tmp_path / "datasets", "timed", path)
    data = load_training(dataset.path, check_content(dataset))
    assert data.times is not None
    assert data.times[:7].tolist() == [86400 * day for day in range(7)]
    split = TimeSplit(valid_days=2, test_days=2)
    later = load_training(add(tmp_path / "datasets", "later", path, split=split).path)
    assert later.times is not None
    assert (len(later.times), later.times.max()) == (len(later.items), 86400 * 4 + 8)
    arrays = load_file(dataset.path / "train.safetensors")
    arrays["times"][0] += 1
    save_file(arrays, dataset.path / "train.safetensors")
    with pytest.raises(DataError, match=r"train\.safetensors is not the file that was stored"):
        check_content(dataset)
    with pytest.raises(DataError, match=r"train\.safetensors is not the file that was stored"):
        load_training(dataset.path)


def as_stored_before(dataset: Dataset) -> None:
    """Gives a dataset the form of version 1: sealed arrays beside the others, no times, no checksums."""
    sealed, description = dataset.path / "sealed", dataset.path / "dataset.json"
    for path in sealed.iterdir():
        path.rename(dataset.path / path.name)
    sealed.rmdir()
    arrays = load_file(dataset.path / "train.safetensors")
    arrays.pop("times", None)
    save_file(arrays, dataset.path / "train.safetensors")
    values = json.loads(description.read_text())
    for name in ("checksums", "recipe", "tested_users"):
        del values[name]
    del values["facts"]["repeating_users"]
    description.write_text(json.dumps({**values, "version": 1}))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_dataset_of_before_is_moved_to_the_present_form_with_its_hash(tmp_path: Path, interrupted: bool) -> None:
    rows = "".join(f"{user},{(user + day) % 5},{86400 * day + user}\n" for user in range(9) for day in range(9))
    path = write(tmp_path / "timed.csv", "user,item,timestamp\n" + rows)
    split = TimeSplit(valid_days=2, test_days=2)
    dataset = add(tmp_path / "datasets", "timed", path, split=split)
    whole, test = load_whole(dataset.path), load_test(dataset.path)
    as_stored_before(dataset)
    if interrupted:
        (dataset.path / "sealed").mkdir()
        (dataset.path / "test.safetensors").rename(dataset.path / "sealed" / "test.safetensors")
    (found,) = list_datasets(tmp_path / "datasets")
    assert (found.content_hash, found.facts) == (dataset.content_hash, dataset.facts)
    assert found.checksums.keys() == dataset.checksums.keys()
    assert load_training(found.path, check_content(found)).times is None
    assert np.array_equal(load_test(found.path).targets, test.targets)
    assert np.array_equal(load_whole(found.path)[0], whole[0])
    assert sorted(path.name for path in found.path.iterdir()) == [
        "dataset.json", "items.parquet", "sealed", "train.safetensors", "users.parquet",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o077 for path in found.path.rglob("*")} == {0}
    assert list_datasets(tmp_path / "datasets") == [found]


def a_dataset(folder: Path) -> Dataset:
    return add(folder / "datasets", "log", write(folder / "log.txt", sequences()))


def change_array(path: Path, name: str) -> None:
    """Changes an item of an array to another one that there is, and keeps the times of the file."""
    before, arrays = path.stat(), load_file(path)
    arrays[name][0] ^= 1
    save_file(arrays, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_files_of_every_split_have_the_hash_that_they_were_stored_under(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path)
    assert load_training(dataset.path, check_content(dataset)).facts == dataset.facts
    rows = "".join(f"{user},{(user + day) % 5},{86400 * day + user}\n" for user in range(9) for day in range(9))
    timed = write(tmp_path / "timed.csv", "user,item,timestamp\n" + rows)
    split = TimeSplit(valid_days=2, test_days=2)
    dataset = add(tmp_path / "datasets", "timed", timed, split=split)
    assert load_training(dataset.path, check_content(dataset)).facts == dataset.facts


@pytest.mark.parametrize(("file", "array"), [("train", "items"), ("train", "validation"), ("sealed/test", "test")])
def test_a_changed_array_is_refused_with_the_name_of_the_dataset_and_what_to_do(
    tmp_path: Path, file: str, array: str
) -> None:
    dataset = a_dataset(tmp_path)
    check_content(dataset)
    change_array(dataset.path / f"{file}.safetensors", array)
    with pytest.raises(DataError) as caught:
        check_content(dataset)
    said = str(caught.value)
    assert said.startswith("Dataset 'log' was changed after it was added (its files have the content hash '")
    assert said.endswith("or remove it with `virtualmle data remove log` and add its file again.")
    assert "\n" not in said


@pytest.mark.parametrize("table", ["users.parquet", "items.parquet"])
def test_changed_ids_are_refused(tmp_path: Path, table: str) -> None:
    first = a_dataset(tmp_path)
    other = write(tmp_path / "other.txt", sequences().replace("100", "101").replace("11 ", "12 "))
    dataset = add(tmp_path / "datasets", "other", other)
    (first.path / table).write_bytes((dataset.path / table).read_bytes())
    with pytest.raises(DataError, match="was changed after it was added"):
        check_content(first)


def test_a_pipe_or_a_link_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    for name, put in (("pipe", os.mkfifo), ("link", lambda path: path.symlink_to("/dev/zero"))):  # pyright: ignore
        (tmp_path / name).mkdir()
        dataset = a_dataset(tmp_path / name)
        (dataset.path / "train.safetensors").unlink()
        put(dataset.path / "train.safetensors")
        with pytest.raises(DataError, match="its files cannot be read"):
            check_content(dataset)


def test_files_that_are_as_they_were_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = a_dataset(tmp_path)
    first = check_content(dataset)
    monkeypatch.setattr(content, "ContentHash", None)
    assert check_content(dataset) == first


def test_training_arrays_that_are_not_those_the_owner_checked_are_not_trained_on(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path)
    expected = check_content(dataset)
    change_array(dataset.path / "train.safetensors", "items")
    (tmp_path / "t-1").mkdir()
    update = {"dataset_hash": dataset.content_hash, "trial_id": "t-1", "training_hash": expected}
    spec = trial("sasrec", 0).model_copy(update=update)
    (tmp_path / "t-1" / "spec.json").write_text(spec.model_dump_json())
    tasks.perform("run", tmp_path / "t-1", dataset.path.parent, lambda: False, np.inf)
    result = TrialResult.model_validate_json((tmp_path / "t-1" / "result.json").read_bytes())
    assert (result.status, result.epochs) == ("crashed", 0)
    assert "Dataset 'log' was changed after it was added (train.safetensors has the hash" in result.message


@pytest.mark.anyio
async def test_no_study_and_no_trial_begins_on_a_dataset_that_was_changed(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="demo"))["study_id"]
        first = (await at.call("run_trial", study_id=study))["trial_id"]
        spec = (tmp_path / "trials" / first / "spec.json").read_text()
        (dataset,) = list_datasets(tmp_path / "datasets")
        assert f'"{check_content(dataset)}"' in spec
        change_array(dataset.path / "train.safetensors", "items")
        for name, given in (
            ("run_trial", {"study_id": study, "changes": {"dropout": 0.1}}),
            ("start_study", {"dataset": "demo"}),
        ):
            said = await at.refused(name, **given)
            assert "Dataset 'demo' was changed after it was added" in said
        assert [one.trial_id for one in at.runtime.memory.trials(study)] == [first]
