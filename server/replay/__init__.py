"""Recorded trainings in place of real ones: the tables, the mark of a replay home, and what a study may ask of them.

Nothing here trains, admits or words an answer. server/executors/replay answers trials from the tables,
server/study/replayed.py says what a study in a replay home may ask for.
"""
