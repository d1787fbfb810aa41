"""A model whose endpoint misbehaves: the drive goes on, or it ends with a study that can be gone on with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.drive.llm.context import LENGTHS
from server.drive.llm.dialogue import ContextTooLong, ModelFailed, is_here, open_dialogue, refused
from server.drive.llm.reading import DEEPEST, clean, members, read_arguments, tokens, tool_calls
from server.drive.llm.transcript import Transcript
from server.drive.plan import ModelPlan, Provider
from server.drive.run import run_drive
from server.drive.state import Drive
from tests.support.fake_endpoint import Never, Raw, Reply
from tests.support.fake_server import FakeServer
from tests.support.model_drives import Played, play
from tests.support.model_replies import (
    CUT_OFF,
    REPLIES,
    Call,
    as_text,
    error_reply,
    given_arguments,
    misbehaviours,
    trial,
    with_ids,
    with_usage,
)
from tests.support.owners import run
from tests.support.plans import plan_for

FINISH: Call = ("finish_study", {"study_id": "s-1", "summary": "A higher rate helped."})
NAMES = sorted(misbehaviours("openai"))
WORKS = {
    "half a character", "arguments as an object", "arguments as text", "a string in a string", "null arguments",
    "usage with nulls", "no usage", "usage that is text", "null ids", "one id for all", "NaN",
}  # fmt: skip
"""Ways in which the model's work can be understood all the same."""


def forty_turns(provider: Provider, answer: Callable[[int], Reply], folder: Path, **more: Any) -> Played:
    turns = iter(range(1000))
    options: dict[str, Any] = {"max_trials": 200, "max_turns": 40, **more}
    return play(provider, lambda request: answer(next(turns)), folder, **options)


@pytest.mark.parametrize("name", NAMES)
def test_forty_misbehaving_turns_end_in_a_finished_or_a_resumable_study(
    name: str, provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played = forty_turns(provider, misbehaviours(provider)[name], tmp_path)
    said = " ".join([*capsys.readouterr(), played.page, played.failure or ""])
    assert "Traceback" not in said
    assert "server went away" not in said
    if name in WORKS:
        assert (played.failure, played.server.finishes) == (None, 1)
        assert len(played.endpoint.requests) == 40
        return
    assert played.failure is not None
    assert "\n" not in played.failure
    assert played.endpoint.url in played.failure
    assert "study s-1 is kept, unfinished: `virtualmle drive --resume s-1" in played.failure
    assert (played.server.finishes, played.report["test_reveal"]) == (0, None)
    assert {one["number"] for one in played.report["trials"]} == {0}


@pytest.mark.parametrize("name", NAMES)
def test_a_drive_goes_on_after_one_turn_that_can_be_survived(name: str, provider: Provider, tmp_path: Path) -> None:
    bad = misbehaviours(provider)[name]
    answers: list[Callable[[int], Reply]] = [
        lambda turn: REPLIES[provider](trial(50)), bad, lambda turn: REPLIES[provider](FINISH),
    ]  # fmt: skip
    turns = iter(range(100))
    played = play(provider, lambda request: answers[min(turn := next(turns), 2)](turn), tmp_path, max_trials=9)
    unusable = {
        "HTML", "no JSON", "a list", "an empty body", "no answer in it", "bytes", "deep JSON", "a redirect", "refused",
    }  # fmt: skip
    assert (played.failure is not None) == (name in unusable), played.failure
    assert played.server.finishes == (0 if name in unusable else 1)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (
            {"text": "<tool_call>"},
            "called no tool. If its text holds calls, the endpoint does not parse them",
        ),
        ({"text": "Hm", "stop": "cut"}, "were cut at their maximum length: raise the endpoint's token limit"),
        ({"calls": (trial(1),), "stop": "cut"}, "were cut at their maximum length: raise the endpoint's token limit"),
        ({"calls": (("fly", {}),)}, "All 5 calls of the model were refused; transcript.jsonl says why."),
    ],
)
def test_where_the_model_did_nothing_the_test_stays_sealed_and_a_hint_is_given(
    answer: dict[str, Any], hint: str, provider: Provider, tmp_path: Path
) -> None:
    stop = CUT_OFF[provider] if answer.get("stop") else None
    reply = REPLIES[provider](*answer.get("calls", ()), text=answer.get("text", ""), stop=stop)
    played = play(provider, [reply], tmp_path, max_turns=5)
    assert played.failure is not None
    assert hint in played.failure
    assert (played.server.finishes, played.report["test_reveal"]) == (0, None)
    assert len(played.endpoint.requests) == (2 if "text" in answer else 3 if stop else 5)


def test_a_model_that_worked_and_is_then_cut_leaves_the_study_open(provider: Provider, tmp_path: Path) -> None:
    cut = REPLIES[provider](text="Let me think", stop=CUT_OFF[provider])
    played = play(provider, [REPLIES[provider](trial(1)), cut], tmp_path)
    assert "were cut at their maximum length" in (played.failure or "")
    assert played.server.finishes == 0


def test_an_answer_that_is_cut_once_is_asked_for_again(provider: Provider, tmp_path: Path) -> None:
    cut = REPLIES[provider](trial(1), stop=CUT_OFF[provider])
    replies = [cut, cut, REPLIES[provider](trial(1)), cut, cut, REPLIES[provider](FINISH)]
    played = play(provider, replies, tmp_path)
    assert (played.failure, played.server.finishes) == (None, 1)


@pytest.mark.parametrize(("budget", "words"), [({"max_tokens": 150}, "token budget"), ({"max_turns": 1}, "1 turns")])
def test_a_budget_that_ends_a_model_that_did_nothing_leaves_the_study_open(
    budget: dict[str, Any], words: str, provider: Provider, tmp_path: Path
) -> None:
    played = play(provider, [REPLIES[provider](("fly", {}))], tmp_path, **budget)
    assert words in (played.failure or "")
    assert played.server.finishes == 0


@pytest.mark.parametrize("before", [0, 1])
def test_the_time_budget_bounds_the_wait_for_the_model(
    before: int, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[int] = []

    def answer(request: dict[str, Any]) -> Reply:
        answered.append(1)
        return REPLIES[provider](trial(1)) if len(answered) <= before else (200, Never())

    monkeypatch.setattr(Drive, "seconds_left", lambda drive: 0.2 if len(answered) >= before else None)
    played = play(provider, answer, tmp_path)
    if before:
        assert "The time budget ended the model's work." in played.page
        assert (played.failure, played.server.finishes) == (None, 1)
    else:
        assert "The time budget ended the model's work. The model called no tool." in (played.failure or "")
        assert played.server.finishes == 0


def test_what_is_left_of_a_budget_is_never_below_nothing(tmp_path: Path) -> None:
    view: Any = None
    assert Drive(plan_for(budget_seconds=None), view).seconds_left() is None
    ended = Drive(plan_for(budget_seconds=5), view, began=-1e9)
    assert (ended.seconds_left(), ended.spent()) == (0, True)
    left = Drive(plan_for(budget_seconds=1e6), view)
    assert (left.seconds_left() or 0) > 9e5
    assert not left.spent()


def history(played: Played, request: int) -> str:
    return json.dumps(played.endpoint.requests[request]["messages"])


def test_what_is_wrong_never_goes_back_into_the_history(provider: Provider, tmp_path: Path) -> None:
    nan = as_text(given_arguments(provider, "run_trial", {"changes": {"learning_rate": float("inf")}}))
    half = as_text(given_arguments(provider, "run_trial", {"study_id": "s-1", "hypothesis": "\ud83d"}))
    ids = with_ids(provider, None, trial(1), trial(2))
    played = play(provider, [nan, half, ids, REPLIES[provider](FINISH)], tmp_path, max_trials=9)
    assert "arguments are not JSON" in played.told(1)[0]
    assert "no JSON number" in played.told(1)[0]
    for request in range(1, 4):
        sent = history(played, request)
        assert "Infinity" not in sent
        assert "\\ud83d" not in sent
        assert '"id": null' not in sent
    known = re.findall(r'"(call-[\d-]+)"', history(played, 3))
    assert len(set(known)) == 2
    assert len(known) == 4  # each call and its result
    assert [json.loads(text)["trial_id"] for text in played.told(3)] == ["t-3", "t-4"]


@pytest.mark.parametrize("wrapped", ["object", "text", "twice"])
def test_arguments_are_taken_in_every_wrapping(wrapped: str, provider: Provider, tmp_path: Path) -> None:
    given: Any = trial(5)[1]
    given = json.dumps(given) if wrapped != "object" else given
    given = json.dumps(given) if wrapped == "twice" else given
    played = play(provider, [given_arguments(provider, "run_trial", given), REPLIES[provider](FINISH)], tmp_path)
    assert played.report["trials"][1]["changes"] == {"learning_rate": 0.0016}


def limited(provider: Provider, most: int, replies: list[Reply]) -> Callable[[dict[str, Any]], Reply]:
    """An endpoint whose context holds `most` characters."""
    waiting = list(replies)

    def answer(request: dict[str, Any]) -> Reply:
        if len(json.dumps(request["messages"])) > most:
            return error_reply(provider, 400, f"This model's maximum context length is {most} tokens.")
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return answer


def test_a_context_that_is_too_short_is_begun_anew_in_fewer_words(provider: Provider, tmp_path: Path) -> None:
    steps = [REPLIES[provider](trial(turn, hypothesis=f"step {turn}")) for turn in range(30)]
    played = play(
        provider, limited(provider, 24_000, [*steps, REPLIES[provider](FINISH)]), tmp_path, max_trials=40, max_turns=99
    )  # fmt: skip
    assert (played.failure, played.server.finishes, played.report["trainings"]) == (None, 1, 33)
    assert "The dialogue goes on with a shorter context." in played.page
    assert "maximum context length is 24000 tokens" in played.page


def test_a_context_that_holds_no_study_is_told_and_the_study_stays_open(provider: Provider, tmp_path: Path) -> None:
    played = play(provider, limited(provider, 500, [REPLIES[provider](FINISH)]), tmp_path)
    assert len(played.endpoint.requests) == len(LENGTHS)
    sizes = [len(json.dumps(request["messages"])) for request in played.endpoint.requests]
    assert sizes == sorted(sizes, reverse=True)
    assert "takes no request of this length (HTTP 400: " in (played.failure or "")
    assert "lower --max-context" in (played.failure or "")
    assert played.server.finishes == 0


@pytest.mark.parametrize(
    ("status", "words", "too_long"),
    [
        (400, "This model's maximum context length is 8192 tokens.", True),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", True),
        (400, "the request exceeds the available context size, try increasing it", True),
        (400, "Input length exceeds the context window of this model", True),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096", True),
        (413, "Request Entity Too Large", True),
        (400, "unknown parameter: tools", False),
        (500, "maximum context length", False),
    ],
)
def test_a_request_that_is_too_long_is_told_from_other_refusals(status: int, words: str, too_long: bool) -> None:
    found = refused(ModelPlan("m", "openai", "http://h/v1"), status, words)
    assert isinstance(found, ContextTooLong) is too_long
    assert "http://h/v1" in str(found)


def test_a_resumed_drive_goes_on_with_its_transcript_and_its_tokens(provider: Provider, tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    transcript.add("assistant", text="", calls=[], tokens=100, read=90)
    transcript.add("assistant", text="", calls=[], tokens=50)  # of an earlier version
    with (tmp_path / "transcript.jsonl").open("a") as file:
        file.write('"no turn"\n{"role": "assistant"}\n{"role": "assist')  # the process was killed
    again = Transcript(tmp_path, goes_on=True)
    again.add("assistant", text="", calls=[], tokens=10, read=4)
    usage = again.usage(None)
    assert (usage.read, usage.written) == (144, 16)
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[-1])["read"] == 4
    assert Transcript(tmp_path).usage(None).tokens == 0


@pytest.mark.parametrize(
    ("given", "arguments", "problem"),
    [
        ({"a": [1, "x", None, True, 2.5]}, {"a": [1, "x", None, True, 2.5]}, None),
        ('{"a": 1}', {"a": 1}, None),
        (' "{\\"a\\": 1}" ', {"a": 1}, None),
        (None, {}, None),
        ("", {}, None),
        (" ", {}, None),
        ("null", {}, None),
        ({"\ud83d": "\ude00"}, {"\ufffd": "\ufffd"}, None),
        ("[1]", {}, "arguments must be a JSON object; got '[1]'."),
        (3, {}, "arguments must be a JSON object; got '3'."),
        ('"text"', {}, "arguments are not JSON (Expecting value"),
        ('{"a": NaN}', {}, "arguments are not JSON (NaN is no JSON number); send one JSON object."),
        ('{"a": -Infinity}', {}, "arguments are not JSON (-Infinity is no JSON number)"),
        ({"a": [float("nan")]}, {}, "arguments are not JSON (nan is no JSON number)"),
        ('{"a": ' + "[" * 1500 + "]" * 1500 + "}", {}, "arguments are not JSON (nested too deeply)"),
        ('{"a": ' + "9" * 5000 + "}", {}, "arguments are not JSON (Exceeds the limit"),
    ],
)
def test_arguments_are_read_or_told(given: Any, arguments: dict[str, Any], problem: str | None) -> None:
    found, told = read_arguments(given)
    assert found == arguments
    assert (told is None) == (problem is None)
    assert (told or "").startswith(problem or "")


def test_arguments_may_be_nested_as_deep_as_a_claim_and_no_deeper() -> None:
    def nested(levels: int) -> Any:
        return {"a": nested(levels - 1)} if levels else 1

    assert read_arguments(nested(DEEPEST)) == (nested(DEEPEST), None)
    assert read_arguments(nested(DEEPEST + 1))[1] == "arguments are not JSON (nested too deeply); send one JSON object."


def test_calls_get_ids_of_their_own_where_they_have_none() -> None:
    calls = tool_calls([("a", "x", {}), (None, None, {}), ("a", "y", {}), ("", "z", {}), (7, "w", {})], 3)
    assert [call.id for call in calls] == ["a", "call-3-1", "call-3-2", "call-3-3", "call-3-4"]
    assert [call.name for call in calls] == ["x", "", "y", "z", "w"]


@pytest.mark.parametrize(
    ("usage", "counted"),
    [({"n": 5}, 5), ({"n": 0}, 0), ({"n": 2.0}, 2), ({"n": None}, 3), ({"n": -1}, 3), ({"n": "5"}, 3), (None, 3),
     ({"n": True}, 3), ({"n": float("inf")}, 3), ([], 3)],
)  # fmt: skip
def test_tokens_that_are_not_counted_are_guessed(usage: object, counted: int) -> None:
    assert tokens(usage, "n", "x" * 13) == counted


def test_only_texts_and_objects_are_read() -> None:
    assert (clean(None), clean(3), clean("a\ud800b")) == ("", "", "a\ufffdb")
    assert (members(None), members([1, {"a": 1}, None]), members({"a": 1})) == ([], [{"a": 1}], [])


def test_tokens_that_an_endpoint_does_not_count_still_fill_the_budget(provider: Provider, tmp_path: Path) -> None:
    look = with_usage(provider, None, ("read_memory", {"study_id": "s-1"}))
    played = play(provider, [look], tmp_path, max_tokens=30_000)
    assert "The token budget of 30,000 ended the model's work." in played.page
    assert 1 < len(played.endpoint.requests) < 30


@pytest.mark.parametrize("key", ["sk-a\nb", "sk a", "sk-ä", "sk-\x07"])
def test_a_key_that_no_header_can_hold_is_told_and_not_shown(
    key: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable = f"{provider.upper()}_API_KEY"
    monkeypatch.setenv(variable, key)
    with pytest.raises(ModelFailed, match=f"^{variable} holds a blank, a line break") as told:
        open_dialogue(ModelPlan("m", provider, "http://127.0.0.1:9"))
    assert key not in str(told.value)
    file = tmp_path / "key"
    file.write_text(key)
    with pytest.raises(ModelFailed, match="must hold one key and nothing else"):
        open_dialogue(ModelPlan("m", provider, "http://127.0.0.1:9", key_file=file))


def test_blanks_and_a_mark_around_a_key_are_none_of_it(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", " sk-x\r\n")
    file = tmp_path / "key"
    file.write_text("\ufeffsk-x\n", encoding="utf-8")
    ways: list[dict[str, Any]] = [{}, {"key_file": file}]
    for more in ways:
        played = play(provider, [REPLIES[provider](FINISH)], tmp_path / "r", **more)
        sent = played.endpoint.headers[0]
        assert "sk-x" in (sent.get("x-api-key"), sent.get("authorization", "").removeprefix("Bearer "))


def test_an_endpoint_on_this_machine_is_asked_without_a_proxy(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    assert play(provider, [REPLIES[provider](FINISH)], tmp_path).server.finishes == 1
    assert not is_here(ModelPlan("m", provider, "https://host.invalid/v1"))
    with pytest.raises(ModelFailed, match="names a proxy for other machines that cannot be used: it is a SOCKS proxy"):
        open_dialogue(ModelPlan("m", provider, "https://host.invalid/v1"))
    monkeypatch.setenv(f"{provider.upper()}_BASE_URL", "http://localhost:1")
    assert is_here(ModelPlan("m", provider))


def test_what_is_no_json_is_shown_with_the_endpoint(provider: Provider, tmp_path: Path) -> None:
    played = play(provider, [(200, Raw(b"<!doctype html>\n <p>\xe2\x82", "text/html"))], tmp_path)
    assert f"{played.endpoint.url}" in (played.failure or "")
    assert "answered no JSON object but '<!doctype html> <p>" in (played.failure or "")
    assert "check --base-url" in (played.failure or "")


def test_an_error_of_the_drive_itself_is_not_blamed_on_the_server(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("server.drive.llm.engineer.run_together", fails)
    played = play(provider, [REPLIES[provider](trial(1))], tmp_path)
    assert (played.failure or "").startswith("The drive failed: by hand The report holds")


def test_a_dry_run_leaves_no_study_and_a_context_has_a_limit_of_its_own(home: Path) -> None:
    dry = run("drive", "--policy", "llm", "--dry-run", "--max-context", "9000", "--home", home)
    assert (dry.returncode, dry.stderr.splitlines()[-1]) == (0, "Nothing was trained and no model asked.")
    assert json.loads(run("study", "list", "--json", "--home", home).stdout) == []
    options = ModelPlan("m", "openai", max_context=9000).options()
    assert options[-2:] == ["--max-context", "9000"]


def test_a_server_that_keeps_the_study_of_a_dry_run_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer()
    plan = plan_for(policy="llm", model=ModelPlan("none", "anthropic", dry_run=True))
    assert run_drive(plan, server.connect, tmp_path, None, False) == 0
    assert "this server keeps the study, which `virtualmle drive --resume s-1" in capsys.readouterr().err
