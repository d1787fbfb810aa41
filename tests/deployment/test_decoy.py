"""A chat client starts us in somebody else's folder: packages there that are named like ours must not win."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.support.owners import command, environment, new_study, owner_of
from tests.support.texts import text

pytestmark = pytest.mark.anyio


def _set_decoys(folder: Path) -> None:
    for name in ("server", "memory", "trainers", "prompts", "mcp"):
        package = folder / name
        package.mkdir(parents=True)
        for module in ("__init__", "__main__", "cli"):
            (package / f"{module}.py").write_text(f"raise SystemExit('the decoy {name} was loaded')\n")


@pytest.mark.parametrize("started", ["virtualmle serve", "python -P -m server"])
async def test_our_packages_win_in_the_bridge_the_owner_and_the_trainer(
    started: str, home: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    _set_decoys(elsewhere)
    _set_decoys(home)
    _add_tiny(home, elsewhere)
    program, *arguments = _program(started)
    where = StdioServerParameters(
        command=program, args=[*arguments, "--home", str(home)], env=environment(), cwd=elsewhere
    )
    async with Client(where) as client:
        study_id = await new_study(client, dataset="tiny", space={"max_epochs": 1})
        trained = await client.call_tool("run_trial", {"study_id": study_id, "wait_seconds": 200})
        assert trained.structured_content is not None, text(trained)
        assert trained.structured_content["status"] == "ok", text(trained)
    assert owner_of(home)


def _program(started: str) -> list[str]:
    if started == "python -P -m server":
        return [sys.executable, "-P", "-m", "server"]
    script = Path(sys.executable).with_name("virtualmle")
    if not script.exists():
        pytest.skip("virtualmle is not installed beside this Python")
    return [str(script), "serve"]


def _add_tiny(home: Path, cwd: Path) -> None:
    events = cwd / "tiny.txt"
    events.write_text(
        "".join(f"{user} {' '.join(str((user + step) % 9) for step in range(5))}\n" for user in range(40))
    )
    subprocess.run(command("data", "add", "tiny", events, "--home", home), check=True, cwd=cwd, env=environment())
