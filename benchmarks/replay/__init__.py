"""Search policies replayed on tables of finished trainings: cells, arms, the loop, the measures.

Nothing is trained here. `python -m benchmarks.replay` is the command.
"""
