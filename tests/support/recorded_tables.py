"""A folder of recorded tables for tests: SASRec on the dataset `log`, 3 of 4 configurations, the seeds 1 and 2."""

from __future__ import annotations

from pathlib import Path

import duckdb

SCORES = {(32, 0.2): 0.20, (32, 0.5): 0.10, (64, 0.2): 0.30}
"""Validation ndcg@10 with seed 1 by hidden_dim and dropout; (64, 0.5) was not recorded. Seed 2 scores 0.01 more."""
TEST_SHARE = 0.5
"""Every test score is this share of the validation score."""


def recorded_tables(folder: Path, test: bool = True) -> Path:
    """Writes the folder, with or without test.parquet, and returns it."""
    folder.mkdir(parents=True)
    lines = (f"{user} " + " ".join(str((user + step) % 9) for step in range(6)) for user in range(30))
    (folder / "log.txt").write_text("\n".join(lines))
    rows = [
        ("log", "sasrec", seed, width, dropout, score + 0.01 * (seed - 1))
        for (width, dropout), score in SCORES.items()
        for seed in (1, 2)
    ]
    trainings = ", ".join(
        f"('{dataset}', '{backbone}', {seed}, {width}, {dropout}::DOUBLE, 7, 'ok', {score}::DOUBLE, 2, 30.0::DOUBLE, "
        f"1000, [{{'epoch': 1, 'loss': 2.0, 'ndcg@10': {score / 2}}}, {{'epoch': 2, 'loss': 1.0, 'ndcg@10': {score}}}])"
        for dataset, backbone, seed, width, dropout, score in rows
    )
    write_parquet(
        folder / "trainings.parquet", trainings,
        '(dataset, backbone, seed, hidden_dim, dropout, patience, status, "ndcg@10", best_epoch, seconds, parameters, '
        "curve)",
    )  # fmt: skip
    if test:
        sealed = ", ".join(
            f"('{dataset}', '{backbone}', {seed}, {width}, {dropout}::DOUBLE, 7, {TEST_SHARE * score}::DOUBLE)"
            for dataset, backbone, seed, width, dropout, score in rows
        )
        columns = '(dataset, backbone, seed, hidden_dim, dropout, patience, "ndcg@10")'
        write_parquet(folder / "test.parquet", sealed, columns)
    return folder


def write_parquet(path: Path, rows: str, columns: str) -> None:
    """Writes rows, given as SQL values, with these columns."""
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM (VALUES {rows}) AS t {columns}) TO '{path}' (FORMAT parquet)")
