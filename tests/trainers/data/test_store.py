"""The store: names, hashes, replacing, removing, crashes, and the border that keeps the test split away."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.support.interactions import sequences, write
from trainers.data import (
    DataError,
    Dataset,
    add,
    find,
    find_by_hash,
    list_datasets,
    load_test,
    load_training,
    remove,
    store,
)
from trainers.data.staging import staging_folder


def test_a_dataset_is_found_by_name_and_by_content(tmp_path: Path) -> None:
    dataset = _add(tmp_path)
    assert find(tmp_path, "log") == dataset
    assert find_by_hash(tmp_path, dataset.content_hash) == dataset
    assert list_datasets(tmp_path) == [dataset]
    assert "path" not in dataset.model_dump()


def test_the_hash_depends_on_content_and_not_on_name_or_file(tmp_path: Path) -> None:
    first, second = _add(tmp_path, "first"), _add(tmp_path, "second")
    other_item = _add(tmp_path, "item", sequences().replace("100", "101"))
    other_user = _add(tmp_path, "user", sequences().replace("11 ", "12 "))
    other_order = _add(tmp_path, "order", sequences().replace("30 7 100", "7 30 100"))
    assert first.content_hash == second.content_hash
    assert len({data.content_hash for data in (first, other_item, other_user, other_order)}) == 4
    assert len(first.content_hash) == 20


def test_the_same_content_under_the_same_name_changes_nothing(tmp_path: Path) -> None:
    assert _add(tmp_path) == _add(tmp_path)


def test_other_content_under_the_same_name_is_refused(tmp_path: Path) -> None:
    dataset = _add(tmp_path)
    with pytest.raises(DataError) as caught:
        _add(tmp_path, content="1 2 3 4\n")
    assert str(caught.value) == (
        "There is a dataset 'log' with other content; choose another name, or remove it with "
        "`virtualmle data remove log`."
    )
    assert list_datasets(tmp_path) == [dataset]


@pytest.mark.parametrize("name", ["", "../log", "a/b", ".hidden", "-x", "x" * 65, "log\n", "/tmp/log"])
def test_a_path_cannot_name_a_dataset(name: str, tmp_path: Path) -> None:
    for action in (lambda: _add(tmp_path, name), lambda: find(tmp_path, name), lambda: remove(tmp_path, name)):
        with pytest.raises(DataError, match="cannot name a dataset"):
            action()


def test_the_name_of_the_demo_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'demo' is kept for the generated dataset"):
        _add(tmp_path, "demo")


def test_an_unknown_name_gets_the_nearest_and_the_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Unknown dataset 'beuty'\. There are none yet\."):
        find(tmp_path / "nowhere", "beuty")
    _add(tmp_path, "beauty")
    with pytest.raises(DataError, match=r"Unknown dataset 'beuty'\. Did you mean 'beauty'\? There are: beauty\."):
        find(tmp_path, "beuty")


def test_a_removed_dataset_is_gone_whole(tmp_path: Path) -> None:
    _add(tmp_path)
    remove(tmp_path, "log")
    assert list_datasets(tmp_path) == []
    assert _folders(tmp_path) == []
    with pytest.raises(DataError, match="Unknown dataset 'log'"):
        remove(tmp_path, "log")


def test_training_data_is_loaded_without_the_test_file(tmp_path: Path) -> None:
    dataset = _add(tmp_path)
    (dataset.path / "sealed" / "test.safetensors").unlink()
    assert load_training(dataset.path).num_items == 4
    with pytest.raises(DataError, match=r"Dataset 'log' is damaged \(test\.safetensors is missing\)"):
        load_test(dataset.path)


@pytest.mark.parametrize("name", ["dataset.json", "train.safetensors"])
def test_a_damaged_file_is_named_and_the_dataset_can_be_removed(name: str, tmp_path: Path) -> None:
    dataset = _add(tmp_path)
    (dataset.path / name).write_bytes(b"{half")
    with pytest.raises(DataError, match=f"Dataset 'log' is damaged \\({name}: .*data remove log"):
        load_training(dataset.path)
    remove(tmp_path, "log")
    assert _folders(tmp_path) == []


def test_arrays_of_another_dataset_are_taken_for_damage(tmp_path: Path) -> None:
    dataset, other = _add(tmp_path), _add(tmp_path, "other", "1 2 3 4\n")
    for name, load in (("sealed/test", load_test), ("train", load_training)):
        (other.path / f"{name}.safetensors").replace(dataset.path / f"{name}.safetensors")
        with pytest.raises(DataError, match=rf"{Path(name).name}\.safetensors does not fit dataset.json"):
            load(dataset.path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disc quota exceeded"),  # in the words of macOS
        SafetensorError("I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_said_and_leaves_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(DataError, match="The disk is full"):
        _add(tmp_path)
    assert _folders(tmp_path) == []


def test_what_a_killed_import_left_is_swept_by_the_next(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from trainers.data.staging import staging_folder\n"
        "with staging_folder(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    assert [path.name[:8] for path in _folders(tmp_path)] == [".import-"]
    assert list_datasets(tmp_path) == []
    _add(tmp_path)
    assert [path.name for path in _folders(tmp_path)] == ["log"]
    assert list(tmp_path.glob(".*")) == []


def test_an_import_that_is_at_work_is_not_swept(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as staging:
        _add(tmp_path)
        assert staging.folder.is_dir()


def test_of_two_imports_of_one_name_the_first_to_finish_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = store.publish

    def overtaken(folder: Path, target: Path) -> bool:
        monkeypatch.setattr(store, "publish", publish)
        _add(tmp_path, content="1 2 3 4\n")
        return publish(folder, target)

    monkeypatch.setattr(store, "publish", overtaken)
    with pytest.raises(DataError, match="There is a dataset 'log' with other content"):
        _add(tmp_path)
    assert [dataset.facts.users for dataset in list_datasets(tmp_path)] == [1]


def _add(folder: Path, name: str = "log", content: str = sequences()) -> Dataset:
    return add(folder, name, write(folder / "source.txt", content))


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_item_ids_whose_file_holds_bytes_that_are_no_text_are_damaged_in_one_line(tmp_path: Path) -> None:
    folder = _add(tmp_path).path
    items = folder / "items.parquet"
    items.write_bytes(items.read_bytes().replace(b"\x02id", b"\x02\xe1d"))  # its column has no readable name
    with pytest.raises(DataError, match=r"items\.parquet") as raised:
        store.load_ids(folder)
    assert len(str(raised.value).splitlines()) == 1
