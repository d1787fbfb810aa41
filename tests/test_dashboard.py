"""server.dashboard: the numbers of a study's pictures, and the picture in the chat."""

import base64
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp.types import ImageContent

from server.dashboard import figure
from server.dashboard.numbers import numbers
from tests.test_server_tools import Desk, desk

pytestmark = pytest.mark.anyio
SPACE = {"dropout": [0.1, 0.3, 0.5], "num_blocks": [1, 2, 3], "learning_rate": [0.0003, 0.001, 0.003]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def played(at: Desk, trials: int) -> str:
    study = (await at.call("start_study", dataset="demo", space=SPACE))["study_id"]
    if trials:
        await at.call("run_policy", study_id=study, policy="random", max_trials=trials)
        await at.call("get_study", study_id=study, wait_seconds=45)
    return study


async def drawn(at: Desk, study: str) -> tuple[int, int]:
    """Width and height of the PNG."""
    answer = await at.client.call_tool("plot_study", {"study_id": study})
    assert answer.structured_content is None
    image, told = answer.content
    assert isinstance(image, ImageContent)
    assert study in told.text  # type: ignore[union-attr]
    data = base64.b64decode(image.data)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("trials", [0, 1, 10])
async def test_a_study_of_any_length_is_drawn_in_one_size(tmp_path: Path, trials: int) -> None:
    async with desk(tmp_path) as at:
        assert await drawn(at, await played(at, trials)) == (990, 704)


async def test_the_numbers_are_those_of_the_books(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
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
    async with desk(tmp_path) as at:
        refusal = await at.refused("plot_study", study_id=await played(at, 0))
        assert refusal == "plot_study needs matplotlib on the server: pip install 'virtualmle[plot]'."


def test_roles_have_colours_of_their_own() -> None:
    colours: list[Any] = [colour for colour, _, _ in figure.ROLES.values()]
    assert len(set(colours)) == len(colours)
