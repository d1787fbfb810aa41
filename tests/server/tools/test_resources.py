"""server.tools.resources: what a client reads beside the tools, and that nobody's ids are in any of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import TextContent

from server.drive.study_client import StudyClient
from tests.support.texts import resource_text
from tests.support.tool_client import ToolClient, tool_client
from trainers.data import add

pytestmark = pytest.mark.anyio


async def read(at: ToolClient, uri: str) -> str:
    return resource_text(await at.client.read_resource(uri))


async def test_the_study_page_is_an_app_of_get_study_and_reads_its_data_from_a_resource(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=study)
        (tool,) = [tool for tool in (await at.client.list_tools()).tools if tool.name == "get_study"]
        assert tool.meta is not None
        uri = tool.meta["ui"]["resourceUri"]
        page = await at.client.read_resource(uri)
        assert page.contents[0].mime_type == "text/html;profile=mcp-app"
        assert "ui/initialize" in resource_text(page)
        data = json.loads(await read(at, f"virtualmle://studies/{study}/page"))
        assert data["study_id"] == study
        assert [trial["number"] for trial in data["trials"]] == [0]


async def test_the_whole_brief_says_what_the_answer_left_out(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        answer = await at.call("start_study", dataset="demo")
        whole = json.loads(await read(at, f"virtualmle://studies/{answer['study_id']}/brief"))
        short = answer["brief"]
        assert whole["space"]["num_negatives"].startswith(short["space"]["num_negatives"] + "; ")
        assert short["baselines"] == {
            name: {"ndcg@10": values["ndcg@10"]} for name, values in whole["baselines"].items()
        }
        assert whole["snapshot_id"] == short["snapshot_id"]


async def test_the_log_of_a_trial_is_its_end(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="demo"))["study_id"]
        trial = (await at.call("run_trial", study_id=study))["trial_id"]
        assert await read(at, f"virtualmle://trials/{trial}/log") == ""
        (tmp_path / "trials" / trial / "trial.log").write_text("begin" + "x" * 65_530 + "\nend\n")
        told = await read(at, f"virtualmle://trials/{trial}/log")
        assert (len(told), told[-5:]) == (65_536, "\nend\n")


async def test_a_snapshot_is_what_a_read_showed(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        first = (await at.call("start_study", dataset="demo"))["study_id"]
        trial = (await at.call("run_trial", study_id=first))["trial_id"]
        note = {"study_id": first, "kind": "heuristic", "text": "Less dropout on short histories.", "evidence": [trial]}
        written = (await at.call("write_heuristic", **note))["heuristic_id"]
        brief = (await at.call("start_study", dataset="demo", withhold=0))["brief"]
        shown = json.loads(await read(at, f"virtualmle://snapshots/{brief['snapshot_id']}"))
        assert [item["id"] for item in shown["notes"]] == [written]
        assert shown["notes"][0]["text"] == "Less dropout on short histories."


async def test_a_dataset_card_says_what_the_import_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"u{n % 5},i{n % 7}\n" for n in range(60)) + "u9,\n")
    add(tmp_path / "datasets", "log", tmp_path / "log.csv")
    async with tool_client(tmp_path) as at:
        card = json.loads(await read(at, "virtualmle://datasets/log"))
    assert (card["name"], card["users"], card["report"]["source"]) == ("log", 5, "log.csv")
    assert sum(card["report"]["dropped"].values()) == 1


@pytest.mark.parametrize(
    "uri",
    ["virtualmle://snapshots/m-none", "virtualmle://datasets/none", "virtualmle://trials/t-none/log",
     "virtualmle://studies/s-none/page", "virtualmle://studies/s-none/brief"],
)  # fmt: skip
async def test_what_is_not_there_is_said_in_one_line(uri: str, tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        with pytest.raises(MCPError) as caught:
            await at.client.read_resource(uri)
    assert "none" in str(caught.value)
    assert "\n" not in str(caught.value)


def strings(found: Any) -> str:
    return found if isinstance(found, str) else json.dumps(found)


async def test_no_answer_no_resource_and_no_prompt_holds_an_id_of_a_user_or_of_an_item(tmp_path: Path) -> None:
    """Ids are recognisable ones; every tool, resource and prompt is asked for once a study is finished."""
    lines = [
        f"person{user:04}x " + " ".join(f"thing{(user * step) % 53:04}y" for step in range(1, 9))
        for user in range(1, 80)
    ]
    lines.append("person0bot " + "thing0001y thing0002y " * 2_000)
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    add(tmp_path / "datasets", "log", tmp_path / "log.txt")
    said: dict[str, str] = {}
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="log"))["study_id"]
        trial = (await at.call("run_trial", study_id=study))["trial_id"]
        await at.call("run_trial", study_id=study, changes={"dropout": 0.1}, hypothesis="less")
        note = {"study_id": study, "kind": "heuristic", "text": "Less dropout.", "evidence": [trial]}
        said["write_heuristic"] = strings(await at.call("write_heuristic", **note))
        said["finish_study"] = strings(await at.call("finish_study", study_id=study))
        snapshot = at.runtime.memory.snapshots.latest(study)
        by_argument = {
            "study_id": study,
            "trial_id": trial,
            "dataset": "log",
            "backbone": "sasrec",
            "snapshot_id": snapshot,
            "offset": "0",
        }
        for tool in (await at.client.list_tools()).tools:
            needed = tool.input_schema.get("required", [])
            if set(needed) <= set(by_argument) and tool.name not in ("run_trial", "start_study"):
                answer = await at.client.call_tool(tool.name, {name: by_argument[name] for name in needed})
                said[tool.name] = strings([part.text for part in answer.content if isinstance(part, TextContent)])
        for template in (await at.client.list_resource_templates()).resource_templates:
            uri = template.uri_template.format(**by_argument)
            said[uri] = await read(at, uri)
        for prompt in (await at.client.list_prompts()).prompts:
            wanted = {one.name: str(by_argument[one.name]) for one in prompt.arguments or [] if one.name in by_argument}
            said[prompt.name] = (await at.client.get_prompt(prompt.name, wanted)).model_dump_json()
    assert len(said) >= 20
    for name, text in said.items():
        assert "person0" not in text, name
        assert "thing0" not in text, name


@pytest.mark.parametrize("what", ["trials", "notes", "curve"])
async def test_a_long_list_comes_in_pages_that_name_the_next_one(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.tools.resources.PAGE_BYTES", 600)
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        for number in range(4):
            await at.call("run_trial", study_id=study_id, changes={"dropout": number / 10})
            await at.call("write_heuristic", study_id=study_id, kind="reflection", text=f"Note {number}. " + "x" * 200)
        first = f"virtualmle://studies/{study_id}/{what}"
        if what == "curve":
            first = f"virtualmle://trials/{at.runtime.memory.trials(study_id)[-1].trial_id}/curve"
        items: list[Any] = []
        sizes: list[int] = []
        uri: str | None = first
        while uri is not None:
            page = json.loads(await read(at, uri))
            shown = page["epochs" if what == "curve" else what]
            items += shown
            sizes.append(len(shown))
            uri = page["next"]
        assert len(items) == {"trials": 4, "notes": 4, "curve": 3}[what]
        assert len(sizes) > 1
        assert len({json.dumps(item) for item in items}) == len(items)
        if what != "curve":
            client = StudyClient(at.client, lambda epochs, most: None, 1)
            await client.reopen(study_id)
            assert len(await (client.stored_trials() if what == "trials" else client.notes())) == 4
        with pytest.raises(MCPError):
            await at.client.read_resource(f"{first}/{'9' * 5000}")
