"""What a user's own trainer may leave and reach: nothing hangs, and each fault is one line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from server.cli.main import main
from tests.support.own_trainers import GOOD, prepared, trainer
from tests.support.trials import gone, until
from trainers.data import load_test
from trainers.external import command, predictions
from trainers.external.command import Misbehaved
from trainers.external.environment import trainer_environment
from trainers.external.trial import run_external_trial

DEEP = "[" * 100_000
DIGITS = "9" * 5_000
EPOCH = '{"epoch": 1, "loss": 1, "validation": {}, "seconds": 1, "eval_seconds": 0}\n'


def leaves(name: str, action: str) -> str:
    """A good trainer that at its end has `action` done to the path `left` of its run directory."""
    return GOOD + f"    import os; left = folder / {name!r}; left.unlink(missing_ok=True)\n    {action}\n"


def writes(name: str, text: str) -> str:
    return leaves(name, f"left.write_text({text!r})")


HOSTILE = {
    "a result of a later epoch than there are": (
        writes("result.json", '{"status": "ok", "best_epoch": 3000000000}'),
        "best_epoch",
    ),
    "a result with epoch 0": (writes("result.json", '{"status": "ok", "best_epoch": 0}'), "best_epoch"),
    "a best epoch that was not": (
        leaves("x", f"(folder / 'epochs.jsonl').write_text({EPOCH!r}); result(best_epoch=2)"),
        "best_epoch 2, and its epochs.jsonl has no such epoch",
    ),
    "parameters below 0": (writes("result.json", '{"status": "ok", "parameters": -1}'), "parameters"),
    "parameters of 64 bits": (writes("result.json", f'{{"status": "ok", "parameters": {2**63}}}'), "parameters"),
    "a number of 5000 digits": (
        writes("result.json", f'{{"status": "ok", "parameters": {DIGITS}}}'),
        "result.json is no result",
    ),
    "a deep result": (writes("result.json", DEEP), "result.json is no result"),
    "a cancellation that nobody asked for": (
        writes("result.json", '{"status": "cancelled"}'),
        "nothing asked it to end",
    ),
    "a stop that nobody asked for": (writes("result.json", '{"status": "stopped"}'), "no stop_below"),
    "a pipe as result": (
        leaves("result.json", "os.mkfifo(left)"),
        "result.json cannot be read: it is not a regular file",
    ),
    "a link as result": (
        leaves("result.json", "left.symlink_to('/dev/zero')"),
        "result.json cannot be read: it is a link",
    ),
    "a folder as result": (leaves("result.json", "left.mkdir()"), "result.json cannot be read"),
    "an endless result": (leaves("result.json", "left.touch(); os.truncate(left, 1 << 40)"), "it has more than"),
    "a pipe as epochs": (leaves("epochs.jsonl", "os.mkfifo(left)"), "epochs.jsonl cannot be read"),
    "an epoch of 64 bits": (writes("epochs.jsonl", EPOCH.replace("1", "3000000000", 1)), "line 1 of its epochs.jsonl"),
    "an epoch twice": (writes("epochs.jsonl", EPOCH * 2), "line 2 of its epochs.jsonl holds epoch 1"),
    "an unknown metric": (
        writes("epochs.jsonl", EPOCH.replace("{}", '{"luck": 1}')),
        "the metric 'luck'; there are recall@5",
    ),
    "a metric above 1": (writes("epochs.jsonl", EPOCH.replace("{}", '{"ndcg@10": 7}')), "a metric of 7"),
    "less than no time": (
        writes("epochs.jsonl", EPOCH.replace('"seconds": 1', '"seconds": -1')),
        "line 1 of its epochs.jsonl",
    ),
    "a deep epoch": (writes("epochs.jsonl", DEEP), "line 1 of its epochs.jsonl is no epoch"),
    "epochs that are no text": (
        leaves("epochs.jsonl", "left.write_bytes(bytes(range(255)))"),
        "epochs.jsonl is no epoch",
    ),
    "a pipe as ranks": (leaves("validation_ranks.safetensors", "os.mkfifo(left)"), "ranks.safetensors cannot be read"),
    "a link as ranks": (
        leaves("validation_ranks.safetensors", "left.symlink_to(folder / 'checkpoint.safetensors')"),
        "it is a link",
    ),
    "endless ranks": (
        leaves("validation_ranks.safetensors", "left.touch(); os.truncate(left, 1 << 40)"),
        "it has more than",
    ),
    "a rank beyond the items": (leaves("x", "ranks(np.full(users, V + 2))"), r"its largest rank is \d+"),
    "a rank of 64 bits": (
        leaves("x", "ranks(np.full(users, 2**64 - 1, dtype=np.uint64))"),
        r"its largest rank is 1844",
    ),
    "ranks of a type that numpy lacks": (
        leaves(
            "validation_ranks.safetensors",
            """head = b'{"ranks":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    left.write_bytes(len(head).to_bytes(8, 'little') + head + bytes(2))""",
        ),
        "validation_ranks.safetensors cannot be read",
    ),
    "an endless checkpoint": (
        leaves("checkpoint.safetensors", "left.touch(); os.truncate(left, 1 << 42)"),
        "checkpoint.safetensors cannot be copied",
    ),
    "a checkpoint that is a device": (
        leaves("checkpoint.safetensors", "left.symlink_to('/dev/zero')"),
        "checkpoint.safetensors cannot be copied",
    ),
    "a pipe as predictions": (
        GOOD.replace("predict(lists(asked))", "import os; os.mkfifo(folder / 'predictions.safetensors')"),
        "predictions.safetensors cannot be read: it is not a regular file",
    ),
    "a prediction of 64 bits": (
        GOOD.replace("predict(lists(asked))", "predict(np.full((users, 20), 2**64 - 1, dtype=np.uint64))"),
        "it predicts item 18446744073709551615",
    ),
    "a pipe in the place of what we write": (
        leaves("predict", "os.mkfifo(left); os.mkfifo(folder / 'result.tmp')"),
        "",
    ),
    "a folder in the place of a file": (
        "    pass\nelse:\n    (folder / 'result.json').mkdir(); sys.exit(5)",
        "its command ended with exit code 5",
    ),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_whatever_a_trainer_leaves_ends_as_crashed_with_one_line(fault: str, tmp_path: Path) -> None:
    body, message = HOSTILE[fault]
    directory, spec = prepared(tmp_path, body)
    result = run_external_trial(directory, spec, tmp_path / "datasets")
    if not message:
        assert result.status == "ok", result.message
        return
    assert result.status == "crashed"
    assert re.search(message, result.message), result.message
    assert result.message.startswith("Trainer mine: ")
    assert "\n" not in result.message
    assert len(result.message) < 400
    assert not os.path.lexists(directory / "result.json")


@pytest.mark.parametrize("fault", ["a pipe as result", "a deep epoch", "a rank of 64 bits", "an endless checkpoint"])
def test_the_check_says_the_same_in_one_line(fault: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body, message = HOSTILE[fault]
    assert main(["trainer", "check", str(trainer(tmp_path, body))]) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert message.replace("\\d+", "") in said.strip().splitlines()[-1]


def test_a_second_attempt_does_not_write_through_what_the_first_has_left(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for name in ("spec.json", "train.safetensors"):
        (directory / name).symlink_to(precious)
    assert run_external_trial(directory, spec, tmp_path / "datasets").status == "ok"
    assert precious.read_text() == "kept"


def test_a_log_that_is_a_pipe_is_said_and_not_waited_for(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path)
    os.mkfifo(directory / "trial.log")
    result = run_external_trial(directory, spec, tmp_path / "datasets")
    assert result.status == "crashed"
    assert result.message.startswith("Trainer mine: its trial.log cannot be written: ")


def test_a_reveal_does_not_wait_for_a_spec_that_is_a_pipe(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path)
    assert run_external_trial(directory, spec, tmp_path / "datasets").status == "ok"
    sealed = load_test(tmp_path / "datasets" / "log")
    (directory / "spec.json").unlink()
    os.mkfifo(directory / "spec.json")
    with pytest.raises(Misbehaved, match=r"The spec\.json of t-1 cannot be read"):
        predictions.ranks_of(directory / "checkpoint.safetensors", tmp_path / "p", tmp_path / "datasets", sealed)


def test_a_trainer_gets_a_listed_environment_without_the_home_tokens_and_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = {
        "VIRTUALMLE_HOME": str(tmp_path), "VIRTUALMLE_OWNER_HOME": str(tmp_path), "VIRTUALMLE_TEST_DATA": "data",
        "OPENAI_API_KEY": "sk", "HF_TOKEN": "hf", "AWS_PROFILE": "p", "SSH_AUTH_SOCK": "s", "PWD": str(tmp_path),
        "ANYTHING": "else",
    }  # fmt: skip
    shown = {
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "2",
        "VIRTUALMLE_RUN": "r",
        "VIRTUALMLE_OWNER": "o",
        "LC_ALL": "C",
    }
    for name, value in (hidden | shown).items():
        monkeypatch.setenv(name, value)
    body = GOOD + "    import os; (folder / 'environment.json').write_text(json.dumps(dict(os.environ)))\n"
    directory, spec = prepared(tmp_path, body)
    assert run_external_trial(directory, spec, tmp_path / "datasets").status == "ok"
    given = json.loads((directory / "environment.json").read_text())
    assert {name: given.get(name) for name in shown} == shown
    assert not set(given) & set(hidden)
    assert not [name for name, value in given.items() if str(tmp_path) in value]
    assert {"PATH", "HOME"} <= set(given)


def test_our_packages_are_not_on_the_path_of_a_trainer() -> None:
    ours = str(Path(__file__).parents[3])
    given = trainer_environment({"PYTHONPATH": os.pathsep.join([ours, "/mine"]), "PATH": "/bin"})
    assert given == {"PYTHONPATH": "/mine", "PATH": "/bin"}
    assert trainer_environment({"PYTHONPATH": ours}) == {}


def test_a_trainer_that_dies_by_the_signal_that_cancels_it_is_cancelled(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path, "    pass\nelse:\n    (folder / 'ready').touch()\n    signal.pause()\n")
    result = run_external_trial(directory, spec, tmp_path / "datasets", cancelled=(directory / "ready").exists)
    assert (result.status, result.message, result.validation) == ("cancelled", "", {})


@pytest.mark.parametrize(
    "left",
    [
        "ranks(np.zeros(3)); result()",
        "(folder / 'result.json').write_text('torn')",
        "os.mkfifo(folder / 'epochs.jsonl')",
    ],
)
def test_a_cancelled_trainer_is_cancelled_whatever_it_leaves(left: str, tmp_path: Path) -> None:
    body = f"    pass\nelse:\n    import os; {left}\n    (folder / 'ready').touch()\n    signal.pause()\n"
    directory, spec = prepared(tmp_path, body)
    result = run_external_trial(directory, spec, tmp_path / "datasets", cancelled=(directory / "ready").exists)
    assert (result.status, result.validation) == ("cancelled", {})


def test_a_trainer_that_ignores_its_cancellation_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "OBEY_SECONDS", 0.2)
    body = (
        "    pass\nelse:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    (folder / 'ready').touch()\n"
        "    while True: signal.pause()\n"
    )
    directory, spec = prepared(tmp_path, body)
    result = run_external_trial(directory, spec, tmp_path / "datasets", cancelled=(directory / "ready").exists)
    assert result.status == "cancelled"


def test_a_cancellation_while_it_predicts_keeps_the_scores_of_its_ranks(tmp_path: Path) -> None:
    body = GOOD.replace("predict(lists(asked))", "(folder.parent / 'ready').touch(); signal.pause()")
    directory, spec = prepared(tmp_path, body)
    result = run_external_trial(directory, spec, tmp_path / "datasets", cancelled=(directory / "ready").exists)
    assert (result.status, result.message, result.measures) == ("cancelled", "", {})
    assert result.validation["ndcg@10"] > 0


@pytest.mark.anyio
async def test_what_a_trainer_started_ends_with_it(tmp_path: Path) -> None:
    body = GOOD + (
        "    import subprocess; beside = subprocess.Popen(['sleep', '1000'])\n"
        "    (folder / 'beside').write_text(str(beside.pid))\n"
    )
    directory, spec = prepared(tmp_path, body)
    assert run_external_trial(directory, spec, tmp_path / "datasets").status == "ok"
    beside = int((directory / "beside").read_text())
    await until(lambda: gone(beside))
