"""Claims over time: the book that keeps their verdicts current, calibration of predictions, credit of heuristics.

The grammar of claims is in memory/claim.py; memory/statistics computes their evidence and verdicts.
"""
