"""A drive by a model is killed and resumed, both as real processes: its study and its transcript go on."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

from server.drive.llm.transcript import TRANSCRIPT
from tests.support.fake_endpoint import Never, Reply, serving
from tests.support.model_replies import openai_reply
from tests.support.owners import command, environment, run
from tests.support.recorded_tables import recorded_tables


def test_a_killed_drive_is_resumed_where_its_transcript_ended(home: Path) -> None:
    tables, requests, waits = recorded_tables(home.parent / "tables"), list[str](), threading.Event()

    def reply(request: dict[str, Any]) -> Reply:
        requests.append(json.dumps(request))
        if len(requests) == 2:
            waits.set()
            return 200, Never()
        (study_id,) = set(re.findall(r"\bs-[a-z0-9]{8}\b", requests[0]))
        if len(requests) == 1:
            return openai_reply(
                ("run_trial", {"study_id": study_id, "changes": {"dropout": 0.2}, "hypothesis": "less"})
            )
        return openai_reply(("finish_study", {"study_id": study_id}))

    with serving(reply) as endpoint:
        model = ("--policy", "llm", "--provider", "openai", "--base-url", f"{endpoint.url}/v1", "--model", "m")
        drive = ("drive", "--replay", tables, "--home", home, *model)
        new = command(*drive, "--dataset", "log", "--trials", "3")
        with subprocess.Popen(new, env=environment(), stdout=subprocess.DEVNULL) as first:
            asked_twice = waits.wait(timeout=60)
            first.kill()
        assert asked_twice
        (study,) = json.loads(run("study", "list", "--home", home, "--json").stdout)
        transcript = home / "reports" / study["study_id"] / TRANSCRIPT
        before = transcript.read_text()
        again = run(*drive, "--resume", study["study_id"], "--json")
    assert again.returncode == 0, again.stderr
    after = transcript.read_text()
    assert after.startswith(before)
    turns = [json.loads(line) for line in after.splitlines()]
    assert [turn["role"] for turn in turns if turn["role"] in ("assistant", "tool")] == ["assistant", "tool"] * 2
    assert [turn["failed"] for turn in turns if turn["role"] == "tool"] == [False, False]
    trials = json.loads(again.stdout)["trials"]
    assert [trial["changes"] for trial in trials[:2]] == [{}, {"dropout": 0.2}]
    assert "less" in requests[2]  # the model is told what it had tried
