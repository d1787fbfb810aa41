"""Hostile files: what a trainer, a user or a failing disk can leave in a home, drawn from a seed.

files.py leaves one such file; home.py tries a home that holds it; trainer.py is a trainer that leaves them.
`python -m benchmarks.fuzz_home` and `python -m benchmarks.soak` are the commands.
"""
