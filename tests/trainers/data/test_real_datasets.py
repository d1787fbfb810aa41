"""Real datasets, where VIRTUALMLE_TEST_DATA names them: their sizes, and the transition baseline above chance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainers.contract.metrics import filter_rule
from trainers.data import add, baselines

SIZES = {
    "Beauty.txt": (22_363, 12_101, 198_502),
    "LastFM.txt": (1_090, 3_646, 52_551),
    "Office_Products.txt": (4_905, 2_420, 53_258),
    "Tools_and_Home_Improvement.txt": (16_638, 10_217, 134_476),
    "Yelp.txt": (30_431, 20_033, 316_354),
}


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_a_real_file_has_its_known_size_and_transitions_beat_chance(name: str, tmp_path: Path) -> None:
    folder = os.environ.get("VIRTUALMLE_TEST_DATA")
    if not folder:
        pytest.skip("VIRTUALMLE_TEST_DATA names no folder of datasets")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"there is no {name} in VIRTUALMLE_TEST_DATA")
    dataset = add(tmp_path, "real", path)
    facts = dataset.facts
    assert (facts.users, facts.items, facts.interactions) == SIZES[name]
    assert dataset.report.dropped == {}
    rule = filter_rule("auto", facts)
    assert baselines(dataset.path, rule)["last_item_transition"]["recall@10"] > 3 * 10 / facts.items
