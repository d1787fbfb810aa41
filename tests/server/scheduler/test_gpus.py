"""server.scheduler.gpus and what is made of it: which GPUs a host trains on, and how much of each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from server.executors.base import Slot
from server.executors.environment import child_environment
from server.executors.process.executor import ProcessExecutor
from server.owner.assembly import slots_of
from server.scheduler.gpus import Gpu, GpuError, list_gpus, visible_gpus
from server.scheduler.slots import Slots
from server.settings import Settings, SettingsError

TWO = "0, GPU-aa, 81920, 1920\n3, GPU-bb, 4096, [N/A]\n"
Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Puts an nvidia-smi on the path that says this."""

    def put(said: str, code: int = 0) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\nexit {code}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


def rooms(slots: Slots) -> dict[int | None, float]:
    return slots._room


def test_a_gpu_has_room_for_what_nobody_holds(driver: Driver, tmp_path: Path) -> None:
    driver(TWO)
    assert list_gpus() == {0: Gpu("GPU-aa", 80000.0), 3: Gpu("GPU-bb", None)}
    slots = slots_of(Settings(home=tmp_path, slots=2))
    assert (slots.places, slots.on_gpus, rooms(slots)) == (4, True, {0: pytest.approx(72000.0)})


@pytest.mark.parametrize(
    ("text", "left"), [("3", [3]), ("3,0", [3, 0]), ("GPU-b", [3]), ("", []), ("-1", []), (None, [0, 3])]
)
def test_what_the_owner_s_environment_hides_is_left_to_others(text: str | None, left: list[int]) -> None:
    found = {0: Gpu("GPU-aa", 1.0), 3: Gpu("GPU-bb", 1.0)}
    assert visible_gpus(found, {} if text is None else {"CUDA_VISIBLE_DEVICES": text}) == left


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("Driver/library\nversion mismatch\n", 18, r"fails \(Driver/library version mismatch\)"),
        ("what?\n", 0, "'what\\?'"),
    ],
)
def test_a_driver_that_is_not_well_is_said_in_its_own_words(
    driver: Driver, said: str, code: int, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver(said, code)
    with pytest.raises(GpuError, match=words):
        list_gpus()
    with pytest.raises(
        SettingsError, match=rf"^gpus=\[0\]: nvidia-smi .*{words}.*Mend the driver, or set gpus: \[\]\.$"
    ):
        slots_of(Settings(home=tmp_path, gpus=(0,)))
    with caplog.at_level(logging.WARNING):
        assert not slots_of(Settings(home=tmp_path)).on_gpus
    assert "trainings use the CPU" in caplog.text
    assert not slots_of(Settings(home=tmp_path, gpus=())).on_gpus


def test_a_child_sees_the_gpus_of_its_slot_by_the_driver_s_numbers(tmp_path: Path) -> None:
    given = child_environment({"CUDA_VISIBLE_DEVICES": "7"}, Slot(threads=1, gpu_ids=(1,)), tmp_path, "run")
    assert (given["CUDA_VISIBLE_DEVICES"], given["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")


def test_where_no_gpu_is_to_be_used_none_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    hidden, shown = (ProcessExecutor.of(Settings(home=tmp_path, gpus=gpus)) for gpus in ((), None))
    assert [one._owner["CUDA_VISIBLE_DEVICES"] for one in (hidden, shown)] == ["", "0"]
    assert hidden._workers is not None
    assert hidden._workers._owner["CUDA_VISIBLE_DEVICES"] == ""


def test_the_cores_are_shared_by_all_places_unless_threads_are_set(tmp_path: Path) -> None:
    one = Settings(home=tmp_path)
    assert one.sharing(1) == one
    assert one.sharing(1000).threads == 1
    assert Settings(home=tmp_path, threads=6).sharing(1000).threads == 6
