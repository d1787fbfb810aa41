"""server.study.guardrails: limits that can be kept and violated, and what every answer says of a violation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.drive.plan import PlanError, limits_of
from server.drive.report.rewrite import report_again
from server.study import verdicts
from server.study.guardrails import GuardrailError, check_guardrails
from tests.support.examples import study, trial
from tests.support.texts import resource_text
from tests.support.tool_client import ToolClient, by_dropout, tool_client
from trainers.contract.space import Config
from trainers.contract.wire import TrialSpec

WIDE = {"coverage@10": {"min": 0.3}}
"""What the default of these tests, whose coverage is 0.2, violates."""
WORDS = "coverage@10 is 0.2, below the least allowed 0.3"


def covered(trial: TrialSpec) -> Any:
    """Less dropout scores higher; one block recommends fewer items than two."""
    answer = by_dropout(trial)
    assert answer.result is not None
    measures = {"coverage@10": 0.2 if int(trial.config["num_blocks"]) > 1 else 0.4}
    return answer.model_copy(update={"result": answer.result.model_copy(update={"measures": measures})})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"coverage@10": {"min": 0.5, "max": 0.2}}, "coverage@10 has min=0.5 above max=0.2, so no configuration could"),
        ({"coverage@10": {"min": 1.5}}, "coverage@10 is a share between 0 and 1, and min=1.5 is not"),
        ({"ndcg@10": {"min": 20}}, "ndcg@10 is a share between 0 and 1, and min=20 is not"),
        ({"coverage@10": {"max": -0.1}}, "coverage@10 is never below 0, so max=-0.1 limits nothing; give 0 or more"),
        ({"parameters": {"max": -1}}, "parameters is never below 0, so max=-1"),
        ({"parameters": {"max": 0}}, "parameters is above 0 for every model, so max=0 admits none"),
        ({"popularity@10": {"min": -3}}, "popularity@10 is never below 0, so min=-3"),
        ({"ms_per_1000_users": {"max": -3}}, "ms_per_1000_users is never below 0, so max=-3"),
        ({"peak_memory_mb": {"max": -3}}, "peak_memory_mb is never below 0, so max=-3"),
        ({"coverage@10": {"max": float("inf")}}, "both; got"),
        ({"coverage@10": {"min": float("-inf")}}, "both; got"),
        ({"\n" * 9000: {"min": 1}}, "Nothing measured is called"),
    ],
)
def test_a_limit_that_nothing_can_keep_or_nothing_can_violate_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(GuardrailError, match=re.escape(message)) as refused:
        check_guardrails(wanted)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 600


def test_limits_at_the_edge_are_admitted() -> None:
    limits = {"coverage@10": {"min": 0, "max": 1}, "popularity@10": {"max": 0}, "parameters": {"min": 5, "max": 5}}
    assert check_guardrails(limits).keys() == limits.keys()


@pytest.mark.parametrize("setting", ["coverage@10>=nan", "coverage@10<=inf", "coverage@10>=-inf"])
def test_a_limit_that_is_no_number_is_refused_on_the_command_line(setting: str) -> None:
    with pytest.raises(PlanError, match="--guardrail wants"):
        limits_of([setting])


@pytest.mark.anyio
async def test_start_study_refuses_an_impossible_limit_in_one_line_and_stores_nothing(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        for limits in (
            {"coverage@10": {"min": 2.0}},
            {"parameters": {"max": -5}},
            {"coverage@10": {"max": "Infinity"}},
        ):
            (line,) = (await at.refused("start_study", dataset="demo", guardrails=limits)).splitlines()
            assert next(iter(limits)) in line
        assert at.runtime.memory.studies() == []


def test_the_first_configuration_that_violates_nothing_takes_the_place_of_a_default_that_does() -> None:
    limited = study(guardrails=check_guardrails(WIDE))

    def measured(number: int, score: float, coverage: float) -> Any:
        changes: Config = {"dropout": round(0.5 - number / 100, 2)} if number else {}
        return trial(number, score, changes=changes, measures={"coverage@10": coverage})

    trials = [measured(0, 0.06, 0.2), measured(1, 0.05, 0.4), measured(2, 0.0501, 0.4)]
    best = verdicts.ranking_of(limited, trials).leader
    assert best is not None
    assert best.trial_ids == ["t-1"]
    assert verdicts.ranking_of(limited, trials[:1]).leader is None


@pytest.mark.anyio
async def test_a_default_that_violates_is_said_everywhere_and_the_study_goes_on_from_the_first_that_does_not(
    tmp_path: Path,
) -> None:
    async with tool_client(tmp_path, covered) as at:
        study_id = (await at.call("start_study", dataset="demo", guardrails=WIDE))["study_id"]
        default = await at.call("run_trial", study_id=study_id)
        assert default["violations"] == [WORDS]
        assert default["verdict_words"] == (
            f"The default violates a guardrail ({WORDS}), so it is never chosen; the study goes on from the first "
            "configuration that does not."
        )
        assert default["next"].startswith("Every configuration violates a guardrail (coverage@10): run_trial(")
        everything = "Every configuration violates a guardrail (coverage@10)"
        assert (await at.call("get_study", study_id=study_id))["guardrails"] == everything
        await check_pictures(at, study_id, everything)
        report = await report_again(at.client, study_id, tmp_path / "open")
        assert (report.best, report.trials[0].violations) == (None, [WORDS])
        page = (tmp_path / "open/report.md").read_text()
        for words in ("Every configuration so far violates a guardrail.", f"- number 0: {WORDS}", "at least 0.3"):
            assert words in page
        assert "No training had scored" not in page

        first = await at.call("run_trial", study_id=study_id, changes={"num_blocks": 1, "dropout": 0.6})
        assert first["incumbent"]["trial_ids"] == [first["trial_id"]]
        second = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.59})
        assert (second["parent"], second["violations"]) == (first["trial_id"], [])
        assert second["delta"].keys() == {"parent", "incumbent", "default"}
        assert second["verdict"] != "better"
        assert second["incumbent"]["trial_ids"] == [first["trial_id"]]
        third = await at.call("run_trial", study_id=study_id, changes={"num_blocks": 2, "dropout": 0.1})
        assert (
            third["verdict_words"] == f"It violates a guardrail ({WORDS}), so it gets no verdict and is never chosen."
        )

        told = f"The default violates a guardrail ({WORDS}), so the study builds on number 1; so does number 3"
        shown = await at.call("get_study", study_id=study_id)
        assert shown["guardrails"] == told
        lines = {line["number"]: line.get("violations") for line in shown["table"]}
        assert lines == {0: [WORDS], 1: None, 2: None, 3: [WORDS]}
        await check_pictures(at, study_id, told)
        assert (await at.call("suggest_trial", study_id=study_id))["suggestions"]
        ended = await at.call("finish_study", study_id=study_id)
        assert ended["chosen"]["changes"]["num_blocks"] == 1
        assert f"The default violates a guardrail ({WORDS}), so it could not be chosen." in ended["words"]
        (summary,) = [note.text for note in at.runtime.memory.notes(study_id=study_id) if note.kind == "summary"]
        assert told in summary


async def check_pictures(at: ToolClient, study_id: str, words: str) -> None:
    """The page's data and the picture's numbers say which configurations violate, and the PNG is drawn."""
    read = await at.client.read_resource(f"virtualmle://studies/{study_id}/page")
    data = json.loads(resource_text(read))
    assert (data["guardrails"], data["numbers"]["guardrails"]) == (words, words)
    assert data["numbers"]["series"]["points"][0]["violates"]
    drawn = await at.client.call_tool("plot_study", {"study_id": study_id})
    assert not drawn.is_error, drawn.content


@pytest.mark.anyio
@pytest.mark.parametrize("policy", ["playbook", "random", "tpe", "hybrid", "gp"])
@pytest.mark.parametrize("limit", [0.3, 0.9])
async def test_every_policy_goes_on_from_a_default_that_violates(policy: str, limit: float, tmp_path: Path) -> None:
    async with tool_client(tmp_path, covered) as at:
        limits = {"coverage@10": {"min": limit}}
        study_id = (await at.call("start_study", dataset="demo", max_trials=4, guardrails=limits))["study_id"]
        await at.call("run_policy", study_id=study_id, policy=policy, max_trials=4, finish=True)
        ended = await at.call("get_study", study_id=study_id, wait_seconds=45)
        assert (ended["status"], ended["policy"]["status"]) == ("finished", "done"), ended
        assert ended["configurations"] == 4
        assert "The default configuration itself violates a guardrail" in ended["policy"]["message"]
        answer = await at.call("finish_study", study_id=study_id)
        if limit == 0.9:
            assert answer["words"] == (
                "Every configuration violates a guardrail (coverage@10), so there was nothing to evaluate; the test "
                "split stays sealed."
            )
            assert answer["next"] == "start_study opens a new study; wider guardrails admit more."
        notes = " ".join(note.text for note in at.runtime.memory.notes(study_id=study_id))
        assert "ended ok" not in notes
        assert "did not train" not in notes


@pytest.mark.anyio
async def test_only_the_guardrails_that_are_violated_are_named(tmp_path: Path) -> None:
    async with tool_client(tmp_path, covered) as at:
        limits = {"coverage@10": {"min": 0.9}, "ndcg@10": {"min": 0.0}}
        study_id = (await at.call("start_study", dataset="demo", guardrails=limits))["study_id"]
        await at.call("run_trial", study_id=study_id)
        ended = await at.call("finish_study", study_id=study_id)
        assert "(coverage@10)" in ended["words"]


@pytest.mark.anyio
async def test_nothing_has_scored_yet_is_said_only_where_nothing_has(tmp_path: Path) -> None:
    def crashed(trial: TrialSpec) -> Any:
        answer = by_dropout(trial)
        assert answer.result is not None
        return answer.model_copy(
            update={"result": answer.result.model_copy(update={"status": "diverged", "metrics": {}})}
        )

    async with tool_client(tmp_path, crashed) as at:
        study_id = (await at.call("start_study", dataset="demo", guardrails=WIDE))["study_id"]
        assert (await at.call("run_trial", study_id=study_id))["next"].startswith("Nothing has scored yet")
        assert "guardrails" not in await at.call("get_study", study_id=study_id)
