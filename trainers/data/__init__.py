"""Datasets: import, split, facts, baselines and the generated demo. No torch.

It turns files into arrays (importing/), keeps them by content hash (store.py) and describes them.
"""

from trainers.data.baselines import baselines
from trainers.data.content import check_content
from trainers.data.dataset import Dataset, ImportReport, TrainingData
from trainers.data.demo import add_demo, ensure
from trainers.data.errors import NAME_PATTERN, DataError
from trainers.data.few_users import FEW_USERS, noise_of
from trainers.data.importing.add import add
from trainers.data.split import TimeSplit
from trainers.data.store import (
    find,
    find_by_hash,
    list_datasets,
    load_ids,
    load_test,
    load_training,
    load_whole,
    remove,
)

__all__ = [
    "FEW_USERS",
    "NAME_PATTERN",
    "DataError",
    "Dataset",
    "ImportReport",
    "TimeSplit",
    "TrainingData",
    "add",
    "add_demo",
    "baselines",
    "check_content",
    "ensure",
    "find",
    "find_by_hash",
    "list_datasets",
    "load_ids",
    "load_test",
    "load_training",
    "load_whole",
    "noise_of",
    "remove",
]
