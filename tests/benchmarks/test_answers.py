"""benchmarks.answers: a finished study, answer by answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import answers
from tests.support.tool_client import tool_client


@pytest.mark.anyio
async def test_a_study_is_shown_from_its_default_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="demo", confirm_seeds=1))["study_id"]
        await at.call("run_trial", study_id=study)
        await at.call("run_trial", study_id=study, changes={"dropout": 0.0}, hypothesis="less is more")
        words = (await at.call("finish_study", study_id=study, wait_seconds=60))["words"]
    answers.main(["--home", str(tmp_path), "--study", study])
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("- **")]
    assert [line.split("**")[1] for line in shown] == [
        "Number 0, seed 0: the default", "Number 1, seed 0: dropout 0.0", "Number 1, seed 1: another seed",
        "Number 0, seed 1: another seed",
    ]  # fmt: skip
    assert "  Why: less is more." in lines
    assert sum(line.startswith("  Verdict: **") for line in lines) == 2
    assert lines.index("The choice was made: number 1. Its fresh seeds and those of the default:") > lines.index(
        shown[1]
    )
    assert lines[-1] == f"> {words}"
