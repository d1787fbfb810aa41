"""Studies in a replay home, through the tools: their space, their answers, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from server.cli.replay_home import open_replay_home
from server.owner.assembly import open_runtime
from server.replay.marker import ReplayHomeError
from server.replay.tables import TEST
from server.settings import Settings
from server.tools.app import INSTRUCTIONS, create_app
from tests.support.recorded_tables import recorded_tables
from tests.support.texts import resource_text, text

pytestmark = pytest.mark.anyio
NOTICE = "Replay: results come from recorded trainings, and nothing is trained."


class ReplayClient:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.client.call_tool(tool, arguments)
        assert not answer.is_error, answer.content
        assert answer.structured_content is not None
        return answer.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        answer = await self.client.call_tool(tool, arguments)
        assert answer.is_error, answer.structured_content
        return text(answer)

    async def study(self, **arguments: Any) -> str:
        return (await self.call("start_study", dataset="log", **arguments))["study_id"]


@asynccontextmanager
async def replay_client(home: Path, tables: Path) -> AsyncGenerator[ReplayClient]:
    settings = Settings(home=home)
    open_replay_home(settings, tables)
    async with open_runtime(settings) as runtime, Client(create_app(runtime)) as client:
        yield ReplayClient(client)


async def test_a_study_runs_on_the_tables_and_every_answer_says_so(home: Path, tmp_path: Path) -> None:
    async with replay_client(home, recorded_tables(tmp_path / "tables")) as at:
        assert at.client.instructions == f"{INSTRUCTIONS}\n{NOTICE}"
        listed = await at.call("list_datasets")
        assert listed["replay"] == NOTICE
        assert [(line["name"], line["recorded"]) for line in listed["datasets"]] == [("log", ["sasrec"])]
        started = await at.call("start_study", dataset="log")
        brief, study_id = started["brief"], started["study_id"]
        assert set(brief["space"]) == {"hidden_dim", "dropout"}
        assert {name: brief["default"][name] for name in ("hidden_dim", "dropout", "patience")} == {
            "hidden_dim": 32, "dropout": 0.5, "patience": 7,
        }  # fmt: skip
        first = await at.call("run_trial", study_id=study_id, wait_seconds=30)
        better = await at.call(
            "run_trial", study_id=study_id, changes={"hidden_dim": 64, "dropout": 0.2}, wait_seconds=30
        )
        shown = ("status", "seed", "replayed", "message", "seconds", "best_epoch")
        assert [first[name] for name in shown] == ["ok", 1, "recorded", "replayed from a recorded training", 30.0, 2]
        assert (first["metrics"], better["metrics"]) == ({"ndcg@10": 0.1}, {"ndcg@10": 0.3})
        assert [point["epoch"] for point in better["curve"]] == [1.0, 2.0]
        drawn = await at.call("run_trial", study_id=study_id, replicate_of=better["trial_id"], seed=9, wait_seconds=30)
        assert (drawn["replayed"], drawn["curve"]) == ("simulated seed", [])
        assert drawn["message"].startswith("replayed with a simulated seed: seed 9 was not recorded")
        ended = await at.call("finish_study", study_id=study_id, wait_seconds=30)
        assert ended["replay"] == NOTICE
        assert ended["default"]["test"] == {"ndcg@10": 0.05}
        assert "checkpoint" not in ended
        page = resource_text(await at.client.read_resource(f"virtualmle://studies/{study_id}/page"))
        assert json.loads(page)["replay"] == brief["replay"]
        memory = await at.call("read_memory", level="trial")
        assert sorted(item["text"].partition("(")[2].partition(")")[0] for item in memory["items"]) == [
            "seed 1, replay: recorded", "seed 1, replay: recorded", "seed 9, replay: simulated seed",
        ]  # fmt: skip
        assert [line["replayed"] for line in (await at.call("read_memory"))["studies"]] == [True]


async def test_the_brief_says_what_was_moved(home: Path, tmp_path: Path) -> None:
    async with replay_client(home, recorded_tables(tmp_path / "tables")) as at:
        words = (await at.call("start_study", dataset="log", preset="paper"))["brief"]["replay"]
        assert words == (
            f"{NOTICE} The space holds the 3 recorded configurations, with the seeds 1, 2; another seed is drawn "
            "around their mean, and the answer says `simulated seed`. Limits in seconds count the wall clock. Fields "
            "other than hidden_dim, dropout, patience are not in the tables and stand at their defaults. The preset "
            "'paper' itself was not recorded: the default is the nearest recorded configuration, with hidden_dim 128 → "
            "64, patience 3 → 7. The study begins with seed 1, since seed 0 was not recorded."
        )
        chosen = await at.call("start_study", dataset="log", seed=2)
        assert "begins with seed" not in chosen["brief"]["replay"]
        drawn = await at.call("start_study", dataset="log", seed=7)
        trial = await at.call("run_trial", study_id=drawn["study_id"], wait_seconds=30)
        assert (trial["seed"], trial["replayed"]) == (7, "simulated seed")
        again = await at.call("run_trial", study_id=await at.study(seed=7), wait_seconds=30)
        assert again["metrics"] == trial["metrics"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dataset": "demo"}, "'demo' was not recorded, and a replay home trains nothing; recorded are log."),
        (
            {"dataset": "log", "backbone": "hstu"},
            "'hstu' was not recorded on 'log', and a replay home trains nothing; recorded there: sasrec.",
        ),
        (
            {"dataset": "log", "metric": "mrr@10"},
            "mrr@10 was not recorded for sasrec on 'log'; recorded are ndcg@10.",
        ),
        (
            {"dataset": "log", "filter_seen": "no"},
            "filter_seen='no' cannot be chosen here: recorded trainings keep the filter that they were ranked with. "
            "Leave it out.",
        ),
        (
            {"dataset": "log", "guardrails": {"coverage@10": {"min": 0.2}}},
            "coverage@10 was not recorded, so nothing could be held to a guardrail on it; recorded are ndcg@10, "
            "parameters.",
        ),
        ({"dataset": "log", "space": {"dropout": 0.3}}, "dropout=0.3 is not allowed: dropout is one of 0.2, 0.5."),
        (
            {"dataset": "log", "space": {"dropout": 0.5, "hidden_dim": 64}},
            "No recorded configuration lies in this space: give `space` more choices, or leave it out.",
        ),
    ],
)
async def test_a_study_of_what_was_not_recorded_is_refused(
    asked: dict[str, Any], said: str, home: Path, tmp_path: Path
) -> None:
    async with replay_client(home, recorded_tables(tmp_path / "tables")) as at:
        assert await at.refused("start_study", **asked) == said
        assert (await at.call("read_memory"))["studies"] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"hidden_dim": 64},
            "hidden_dim=64, dropout=0.5 was not recorded, and a replay home trains nothing. 3 configurations were; the "
            'nearest one differs by {"hidden_dim": 32}.',
        ),
        (
            {"dropout": 0.3},
            "dropout=0.3 is not allowed: dropout is one of 0.2, 0.5. A replay home answers recorded configurations "
            "only.",
        ),
        (
            {"num_blocks": 3},
            "num_blocks=3 is not allowed: num_blocks is fixed at 2. A replay home answers recorded configurations "
            "only.",
        ),
    ],
)
async def test_a_trial_that_was_not_recorded_is_refused_before_it_is_stored(
    changes: dict[str, Any], said: str, home: Path, tmp_path: Path
) -> None:
    async with replay_client(home, recorded_tables(tmp_path / "tables")) as at:
        study_id = await at.study()
        assert await at.refused("run_trial", study_id=study_id, changes=changes) == said
        assert (await at.call("get_study", study_id=study_id))["trainings"] == 0


async def test_tables_without_a_test_end_a_study_on_validation(home: Path, tmp_path: Path) -> None:
    async with replay_client(home, recorded_tables(tmp_path / "tables", test=False)) as at:
        study_id = await at.study()
        await at.call("run_trial", study_id=study_id, wait_seconds=30)
        ended = await at.call("finish_study", study_id=study_id, wait_seconds=30)
        assert (ended["status"], ended["words"]) == (
            "finished",
            "The recorded tables hold no test, so none was revealed: the choice rests on validation alone.",
        )
        assert (ended["chosen"]["validation"], ended["chosen"]["test"]) == ({"ndcg@10": 0.1}, {})
        assert "test_reveal" not in ended
        assert "is finished" in await at.refused("run_trial", study_id=study_id, changes={"dropout": 0.2})


async def test_nothing_reads_the_test_before_the_end(home: Path, tmp_path: Path) -> None:
    tables = recorded_tables(tmp_path / "tables")
    sealed = (tables / TEST).read_bytes()
    async with replay_client(home, tables) as at:
        study_id = await at.study()
        (tables / TEST).write_bytes(b"unreadable")
        await at.call("run_trial", study_id=study_id, wait_seconds=30)
        for tool in ("get_study", "read_memory", "suggest_trial"):
            await at.call(tool, study_id=study_id)
        assert "cannot be read as a table" in await at.refused("finish_study", study_id=study_id, wait_seconds=30)
        (tables / TEST).write_bytes(sealed)
        ended = await at.call("finish_study", study_id=study_id, wait_seconds=30)
        assert (ended["chosen"]["test"], ended["test_reveal"]) == ({"ndcg@10": 0.05}, 1)


async def test_a_replay_home_without_its_mark_does_not_open(home: Path, tmp_path: Path) -> None:
    async with replay_client(home, recorded_tables(tmp_path / "tables")) as at:
        await at.study()
    (home / "replay.json").unlink()
    with pytest.raises(ReplayHomeError, match=r"holds studies of recorded trainings, and its replay\.json is gone"):
        async with open_runtime(Settings(home=home)):
            pass
