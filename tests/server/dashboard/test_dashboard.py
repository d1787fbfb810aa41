"""server.dashboard: the numbers of a study's pictures, and the picture in the chat."""

import base64
import hashlib
import re
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.types import ImageContent

from server.auth import Token, Tokens
from server.charts import png
from server.charts.numbers import numbers
from server.owner.activity import Activity
from server.owner.web import build_web
from tests.support.texts import text_in
from tests.support.tool_client import ToolClient, tool_client

pytestmark = pytest.mark.anyio
SPACE = {"dropout": [0.1, 0.3, 0.5], "num_blocks": [1, 2, 3], "learning_rate": [0.0003, 0.001, 0.003]}


async def played(at: ToolClient, trials: int) -> str:
    study = (await at.call("start_study", dataset="demo", space=SPACE))["study_id"]
    if trials:
        await at.call("run_policy", study_id=study, policy="random", max_trials=trials)
        await at.call("get_study", study_id=study, wait_seconds=200)
    return study


async def drawn(at: ToolClient, study: str) -> tuple[int, int]:
    """Width and height of the PNG."""
    answer = await at.client.call_tool("plot_study", {"study_id": study})
    assert answer.structured_content is None
    image, told = answer.content
    assert isinstance(image, ImageContent)
    assert study in text_in(told)
    data = base64.b64decode(image.data)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("trials", [0, 1, 10])
async def test_a_study_of_any_length_is_drawn_in_one_size(tmp_path: Path, trials: int) -> None:
    async with tool_client(tmp_path) as at:
        assert await drawn(at, await played(at, trials)) == (990, 704)


async def test_the_numbers_are_those_of_the_books(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = at.runtime.memory.study(await played(at, 10))
        found = numbers(at.runtime.memory, study)
        trials = at.runtime.memory.trials(study.study_id)
        assert [point.score for point in found.series.points] == [one.validation["ndcg@10"] for one in trials]
        bests = [point.best or 0.0 for point in found.series.points]
        assert bests[-1] == max(bests)
        assert sum(share for _, share in found.shares) == pytest.approx(1)
        assert "dropout" in dict(found.shares)
        assert {curve.role for curve in found.curves} == {"best", "default", "other"}
        assert found.curves[0].epochs == (1, 2, 3)
        assert found.curves[0].scores[-1] == pytest.approx(found.series.points[0].score)


async def test_a_server_without_matplotlib_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    async with tool_client(tmp_path) as at:
        refusal = await at.refused("plot_study", study_id=await played(at, 0))
        assert refusal == "plot_study needs matplotlib on the server: pip install 'virtualmle[plot]'."


def test_roles_have_colours_of_their_own() -> None:
    colours: list[Any] = [colour for colour, _, _ in png.ROLES.values()]
    assert len(set(colours)) == len(colours)


@asynccontextmanager
async def page(home: Path, required: bool = True) -> AsyncIterator[tuple[ToolClient, httpx2.AsyncClient]]:
    """The owner's HTTP app over a home, as a browser on this machine sees it."""
    tokens = Tokens(Token("private", "owner"), (Token("looks", "page", "read"),), required)
    async with tool_client(home) as at:
        app = build_web(at.runtime, tokens, Activity(), ())
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8000", trust_env=False
        ) as http:
            yield at, http


LOOKS = {"authorization": "Bearer looks"}


async def test_the_page_holds_no_data_and_may_run_nothing_but_its_own_script(tmp_path: Path) -> None:
    async with page(tmp_path) as (at, http):
        study = await played(at, 1)
        found = await http.get("/")
        assert found.status_code == 200
        assert study not in found.text
        policy = found.headers["content-security-policy"]
        for tag in ("script", "style"):
            (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", found.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy
        assert "http://" not in found.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in found.text
        assert "innerHTML" not in found.text


async def test_the_data_want_a_token_and_a_host_that_is_admitted(tmp_path: Path) -> None:
    async with page(tmp_path) as (at, http):
        study = await played(at, 2)
        for path in ("/page/studies", f"/page/studies/{study}"):
            assert (await http.get(path)).status_code == 401
            assert (await http.get(path, headers={**LOOKS, "host": "evil.example"})).status_code == 421
        (line,) = (await http.get("/page/studies", headers=LOOKS)).json()
        assert (line["study_id"], line["trainings"]) == (study, len(at.runtime.memory.trials(study)))
        missing = await http.get("/page/studies/s-none", headers=LOOKS)
        assert (missing.status_code, "s-none" in missing.json()["error"]) == (404, True)


async def test_a_study_is_told_whole_and_its_test_only_once_it_is_finished(tmp_path: Path) -> None:
    async with page(tmp_path, required=False) as (at, http):
        study = await played(at, 3)
        note = "Less <b>dropout</b> helps."
        await at.call("write_heuristic", study_id=study, kind="heuristic", text=note)
        found = (await http.get(f"/page/studies/{study}")).json()
        assert [line["number"] for line in found["table"]] == [
            line["number"] for line in (await at.call("get_study", study_id=study, limit=50))["table"]
        ]
        assert len(found["trials"]) == found["trainings"] == len(found["numbers"]["series"]["points"])
        assert found["ending"] is None
        assert note in [one["text"] for one in found["notes"]]
        await at.call("finish_study", study_id=study)
        ended = (await http.get(f"/page/studies/{study}")).json()
        assert "tested on" in ended["ending"]
        assert ended["status"] == "finished"


async def test_the_page_token_may_look_and_not_train(tmp_path: Path) -> None:
    tokens = Tokens(Token("private", "owner"), (Token("looks", "page", "read"),))
    found = await tokens.verify_token("looks")
    assert found is not None
    assert found.scopes == ["read"]
