"""The engineer that is a language model, against a local endpoint that speaks both wire formats."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from server.drive.llm import dialogue
from server.drive.llm.anonymous_names import Names
from server.drive.llm.dialogue import ModelFailed, open_dialogue
from server.drive.llm.prices import price_of
from server.drive.plan import ModelPlan, PlanError, Provider
from server.drive.run import DriveFailed, run_drive
from tests.support.fake_endpoint import Reply
from tests.support.fake_server import FakeServer
from tests.support.model_drives import PATHS, Played, play
from tests.support.model_replies import REPLIES, Call, error_reply, openai_reply
from tests.support.plans import plan_for

KEY = "sk-test-0123456789"
TRIAL: Call = ("run_trial", {"study_id": "s-1", "changes": {"learning_rate": 0.003}, "hypothesis": "faster"})
FINISH: Call = ("finish_study", {"study_id": "s-1", "summary": "A higher rate helped."})


def test_the_model_runs_trials_writes_notes_and_finishes(provider: Provider, tmp_path: Path) -> None:
    reply = REPLIES[provider]
    note: Call = (
        "write_heuristic", {"study_id": "s-1", "kind": "heuristic", "text": "Rates.", "evidence": ["t-1"]}
    )  # fmt: skip
    played = play(provider, [reply(TRIAL, text="Faster first."), reply(note), reply(FINISH)], tmp_path)
    assert [trial["changes"] for trial in played.report["trials"]] == [{}, {"learning_rate": 0.003}]
    assert played.report["best"]["config"]["learning_rate"] == 0.003
    assert [(item["kind"], item["text"]) for item in played.report["heuristics"]] == [
        ("summary", "A higher rate helped."),
        ("heuristic", "Rates."),
    ]
    assert played.server.finishes == 1
    assert set(played.endpoint.paths) == {PATHS[provider]}
    result = json.loads(played.told(1)[0])
    assert (result["trial_id"], result["verdict"]) == ("t-1", "better")


def test_the_model_is_given_the_prompt_the_brief_and_the_tools(provider: Provider, tmp_path: Path) -> None:
    first = play(provider, [REPLIES[provider](FINISH)], tmp_path).endpoint.requests[0]
    if provider == "anthropic":
        system, opening = first["system"], first["messages"][0]["content"][0]["text"]
        tools = {tool["name"]: tool["input_schema"] for tool in first["tools"]}
    else:
        system, opening = (message["content"] for message in first["messages"])
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in first["tools"]}
    assert "tunes a sasrec sequential recommender on the dataset `demo`" in system
    assert "in at most 3 configurations" in system
    assert '"snapshot_id": "m-1"' in opening
    assert '"trial_id": "t-0"' in opening
    assert sorted(tools) == [
        "cancel_trial", "finish_study", "get_trial", "read_memory", "run_trial", "write_heuristic",
    ]  # fmt: skip
    assert tools["run_trial"]["required"] == ["study_id"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (("fly", {}), "Unknown tool 'fly'. There are run_trial, get_trial"),
        (("mcp__virtualmle__get_trial", {}), "Unknown tool 'mcp__virtualmle__get_trial'. Did you mean 'get_trial'?"),
        (("run_trail", {}), "Unknown tool 'run_trail'. Did you mean 'run_trial'?"),
        (("start_study", {"dataset": "demo"}), "Unknown tool 'start_study'"),
        (("run_trial", {"study_id": "s-other"}), "study_id must be 's-1'"),
        (("run_trial", {"study_id": "s-1", "changes": {"dropuot": 0.1}}), "Did you mean 'dropout'?"),
        (("run_trial", {"study_id": "s-1", "changes": 3}), "changes"),
        (("run_trial", {}), "study_id"),
        (("get_trial", {"trial_id": "t-9"}), "Unknown trial 't-9'"),
    ],
)
def test_what_is_wrong_with_a_call_goes_back_to_the_model(
    call: Call, error: str, provider: Provider, tmp_path: Path
) -> None:
    played = play(provider, [REPLIES[provider](call), REPLIES[provider](FINISH)], tmp_path)
    assert error in played.told(1)[0]
    failed = next(line for line in played.transcript if line["role"] == "tool")
    assert failed["failed"] is True
    assert played.report["trainings"] == 1


@pytest.mark.parametrize("arguments", ["{not json", "[1, 2]", '"text"'])
def test_arguments_that_are_no_object_go_back_and_are_mended_in_the_history(arguments: str, tmp_path: Path) -> None:
    replies = [openai_reply(("run_trial", arguments)), openai_reply(FINISH)]
    played = play("openai", replies, tmp_path)
    assert "JSON" in played.told(1)[0]
    sent = played.endpoint.requests[1]["messages"][-2]["tool_calls"][0]["function"]["arguments"]
    assert sent == "{}"


def test_several_calls_in_one_turn_are_all_answered(provider: Provider, tmp_path: Path) -> None:
    other: Call = ("run_trial", {"study_id": "s-1", "changes": {"dropout": 0.3}})
    played = play(provider, [REPLIES[provider](TRIAL, other), REPLIES[provider](FINISH)], tmp_path)
    assert [json.loads(text)["trial_id"] for text in played.told(1)] == ["t-1", "t-2"]


def test_a_cut_answer_is_not_acted_on(provider: Provider, tmp_path: Path) -> None:
    stop = {"anthropic": "max_tokens", "openai": "length"}[provider]
    played = play(provider, [REPLIES[provider](TRIAL, stop=stop), REPLIES[provider](FINISH)], tmp_path)
    assert "cut off" in played.told(1)[0]
    assert played.report["trainings"] == 1


def test_a_model_that_stops_early_is_nudged_once_and_then_finished_for(provider: Provider, tmp_path: Path) -> None:
    played = play(provider, [REPLIES[provider](TRIAL), REPLIES[provider](text="I am done.")], tmp_path)
    assert played.failure is None
    assert len(played.endpoint.requests) == 3
    assert "The model stopped before it finished the study." in played.page
    assert played.server.finishes == 1
    assert played.report["test_reveal"] == 2


def test_an_answer_without_any_content_is_survived(provider: Provider, tmp_path: Path) -> None:
    played = play(provider, [REPLIES[provider](), REPLIES[provider](FINISH)], tmp_path)
    assert played.server.finishes == 1


@pytest.mark.parametrize(
    ("limits", "turns", "words"),
    [
        ({"max_turns": 3}, 3, "The budget of 3 turns ended the model's work."),
        ({"max_tokens": 150}, 2, "The token budget of 150 ended the model's work."),
    ],
)
def test_turn_and_token_budgets_end_in_a_finished_study(
    limits: dict[str, Any], turns: int, words: str, provider: Provider, tmp_path: Path
) -> None:
    look: Call = ("read_memory", {"study_id": "s-1"})
    played = play(provider, [REPLIES[provider](look)], tmp_path, **limits)
    assert len(played.endpoint.requests) == turns
    assert words in played.page
    assert played.server.finishes == 1


def test_more_trials_than_planned_are_refused_by_the_server(provider: Provider, tmp_path: Path) -> None:
    played = play(provider, [REPLIES[provider](TRIAL), REPLIES[provider](FINISH)], tmp_path, max_trials=1)
    assert played.told(1)[0].removeprefix("Error: ").startswith("All 1 configurations of this study are used")


@pytest.mark.parametrize("status", [429, 500])
def test_a_refusal_that_passes_is_retried(status: int, provider: Provider, tmp_path: Path) -> None:
    failed = error_reply(provider, status, "busy")
    played = play(provider, [failed, REPLIES[provider](FINISH)], tmp_path)
    assert len(played.endpoint.requests) == 2
    assert played.server.finishes == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"refused the key \(HTTP 401\): check \w+_API_KEY or --key-file"),
        (404, r"knows no model 'm' \(HTTP 404\)"),
        (429, r"admits no more requests now \(HTTP 429\)"),
        (500, r"failed \(HTTP 500\)"),
        (400, r"failed \(HTTP 400\): .*sk-…"),
    ],
)
def test_an_endpoint_that_fails_for_good_is_one_line_and_the_test_stays_sealed(
    status: int, words: str, provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer()
    failure = play(provider, [error_reply(provider, status, f"bad {KEY}")], tmp_path, server).failure
    assert failure is not None
    assert re.search(words, failure)
    assert KEY not in failure
    assert "\n" not in failure
    assert server.finishes == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["trainings"], report["test_reveal"]) == (1, None)


def test_an_endpoint_that_is_not_there_is_one_line(provider: Provider, tmp_path: Path) -> None:
    model = ModelPlan("m", provider, "http://127.0.0.1:9", retries=0)
    with pytest.raises(DriveFailed, match=r"http://127.0.0.1:9 cannot be reached: APIConnectionError"):
        run_drive(plan_for(policy="llm", model=model, max_trials=1), FakeServer().connect, tmp_path, tmp_path, False)


def test_nothing_secret_is_written(provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = play(provider, [REPLIES[provider](TRIAL), REPLIES[provider](FINISH)], tmp_path)
    sent = played.endpoint.headers[0]
    assert KEY in (sent.get("x-api-key"), sent.get("authorization", "").removeprefix("Bearer "))
    said = capsys.readouterr()
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in written + said.out + said.err


def test_the_transcript_holds_every_turn_in_order(provider: Provider, tmp_path: Path) -> None:
    played = play(provider, [REPLIES[provider](TRIAL, text="Faster."), REPLIES[provider](FINISH)], tmp_path)
    lines = played.transcript
    assert [line["role"] for line in lines] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert lines[2]["text"] == "Faster."
    assert lines[2]["calls"][0]["arguments"] == TRIAL[1]
    assert lines[2]["tokens"] == 100


def test_without_a_key_nothing_is_trained(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dialogue.KEYS.values():
        monkeypatch.delenv(name)
    server = FakeServer()
    plan = plan_for(policy="llm", model=ModelPlan("m", provider))
    with pytest.raises(DriveFailed, match=rf"No key for {provider}: set {dialogue.KEYS[provider]}, or give --key-file"):
        run_drive(plan, server.connect, tmp_path, tmp_path, False)
    assert (server.trials, server.arguments) == ({}, {})


def test_a_server_of_ones_own_needs_no_key(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dialogue.KEYS.values():
        monkeypatch.delenv(name)
    assert play(provider, [REPLIES[provider](FINISH)], tmp_path).server.finishes == 1


def test_a_missing_sdk_names_the_extra(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, provider, None)
    monkeypatch.delitem(sys.modules, f"server.drive.llm.{provider}_api", raising=False)
    with pytest.raises(ModelFailed, match=rf"needs the {provider} SDK: pip install 'virtualmle\[llm\]'"):
        open_dialogue(ModelPlan("m", provider))


def test_a_key_file_holds_one_key(provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    played = play(provider, [REPLIES[provider](FINISH)], tmp_path / "report", key_file=file)
    sent = played.endpoint.headers[0]
    assert "sk-from-file" in (sent.get("x-api-key"), sent.get("authorization", "").removeprefix("Bearer "))
    file.write_text("two words\n")
    with pytest.raises(ModelFailed, match="must hold one key and nothing else"):
        open_dialogue(ModelPlan("m", provider, key_file=file))
    with pytest.raises(ModelFailed, match="cannot be read: No such file"):
        open_dialogue(ModelPlan("m", provider, key_file=tmp_path / "none"))


def opening_of(played: Played, request: int) -> str:
    """What the model was told when its context began."""
    message = next(one for one in played.endpoint.requests[request]["messages"] if one["role"] == "user")
    content = message["content"]
    return content if isinstance(content, str) else content[0]["text"]


def test_a_context_that_is_full_begins_anew_with_older_trials_as_a_table(provider: Provider, tmp_path: Path) -> None:
    steps: list[Call] = [
        ("run_trial", {"study_id": "s-1", "changes": {"dropout": round(0.1 * n, 1)}, "hypothesis": f"step {n}"})
        for n in range(1, 7)
    ]
    replies = [REPLIES[provider](step) for step in steps]
    played = play(provider, [*replies, REPLIES[provider](FINISH)], tmp_path, max_trials=9, max_context=50)
    sizes = [len(request["messages"]) for request in played.endpoint.requests]
    assert max(sizes) <= 3
    told = opening_of(played, 6)
    assert "Older trainings, a line each:" in told
    assert '{"trial_id": "t-1"' in told
    assert told.count('"curve"') <= 5
    assert "Your last calls were answered with:" in told
    assert played.server.finishes == 1


def test_without_memory_and_reflection_a_model_is_told_and_offered_none_of_it(
    provider: Provider, tmp_path: Path
) -> None:
    played = play(provider, [REPLIES[provider](FINISH)], tmp_path, memory="off", reflection=False)
    request = played.endpoint.requests[0]
    names = {tool.get("name") or tool["function"]["name"] for tool in request["tools"]}
    assert names == {"run_trial", "get_trial", "cancel_trial", "finish_study"}
    assert '"memory"' not in opening_of(played, 0)


def test_a_budget_in_dollars_ends_the_work_and_the_report_says_what_it_cost(provider: Provider, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {read: 1000, written: 10000}\n")
    look: Call = ("read_memory", {"study_id": "s-1"})
    played = play(provider, [REPLIES[provider](look)], tmp_path / "report", max_cost=0.3, prices=prices)
    assert len(played.endpoint.requests) == 2  # 90 read and 10 written: $0.19 a turn
    assert "The budget of $0.3 ended the model's work." in played.page
    assert "The model read 180 tokens and wrote 20, about $0.38." in played.page
    assert played.report["dollars"] == 0.38


def test_an_anonymous_model_is_told_of_no_name_and_its_calls_reach_the_fields(
    provider: Provider, tmp_path: Path
) -> None:
    names = Names(["demo"], [field.name for field in FakeServer().space.fields])
    alias = names.hide("learning_rate")
    asked: Call = ("run_trial", {"study_id": "s-1", "changes": {alias: 0.003}, "hypothesis": f"{alias} up"})
    played = play(provider, [REPLIES[provider](asked), REPLIES[provider](FINISH)], tmp_path, anonymous=True)
    told = json.dumps(
        [played.endpoint.requests[0]["messages"], played.endpoint.requests[0].get("system"), *played.told(1)]
    )
    for name in ("learning_rate", "dropout", "demo", "width of item embeddings"):
        assert name not in told
    assert alias in told
    assert played.report["trials"][1]["changes"] == {"learning_rate": 0.003}
    assert played.report["trials"][1]["hypothesis"] == "learning_rate up"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ('{"loss": 0.69, "dropout": 0.2}', '{"loss": 0.69, "field_01": 0.2}'),
        ('{"loss": "bce"}', '{"field_02": "bce"}'),
        ("the training loss falls; if loss=bce", "the training loss falls; if field_02=bce"),
        ("dropout_x on demo-2 and demo, dropout.", "dropout_x on demo-2 and dataset_1, field_01."),
        ("", ""),
    ],
)
def test_names_are_hidden_where_they_are_names(text: str, hidden: str) -> None:
    names = Names(["demo"], ["dropout", "loss"])
    assert names.hide(text) == hidden
    assert names.restore({"text": hidden, "n": 1}) == {"text": text, "n": 1}


def test_a_dry_run_prints_the_prompt_and_trains_and_asks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in dialogue.KEYS.values():
        monkeypatch.delenv(name)
    server = FakeServer()
    plan = plan_for(policy="llm", model=ModelPlan("none", "anthropic", dry_run=True), max_trials=4)
    assert run_drive(plan, server.connect, tmp_path, None, False) == 0
    out, err = capsys.readouterr()
    assert "tunes a sasrec sequential recommender on the dataset `demo`" in out
    assert '"snapshot_id": "m-1"' in out
    assert re.search(r"--- about [\d,]+ tokens: system \d+, tools [\d,]+, user [\d,]+\n$", out)
    assert "--resume s-1" in err
    assert (server.trials, server.finishes) == ({}, 0)


def test_several_trials_of_one_turn_are_trained_side_by_side_where_that_was_asked_for(
    provider: Provider, tmp_path: Path
) -> None:
    calls = [("run_trial", {"study_id": "s-1", "changes": {"learning_rate": rate}}) for rate in (0.002, 0.003)]
    played = play(provider, [REPLIES[provider](*calls), REPLIES[provider](FINISH)], tmp_path, max_trials=4, parallel=2)
    assert [json.loads(text)["changes"] for text in played.told(1)] == [
        {"learning_rate": 0.002},
        {"learning_rate": 0.003},
    ]
    assert "Up to 2 run_trial calls in one turn are trained side by side." in opening_of(played, 0)


def test_a_price_is_that_of_the_longest_name() -> None:
    mini, large = price_of("gpt-5-mini-2025"), price_of("gpt-5-2025")
    assert mini is not None
    assert large is not None
    assert mini.read < large.read
    assert price_of("llama") is None


@pytest.mark.parametrize("text", ["m: 3", "- m", "{"])
def test_a_file_that_lists_no_prices_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(PlanError, match=r"p\.yaml is no list of"):
        price_of("m", file)


def test_a_transcript_is_replayed_as_the_model_that_it_was(provider: Provider, tmp_path: Path) -> None:
    other: Call = ("run_trial", {"study_id": "s-1", "changes": {"dropout": 0.3}, "parent": "t-1"})
    note: Call = ("write_heuristic", {"study_id": "s-1", "kind": "reflection", "text": "So.", "evidence": ["t-2"]})
    replies = [REPLIES[provider](TRIAL, text="Faster."), REPLIES[provider](other), REPLIES[provider](note)]
    first = play(provider, [*replies, REPLIES[provider](FINISH)], tmp_path / "first", max_trials=4)
    transcript = tmp_path / "first" / "transcript.jsonl"
    text = transcript.read_text().replace("t-1", "t-old1").replace("t-2", "t-old2").replace("s-1", "s-old")
    transcript.write_text(text)
    plan = plan_for(policy="llm", model=ModelPlan("replay", "replay", replay=transcript), max_trials=4)
    server = FakeServer()
    assert run_drive(plan, server.connect, tmp_path, tmp_path / "again", False) == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    for name in ("trials", "heuristics", "best"):
        assert again[name] == first.report[name]


def test_what_is_no_transcript_is_said(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    for content in ("{", '{"role": "user", "text": "hi"}\n'):
        file.write_text(content)
        with pytest.raises(ModelFailed, match=r"t\.jsonl is no transcript\.jsonl of a drive"):
            open_dialogue(ModelPlan("replay", "replay", replay=file))


def test_ten_trials_are_played_through_whatever_a_model_and_its_endpoint_do(provider: Provider, tmp_path: Path) -> None:
    reply, stop = REPLIES[provider], {"anthropic": "max_tokens", "openai": "length"}[provider]
    refusal = {"anthropic": "refusal", "openai": "content_filter"}[provider]
    rates = [round(0.0011 + 0.0002 * step, 4) for step in range(9)]

    def trial(rate: float) -> Call:
        return "run_trial", {"study_id": "s-1", "changes": {"learning_rate": rate}, "hypothesis": f"rate {rate}"}

    garbled: Call = ("run_trial", {"study_id": "s-1", "changes": "all of them"})
    if provider == "openai":
        garbled = ("run_trial", '{"study_id": "s-1", "changes": {')
    note: Call = ("write_heuristic", {"study_id": "s-1", "kind": "reflection", "text": "So.", "evidence": ["t-1"]})
    replies: list[Reply] = [
        error_reply(provider, 429, "slow down"),
        reply(("read_memory", {"study_id": "s-1"}), text="What is known?"),
        reply(trial(rates[0])),
        reply(note, trial(rates[1]), text="Best so far: t-1."),
        reply(garbled),
        reply(("run_trail", {"study_id": "s-1"})),
        reply(("run_trial", {"study_id": "s-other", "changes": {}})),
        reply(text="I would rather not.", stop=refusal),
        reply(trial(0.5)),  # out of bounds
        reply(trial(rates[2]), stop=stop),  # cut off, so it is not run
        *[reply(trial(rate)) for rate in rates[2:]],
        reply(FINISH),
    ]
    played = play(provider, replies, tmp_path, max_trials=10)
    configurations = {trial["number"] for trial in played.report["trials"]}
    assert len(configurations) == 10
    tried = [trial["changes"].get("learning_rate") for trial in played.report["trials"] if trial["number"]]
    assert tried == rates
    assert played.server.finishes == 1
    failed = [line["text"] for line in played.transcript if line["role"] == "tool" and line["failed"]]
    assert len(failed) == 5
    for words, text in zip(
        ("", "run_trail", "study_id must be 's-1'", "learning_rate", "cut off"), failed, strict=True
    ):
        assert words in text
    assert [item["text"] for item in played.report["heuristics"]] == ["A higher rate helped.", "So."]
