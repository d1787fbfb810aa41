"""Settings: where a value came from, and what is said of one that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.settings import Settings, SettingsError, load_settings

TEXTS = ("home", "executor", "docker_image", "host_home", "ray_address")
NUMBERS = [name for name in Settings.model_fields if name not in TEXTS]
WRONG = ("abc", ".inf", "inf", ".nan", "nan", "-7", "1" + "0" * 400, "9" * 5_000, "1e400", "[1", "{a: b}", "[" * 3_000)


def message_of(home: Path, environment: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(home, environment)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_wrong_number_of_the_environment_is_blamed_on_its_variable(tmp_path: Path, name: str, value: str) -> None:
    if name in ("allowed_hosts", "allowed_origins") and value.startswith(("abc", "inf", "nan")):
        value = "[1"
    (tmp_path / "virtualmle.yaml").write_text(f"{name}: 1\n")
    message = message_of(tmp_path, {f"VIRTUALMLE_{name.upper()}": value})
    assert message.startswith(f"VIRTUALMLE_{name.upper()}={value[:10]!r}"[:-1])
    assert " in the environment" in message
    assert "virtualmle.yaml" not in message
    assert message.endswith("Correct or unset it.")


@pytest.mark.parametrize("value", ["abc", ".inf", ".nan", "-7", "1" + "0" * 400])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_wrong_number_of_the_file_is_blamed_on_the_file_and_its_key(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "virtualmle.yaml"
    path.write_text(f"{name}: {value}\n")
    other = "VIRTUALMLE_SLOTS" if name != "slots" else "VIRTUALMLE_THREADS"
    message = message_of(tmp_path, {other: "2"})
    assert message.startswith(f"{path}: {name}=")
    assert "VIRTUALMLE_" not in message
    assert message.endswith("Correct or remove it.")


def test_the_environment_overrides_the_file_and_text_stays_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "virtualmle.yaml").write_text("slots: abc\nthreads: 3\n")
    environment = {
        "VIRTUALMLE_SLOTS": "2", "VIRTUALMLE_DOCKER_IMAGE": "1.10", "VIRTUALMLE_HOST_HOME": "/1",
        "VIRTUALMLE_ALLOWED_HOSTS": "[a.org, b.org]", "VIRTUALMLE_GPUS": "[0, 2]",
    }  # fmt: skip
    settings = load_settings(tmp_path, environment)
    assert settings == Settings(
        home=tmp_path, slots=2, threads=3, docker_image="1.10", host_home=Path("/1"), allowed_hosts=("a.org", "b.org"),
        gpus=(0, 2),
    )  # fmt: skip


def test_a_key_that_is_no_setting_is_named_with_the_settings_there_are(tmp_path: Path) -> None:
    (tmp_path / "virtualmle.yaml").write_text("slot: 2\n")
    message = message_of(tmp_path, {})
    assert message.startswith(f"{tmp_path / 'virtualmle.yaml'}: slot=2: ")
    assert "Settings: slots, gpus, threads" in message


def test_one_wrong_entry_of_a_list_is_numbered(tmp_path: Path) -> None:
    assert "VIRTUALMLE_GPUS='[0, -1]' in the environment, entry 1: " in message_of(
        tmp_path, {"VIRTUALMLE_GPUS": "[0, -1]"}
    )


def test_a_home_of_an_unknown_user_is_blamed_on_where_it_was_named(tmp_path: Path) -> None:
    named = "~nobody-of-this-name/home"
    with pytest.raises(
        SettingsError, match=r"^VIRTUALMLE_HOME='~nobody-of-this-name/home' in the environment names no"
    ):
        load_settings(None, {"VIRTUALMLE_HOME": named})
    with pytest.raises(SettingsError, match=r"^--home '~nobody-of-this-name/home' names no folder"):
        load_settings(Path(named), {"VIRTUALMLE_HOME": str(tmp_path)})


@pytest.mark.parametrize("content", ["[" * 3_000, "slots: " + "9" * 5_000, "a: [1", "words", "\x00", "- 1"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "virtualmle.yaml").write_text(content)
    assert str(tmp_path / "virtualmle.yaml") in message_of(tmp_path, {})


def test_a_pipe_instead_of_the_file_holds_nobody_up_and_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "virtualmle.yaml")
    assert "it is not a regular file" in message_of(tmp_path, {})
    (tmp_path / "virtualmle.yaml").unlink()
    (tmp_path / "elsewhere.yaml").write_text("slots: 3\n")
    (tmp_path / "virtualmle.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert load_settings(tmp_path, {}).slots == 3
